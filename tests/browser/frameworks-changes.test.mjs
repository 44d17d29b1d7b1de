/** The bindings for React, Vue and Svelte in Chromium: users and rooms that change, components that come and go. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { Browser } from "./browser.mjs";
import { shows } from "./fixture.mjs";
import { serve, showsMembers, Workshop } from "./frameworks/build.mjs";
import { LONG_GRACE, requirePackage, Server, until } from "./server.mjs";

const { WebSocket } = requirePackage("ws");
const SCRIPTS = { react: "changes.jsx", vue: "changes.js", svelte: "changes.js" };

let browser, server, site, workshop;
const folders = {};

before(async () => {
  workshop = new Workshop();
  [browser, server] = await Promise.all([Browser.start(), Server.start({ args: LONG_GRACE }), workshop.prepare()]);
  const url = server.url.replace("http", "ws");
  for (const [name, script] of Object.entries(SCRIPTS)) folders[name] = await workshop.page(name, url, { script });
  site = await serve(folders);
});
after(async () => {
  await browser?.stop();
  await server?.stop();
  site?.close();
  workshop?.remove();
});

for (const name of Object.keys(SCRIPTS)) {
  describe(name, () => {
    let visitor, page, other;
    const [one, two] = ["one", "two"].map((room) => `${name} ${room}`);
    const change = (changes) => page.evaluate((changes) => window.change(changes), changes);
    /** What the server says about a room. */
    const has = (room, expected) => until(`${room} has ${expected}`, async () => {
      const { members } = await server.membersOf(room);
      return JSON.stringify(members.map(({ user, state }) => [user, state])) === JSON.stringify(expected);
    });

    before(async () => {
      visitor = await browser.newVisitor();
      page = await visitor.open(site, "", { path: `/${name}/`, online: false });
      other = connect(server.url, { user: "other", WebSocket });
    });
    after(async () => {
      other.close();
      assert.deepEqual(visitor.problems(), []);
      await visitor.close();
    });

    test("a room that is not known yet is none; one that changes is left for the next", async () => {
      await change({ join: { at: 1 }, list: true });
      await change({ room: one });
      await has(one, [["alice", { at: 1 }]]);
      await shows(page, "#members li", ["alice"]);
      await change({ room: two });
      await has(two, [["alice", { at: 1 }]]);
      await has(one, []);
      await change({ join: { at: 2 } });
      await has(two, [["alice", { at: 2 }]]);
    });

    test("a component that no longer joins leaves the room, and another one still shows it", async () => {
      await change({ join: false });
      await has(two, []);
      await shows(page, "#members li", []);
      other.join(two);
      await shows(page, "#members li", ["other"]);
    });

    test("messages and the count need no list of the members", async () => {
      await change({ list: false, messages: true, count: true });
      await shows(page, "#count", ["1"]);
      assert.equal(other.join(two).send("hello"), true);
      await shows(page, "#messages li", ["hello"]);
    });

    test("a user who changes has another connection, and one who is gone has none", async () => {
      await change({ join: { at: 3 }, list: true, user: "bob" });
      await has(two, [["bob", { at: 3 }], ["other", null]]);
      await showsMembers(page, ["bob", "other"]);
      await change({ user: null });
      await has(two, [["other", null]]);
    });
  });
}
