// A receiver for Authorize.Net that knows nothing of webhookd: HMAC-SHA512 over the body, with the account's Signature Key.
import { createHmac, timingSafeEqual } from "node:crypto";
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = Buffer.concat(parts);
    const expected = Buffer.from("sha512=" + createHmac("sha512", process.env.SIGNATURE_KEY).update(body).digest("hex").toUpperCase());
    const given = Buffer.from(String(request.headers["x-anet-signature"]));
    const authentic = expected.length === given.length && timingSafeEqual(expected, given);
    if (authentic) appendFileSync(process.env.BOOK, JSON.parse(body).notificationId + "\n");
    response.writeHead(authentic ? 200 : 401).end();
  });
}).listen(Number(process.env.PORT), "127.0.0.1");
