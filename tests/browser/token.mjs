/** Tokens (HS256) of an application, as it would sign them. */

import { createHmac } from "node:crypto";

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

export const seconds = () => Math.floor(Date.now() / 1000);

export function sign(claims, secret) {
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ iat: seconds(), ...claims })}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}
