/** Stock pusher-js and laravel-echo in a browser, and an application with the stock library `pusher`. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { eventually, Fixture } from "./fixture.mjs";
import { DEFAULT_TIMES, LONG_GRACE, packages, requirePackage } from "./server.mjs";

const Pusher = requirePackage("pusher");
const fixture = new Fixture();
const APP = { appId: "1", key: "app-key", secret: "app-secret" };
const FLAGS = ["--pusher-app", "1:app-key:app-secret,client-messages"];
const SUCCEEDED = "pusher:subscription_succeeded";

const library = (path) => readFileSync(join(packages, "node_modules", path));
const FILES = {
  "/pusher.js": library("pusher-js/dist/web/pusher-with-encryption.js"),
  "/echo.js": library("laravel-echo/dist/echo.iife.js"),
};

/** The page of the application. `seen` is what reaches its bindings, in order. */
const page = (port) => `<!doctype html><meta charset="utf-8"><title>Shop</title><link rel="icon" href="data:,">
  <script src="/pusher.js"></script><script src="/echo.js"></script>
  <script>
    const query = new URLSearchParams(location.search);
    const seen = [];
    const see = (event) => (data) => seen.push([event, data]);
    const headers = { "X-User": query.get("user") };
    const options = { cluster: "", wsHost: "127.0.0.1", wsPort: ${port}, forceTLS: false,
      enabledTransports: ["ws", "wss"], authEndpoint: "/auth", auth: { headers } };
    if (query.has("echo")) {
      window.echo = new Echo.default({ broadcaster: query.get("echo"), key: "${APP.key}", ...options });
      window.room = echo.join("room");
      room.here(see("here")).joining(see("joining")).leaving(see("leaving")).error(see("error"));
      room.listenForWhisper("typing", see("typing")).listen(".news", see("news"));
    } else {
      window.pusher = new Pusher("${APP.key}", options);
      window.room = pusher.subscribe("presence-room");
      room.bind_global((event, data) => {
        const names = event === "${SUCCEEDED}" ? Object.keys(data.members) : data.id ?? data;
        seen.push([event.replace("pusher:", ""), names]);
      });
      pusher.subscribe("private-encrypted-news").bind("item", see("item"));
    }
  </script>`;

let site;
const application = () => new Pusher({
  ...APP, host: "127.0.0.1", port: fixture.server.port, useTLS: false,
  encryptionMasterKeyBase64: Buffer.alloc(32, 7).toString("base64"),
});

before(async () => {
  site = createServer(async (request, response) => {
    const path = new URL(request.url, "http://site").pathname;
    if (FILES[path]) return response.writeHead(200, { "content-type": "text/javascript" }).end(FILES[path]);
    if (path !== "/auth") {
      return response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page(fixture.server.port));
    }
    let form = "";
    for await (const bytes of request) form += bytes;
    const { socket_id: socket, channel_name: channel } = Object.fromEntries(new URLSearchParams(form));
    const name = request.headers["x-user"];
    const member = channel.startsWith("presence-") ? { user_id: name, user_info: { name } } : undefined;
    return response.end(JSON.stringify(application().authorizeChannel(socket, channel, member)));
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
});
after(() => site.close());

const start = (times) => fixture.startServer({ args: [...FLAGS, ...times] });

/** Opens the application's page as a user; in another tab of the same browser if there is a visitor. */
async function visit(user, { echo, visitor } = {}) {
  const query = new URLSearchParams({ user, ...(echo && { echo }) });
  const opened = visitor ?? (await fixture.newVisitor());
  const url = `http://localhost:${site.address().port}`;
  return opened.open({ url }, "", { path: `/?${query}`, online: false });
}

const sees = (tab, expected) => eventually(tab, () => seen, expected);

for (const echo of ["pusher", "reverb"]) {
  test(`laravel-echo with the broadcaster ${echo}: here, joining, leaving and whispers`, async () => {
    await start(DEFAULT_TIMES);
    const ann = await visit("ann", { echo });
    await sees(ann, [["here", [{ name: "ann" }]]]);
    const bob = await visit("bob", { echo });
    await sees(bob, [["here", [{ name: "ann" }, { name: "bob" }]]]);
    const before = [["here", [{ name: "ann" }]], ["joining", { name: "bob" }]];
    await sees(ann, before);
    await bob.evaluate(() => room.whisper("typing", { text: "hi" }));
    await sees(ann, [...before, ["typing", { text: "hi" }]]);
    await application().trigger("presence-room", "news", { text: "all" });
    await sees(bob, [["here", [{ name: "ann" }, { name: "bob" }]], ["news", { text: "all" }]]);
    await bob.evaluate(() => echo.leave("room"));
    await sees(ann, [...before, ["typing", { text: "hi" }], ["news", { text: "all" }], ["leaving", { name: "bob" }]]);
    fixture.assertNoProblems();
  });
}

describe("pusher-js", () => {
  const alone = ["subscription_succeeded", ["ann"]];
  const both = ["subscription_succeeded", ["ann", "bob"]];

  test("here, joining, leaving, client events and encrypted events", async () => {
    await start(DEFAULT_TIMES);
    const ann = await visit("ann");
    await sees(ann, [alone]);
    const bob = await visit("bob");
    await sees(bob, [both]);
    const before = [alone, ["member_added", "bob"]];
    await sees(ann, before);
    await bob.evaluate(() => room.trigger("client-typing", { text: "hi" }));
    before.push(["client-typing", { text: "hi" }]);
    await sees(ann, before);
    await eventually(ann, () => pusher.channel("private-encrypted-news").subscribed, true);
    await application().trigger("private-encrypted-news", "item", { text: "secret" });
    before.push(["item", { text: "secret" }]);
    await sees(ann, before);
    await bob.evaluate(() => pusher.disconnect());
    await sees(ann, [...before, ["member_removed", "bob"]]);
    fixture.assertNoProblems();
  });

  test("two tabs of a user are one member, who leaves after the grace period of the last one", async () => {
    await start(DEFAULT_TIMES);
    const ann = await visit("ann");
    await sees(ann, [alone]);
    const visitor = await fixture.newVisitor();
    const tabs = [await visit("bob", { visitor }), await visit("bob", { visitor })];
    for (const tab of tabs) await sees(tab, [both]);
    const carol = await visit("carol");
    const before = [alone, ["member_added", "bob"], ["member_added", "carol"]];
    await sees(ann, before);
    await tabs[0].close();
    // Carol's grace period begins later and ends while Bob is still there.
    await carol.close();
    await sees(ann, [...before, ["member_removed", "carol"]]);
    await tabs[1].close();
    await sees(ann, [...before, ["member_removed", "carol"], ["member_removed", "bob"]]);
    fixture.assertNoProblems();
  });

  test("a reload is invisible to others", async () => {
    await start(LONG_GRACE);
    const ann = await visit("ann");
    await sees(ann, [alone]);
    const bob = await visit("bob");
    for (let reloads = 0; reloads < 3; reloads += 1) {
      await sees(bob, [both]);
      await bob.reload();
    }
    await sees(bob, [both]);
    // A later event of the same channel shows that there was nothing before it.
    await visit("carol");
    await sees(ann, [alone, ["member_added", "bob"], ["member_added", "carol"]]);
    fixture.assertNoProblems();
  });

  test("pages return by themselves when the server restarts", async () => {
    await start(LONG_GRACE);
    const pages = [await visit("ann"), await visit("bob"), await visit("carol", { echo: "pusher" })];
    await sees(pages[0], [alone, ["member_added", "bob"], ["member_added", "carol"]]);
    await fixture.restartServer({ args: [...FLAGS, ...LONG_GRACE] });
    const members = () => {
      const client = window.pusher ?? echo.connector.pusher;
      return Object.keys(client.channel("presence-room").members.members).sort();
    };
    const rosters = () => seen.filter(([event]) => ["subscription_succeeded", "here"].includes(event)).length;
    for (const each of pages) await eventually(each, rosters, 2);
    for (const each of pages) await eventually(each, members, ["ann", "bob", "carol"]);
    for (const each of pages) {
      const events = await each.evaluate(() => seen.map(([event]) => event));
      assert.deepEqual(events.filter((event) => ["member_removed", "leaving"].includes(event)), []);
    }
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });
});
