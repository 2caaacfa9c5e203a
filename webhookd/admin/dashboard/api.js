// The only module that calls the admin API.

import { sentence } from "./format.js";

const TIMEOUT = 20;

/** The person who is signed in; `role` is "look" or "operate". */
export const session = { name: null, role: null };

/** An answer that is not a success, or no answer at all (status 0). The message says what to do. */
export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    super(sentence(problem.detail) || problem.title || `The daemon answered with status ${status}.`);
    this.status = status;
    this.errors = Array.isArray(problem.errors) ? problem.errors : [];
    this.retryAfter = retryAfter;
  }
}

/** Returns whether a request ended with this error because the person left its view. */
export function isLeft(error) {
  return error?.name === "AbortError";
}

export function mayOperate() {
  return session.role === "operate";
}

export async function get(path, query, signal) {
  return request("GET", path + queryText(query), undefined, signal);
}

export async function post(path, body, signal) {
  return request("POST", path, body, signal);
}

export async function signIn(token) {
  return keep(await request("POST", "/session", { token }));
}

export async function whoAmI() {
  return keep(await request("GET", "/session"));
}

export async function signOut() {
  await request("DELETE", "/session");
  keep({ name: null, role: null });
}

function keep({ name, role }) {
  return Object.assign(session, { name, role });
}

/** Returns "?a=1&b=2&b=3" without empty parameters; lists repeat their name. */
export function queryText(query) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const item of [value].flat()) {
      if (item !== null && item !== undefined && item !== "") params.append(name, item);
    }
  }
  const text = params.toString();
  return text && `?${text}`;
}

async function request(method, path, body, signal) {
  const headers = { Accept: "application/json" };
  // A change needs this header beside the cookie: a form of another site cannot send the header.
  if (method !== "GET") headers["X-Webhookd"] = "dashboard";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await answer(
    path,
    {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
    },
    signal,
  );
  if (response.status === 204) return null;
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  if (response.status === 401 && path !== "/session") window.dispatchEvent(new Event("signed-out"));
  throw new ApiError(response.status, content, Number(response.headers.get("Retry-After")) || null);
}

async function answer(path, options, signal) {
  const limit = AbortSignal.timeout(TIMEOUT * 1000);
  try {
    return await fetch(path, { ...options, signal: signal ? AbortSignal.any([signal, limit]) : limit });
  } catch (error) {
    if (signal?.aborted) throw error;
    const slow = error.name === "TimeoutError";
    throw new ApiError(0, {
      detail: slow
        ? `The daemon did not answer within ${TIMEOUT} seconds.`
        : "The daemon does not answer. It may be restarting, or the network may be down.",
    });
  }
}
