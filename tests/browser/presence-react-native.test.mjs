/** presence.js where browsers' globals are missing or limited, as in React Native and on servers. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { DEADLINE_MS, packages, root, Server } from "./server.mjs";

const run = promisify(execFile);
const MODULE = pathToFileURL(join(root, "src/web/client/presence.js"));
/** What React Native has not, of what Node has. */
const MISSING = ["document", "location", "addEventListener", "Event", "EventTarget", "MessageChannel", "structuredClone"];
/** As in React Native: it adds a slash, knows only the whole text, and fails for everything else. */
const URL_OF_REACT_NATIVE = `class {
  #text;
  constructor(text) { this.#text = String(text).replace(/([^/])$/, "$1/"); }
  get href() { return this.#text; }
  get protocol() { throw new Error("not implemented"); }
  get pathname() { throw new Error("not implemented"); }
  get searchParams() { throw new Error("not implemented"); }
}`;

let server;
before(async () => (server = await Server.start()));
after(() => server.stop());

/** Runs a program in a Node of its own, without the globals. */
function runWithout(globals, program) {
  const text = `
    const { WebSocket } = await import(${JSON.stringify(pathToFileURL(join(packages, "node_modules/ws/wrapper.mjs")))});
    for (const name of ${JSON.stringify(globals)}) delete globalThis[name];
    const { connect } = await import("${MODULE}");
    ${program}`;
  return run("node", ["--input-type=module", "-e", text], { timeout: DEADLINE_MS });
}

for (const [what, path] of [["a path", "/v1/connect"], ["no path", ""]]) {
  test(`joins and leaves a room in React Native, with ${what} in the URL`, async () => {
    const { stdout } = await runWithout(MISSING, `
      globalThis.URL = ${URL_OF_REACT_NATIVE};
      globalThis.WebSocket = WebSocket;
      const presence = connect("${server.url}${path}", { user: "phone 1", away: true });
      const room = presence.join("phones", { state: { battery: 80 } });
      room.on("change", () => {
        console.log(JSON.stringify(room.snapshot().members));
        presence.close();
      });`);
    assert.equal(stdout, '[{"user":"phone 1","state":{"battery":80}}]\n');
  });
}

test("without a WebSocket, the error says which one to pass", async () => {
  const { stdout } = await runWithout(["WebSocket"], `
    try {
      connect("${server.url}", { user: "alice" });
    } catch (error) {
      console.log(error.name, error.message);
    }`);
  assert.equal(stdout, "TypeError no WebSocket: pass the class of npm's ws\n");
});
