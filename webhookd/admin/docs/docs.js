// A change that is made with the session's cookie must carry a header that no other site can send.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.headers["X-Webhookd"] = "dashboard";
    return request;
  },
});
