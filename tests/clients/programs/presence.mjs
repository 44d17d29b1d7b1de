/** presence.js in Node, in the room lobby: presence.mjs SERVER TOKEN. Reports the members at each change. */

import { connect } from "../../../src/web/client/presence.js";
import { onEnd, report, require } from "./common.mjs";

const { WebSocket } = require("ws");
const [server, token] = process.argv.slice(2);
const client = connect(server, { token, WebSocket });
const room = client.join("lobby");
room.on("change", () => report({ members: [...room.members.keys()].sort() }));
client.on("error", ({ message }) => report({ error: message }));
onEnd(() => client.close());
