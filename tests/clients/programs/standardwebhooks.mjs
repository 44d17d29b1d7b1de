/**
 * The npm package `standardwebhooks`: verifies requests with each secret, and with another one in vain. Prints the types
 * of the events that are new by the version check of docs/webhooks.md.
 */

import { report, require } from "./common.mjs";

const { Webhook } = require("standardwebhooks");
const { secrets, other, check, requests } = JSON.parse(process.argv[2]);
const isNew = new Function(`${check}; return isNew;`)();
const types = [];
for (const { headers, body } of requests) {
  const verified = secrets.map((secret) => new Webhook(secret).verify(body, headers));
  let isRefused = false;
  try {
    new Webhook(other).verify(body, headers);
  } catch {
    isRefused = true;
  }
  if (!isRefused) throw new Error("another secret verifies the request");
  types.push(...verified[0].events.filter(isNew).map((event) => event.type));
}
report({ types });
