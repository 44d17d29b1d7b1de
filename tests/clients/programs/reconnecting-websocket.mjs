/** The npm package `reconnecting-websocket` as its README uses it outside of a browser: reconnecting-websocket.mjs URL. */

import { onEnd, require, say } from "./say.mjs";

const WS = require("ws");
const ReconnectingWebSocket = require("reconnecting-websocket");
const rws = new ReconnectingWebSocket(process.argv[2], [], { WebSocket: WS });

rws.addEventListener("open", () => rws.send("heartbeat"));
rws.addEventListener("message", ({ data }) => say({ message: JSON.parse(data) }));
rws.addEventListener("close", ({ code }) => say({ close: code }));
onEnd(() => rws.close(1000));
