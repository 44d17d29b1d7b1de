/**
 * An application with the npm package `pusher`: pusher-application.mjs {"app":APP,"port":PORT,"site":PORT}. Authorizes
 * channels and users on the port `site`, and reads calls of the library as lines of JSON:
 * {"call":METHOD,"arguments":[…]}.
 */

import { createServer } from "node:http";
import { createInterface } from "node:readline";

import { report, require } from "./common.mjs";

const Pusher = require("pusher");
const { app, port, site } = JSON.parse(process.argv[2]);
const server = { host: "127.0.0.1", port, useTLS: false };
const options = { appId: app.id, key: app.key, encryptionMasterKeyBase64: app.master, ...server };
const pusher = new Pusher({ ...options, secret: app.secret });
const wrong = new Pusher({ ...options, secret: "not the secret" });

function authorize(path, form, user) {
  const socket = form.get("socket_id");
  if (path.endsWith("user-auth")) {
    const { user_id: id, ...more } = user;
    return (id === "wrong" ? wrong : pusher).authenticateUser(socket, { id, ...more });
  }
  const channel = form.get("channel_name");
  if (channel.includes("forbidden")) return null;
  const library = channel.includes("wrong") ? wrong : pusher;
  const isMember = channel.startsWith("presence-") && !user.signed_in;
  return library.authorizeChannel(socket, channel, isMember ? user : undefined);
}

createServer(async (request, response) => {
  let body = "";
  for await (const bytes of request) body += bytes;
  const user = JSON.parse(decodeURIComponent(request.headers["x-user"]));
  const answer = authorize(request.url, new URLSearchParams(body), user);
  response.writeHead(answer ? 200 : 403, { "content-type": "application/json" }).end(JSON.stringify(answer ?? {}));
}).listen(site, "127.0.0.1", () => report({ listening: true }));

const methods = {
  trigger: ([channels, event, data, socket]) => pusher.trigger(channels, event, data, socket && { socket_id: socket }),
  triggerBatch: ([batch]) => pusher.triggerBatch(batch),
  get: ([path, params]) => pusher.get({ path, params }),
  sendToUser: ([user, event, data]) => pusher.sendToUser(user, event, data),
  terminateUserConnections: ([user]) => pusher.terminateUserConnections(user),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, arguments: words } = JSON.parse(line);
  try {
    const response = await methods[call](words);
    report({ answer: await response.json() });
  } catch (error) {
    report({ failure: String(error), status: error.status ?? null });
  }
}
process.exit();
