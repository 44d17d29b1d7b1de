/** The npm package `pusher`: verifies webhooks with the secret, and with another one in vain. Prints the bodies. */

import { report, require } from "./common.mjs";

const Pusher = require("pusher");
const requests = JSON.parse(process.argv[2]);
const webhook = (secret, request) =>
  new Pusher({ appId: "1", key: "key", secret, host: "127.0.0.1" }).webhook(request);
report(
  requests.map((request) => {
    if (webhook("another", request).isValid()) throw new Error("another secret verifies the request");
    const verified = webhook("secret", request);
    if (!verified.isValid()) throw new Error("the request is not valid");
    return { events: verified.getEvents(), time: verified.getTime() };
  }),
);
