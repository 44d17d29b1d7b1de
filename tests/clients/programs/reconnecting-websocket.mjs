/** The npm package `reconnecting-websocket`, used in Node as its README shows: reconnecting-websocket.mjs URL. */

import { onEnd, report, require, TIMEOUT_MS } from "./common.mjs";

const WS = require("ws");
const ReconnectingWebSocket = require("reconnecting-websocket");
// By default it gives up a connection that takes four seconds.
const rws = new ReconnectingWebSocket(process.argv[2], [], { WebSocket: WS, connectionTimeout: TIMEOUT_MS });

rws.addEventListener("open", () => rws.send("heartbeat"));
rws.addEventListener("message", ({ data }) => report({ message: JSON.parse(data) }));
rws.addEventListener("close", ({ code }) => report({ close: code }));
onEnd(() => rws.close(1000));
