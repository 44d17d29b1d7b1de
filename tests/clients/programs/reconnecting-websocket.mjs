/** The npm package `reconnecting-websocket`, used in Node as its README shows: reconnecting-websocket.mjs URL. */

import { onEnd, report, require } from "./common.mjs";

const WS = require("ws");
const ReconnectingWebSocket = require("reconnecting-websocket");
const rws = new ReconnectingWebSocket(process.argv[2], [], { WebSocket: WS });

rws.addEventListener("open", () => rws.send("heartbeat"));
rws.addEventListener("message", ({ data }) => report({ message: JSON.parse(data) }));
rws.addEventListener("close", ({ code }) => report({ close: code }));
onEnd(() => rws.close(1000));
