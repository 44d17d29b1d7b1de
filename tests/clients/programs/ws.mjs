/** The npm client `ws` as its README uses it: ws.mjs URL. */

import { onEnd, require, say } from "./say.mjs";

const WebSocket = require("ws");
const ws = new WebSocket(process.argv[2]);

ws.on("open", () => ws.send("heartbeat"));
ws.on("message", (data) => say({ message: JSON.parse(data) }));
ws.on("ping", () => say({ ping: true }));
ws.on("error", (error) => say({ error: error.message }));
ws.on("close", (code, reason) => say({ close: code, reason: String(reason) }));
onEnd(() => ws.close(1000));
