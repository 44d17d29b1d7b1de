/** The npm package `ws`, used as its README shows: ws.mjs URL. */

import { onEnd, report, require } from "./common.mjs";

const WebSocket = require("ws");
const ws = new WebSocket(process.argv[2]);

ws.on("open", () => ws.send("heartbeat"));
ws.on("message", (data) => report({ message: JSON.parse(data) }));
ws.on("ping", () => report({ ping: true }));
ws.on("error", (error) => report({ error: error.message }));
ws.on("close", (code, reason) => report({ close: code, reason: String(reason) }));
onEnd(() => ws.close(1000));
