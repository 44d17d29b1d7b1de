/** presence.js and embed.js on pages of another site. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { eventually } from "../fixture.mjs";
import { DEFAULT_TIMES, LONG_GRACE, until } from "../server.mjs";
import { TcpProxy } from "../tcp-proxy.mjs";
import { seconds, sign } from "../token.mjs";
import { members, phase, reconnectSoon, seen } from "./suite.mjs";

/** No user leaves during an outage, even on a machine that is very busy. */
const PATIENT = ["--ttl", "4m", "--grace", "4m", "--tick", "50ms"];
const SECRET = "the secret of the application of these tests";
/** Why the browser did not take the page from its back/forward cache. Evaluated in the page. */
const notRestored = () => {
  const { notRestoredReasons } = performance.getEntriesByType("navigation")[0];
  return notRestoredReasons?.reasons.map(({ reason }) => reason) ?? null;
};
/** The reason that browsers give instead of their own reasons. */
const BY_BROWSER = "masked";
/** The texts of a selector inside the shadow roots of the page. Evaluated in the page. */
const inside = (css) => [...document.querySelectorAll("div")]
  .flatMap((node) => [...(node.shadowRoot?.querySelectorAll(css) ?? [])]).map((node) => node.textContent);

export function clientScenarios(suite) {
  test("users of two tabs see each other, their states and messages", async () => {
    await suite.startServer(DEFAULT_TIMES);
    const [alice, bob] = [await suite.openApp({ user: "alice" }), await suite.openApp({ user: "bob" })];
    for (const tab of [alice, bob]) await eventually(tab, members, ["alice", "bob"]);
    await alice.evaluate(() => window.room.setState({ mood: "fine" }));
    await eventually(bob, () => window.room.members.get("alice"), { mood: "fine" });
    await bob.evaluate(() => window.room.send("hello"));
    await eventually(alice, () => window.seen.at(-1), "bob: hello");
    suite.assertNoProblems();
  });

  test("a reload and a second tab are invisible to others", async () => {
    await suite.startServer(LONG_GRACE);
    const events = await suite.observe("room");
    const tab = await suite.openApp({ user: "alice" });
    await eventually(tab, phase, "online");
    for (let times = 0; times < 3; times += 1) {
      await tab.reload();
      await eventually(tab, phase, "online");
    }
    const second = await suite.openApp({ user: "alice" });
    await eventually(second, phase, "online");
    await second.close();
    assert.deepEqual(await suite.settled(events, "room"), [["join", "alice"]]);
    suite.assertNoProblems();
  });

  test("a user whose last tab is closed leaves after the grace period", async () => {
    await suite.startServer(DEFAULT_TIMES);
    const events = await suite.observe("room");
    const tabs = [await suite.openApp({ user: "alice" }), await suite.openApp({ user: "alice" })];
    for (const tab of tabs) await eventually(tab, phase, "online");
    await tabs[0].close();
    await suite.server.waitForGraceToEnd();
    assert.deepEqual(await suite.settled(events, "room"), [["join", "alice"]]);
    await tabs[1].close();
    await until(() => `alice has left: ${JSON.stringify(events)}`, () => events.some(([event]) => event === "leave"));
    // Not `closed`: that would be a leave at once, also after each reload.
    assert.deepEqual(events.find(([event]) => event === "leave"), ["leave", "alice", "timeout"]);
    suite.assertNoProblems();
  });

  test("a user who goes to another page leaves, and joins again with the Back button", async () => {
    await suite.startServer(DEFAULT_TIMES);
    suite.pages["/other"] = "<!doctype html><title>other</title><link rel='icon' href='data:,'>";
    const events = await suite.observe("room");
    const tab = await suite.openApp({ user: "alice" });
    await eventually(tab, phase, "online");
    await tab.evaluate(reconnectSoon);
    await tab.goto(`${suite.site.url}/other`);
    await until(() => `alice has left: ${JSON.stringify(events)}`, () => events.length === 2);
    await tab.back();
    await eventually(tab, phase, "online");
    await eventually(tab, members, ["alice"]);
    const expected = [["join", "alice"], ["leave", "alice", "timeout"], ["join", "alice"]];
    assert.deepEqual(await suite.settled(events, "room"), expected);
    const seenLast = (await tab.evaluate(seen)).slice(-4).sort();
    if (suite.engine.restoresPages && seenLast.includes("restored")) {
      // From the cache, the page connects without a wait.
      assert.deepEqual(seenLast, ["connecting", "online", "restored", "waiting hidden"]);
    } else {
      assert.deepEqual(seenLast, ["online"]);
      // A busy browser may give up a cached page, but not because of its connection.
      if (suite.engine.restoresPages) assert.deepEqual(await tab.evaluate(notRestored), [BY_BROWSER]);
    }
    suite.assertNoProblems();
  });

  test("after a restart of the server, a page is online again", async () => {
    // Not SHORT_TIMES: a page that gives the server up while it has no CPU would report another cause.
    await suite.startServer(DEFAULT_TIMES);
    const [alice, bob] = [await suite.openApp({ user: "alice" }), await suite.openApp({ user: "bob" })];
    for (const tab of [alice, bob]) await eventually(tab, members, ["alice", "bob"]);
    await suite.server.stop("SIGTERM");
    await suite.startAgain(DEFAULT_TIMES);
    for (const tab of [alice, bob]) {
      await eventually(tab, () => window.seen.filter((what) => /waiting|online/.test(what)).slice(0, 2),
        ["online", `waiting ${suite.engine.causeOfRestart}`]);
      await eventually(tab, phase, "online");
      await eventually(tab, members, ["alice", "bob"]);
    }
    suite.assertNoProblems({ networkErrors: true });
  });

  test("a page that loses the network says so, and is back without a leave", async () => {
    await suite.startServer(PATIENT);
    suite.proxy = await TcpProxy.start(suite.server.port);
    const events = await suite.observe("room");
    const tab = await suite.openApp({ user: "alice", url: suite.proxy.url });
    await eventually(tab, members, ["alice"]);
    suite.proxy.cut();
    const losses = () => ["waiting cut", "waiting unreachable"].filter((what) => window.seen.includes(what));
    await eventually(tab, losses, ["waiting cut", "waiting unreachable"]);
    assert.deepEqual(await tab.evaluate(members), ["alice"]);
    suite.proxy.resume();
    await eventually(tab, phase, "online");
    assert.deepEqual(await suite.settled(events, "room"), [["join", "alice"]]);
    suite.assertNoProblems({ networkErrors: true });
  });

  test("a page whose network is silent notices it when it is told to be offline", async () => {
    await suite.startServer(PATIENT);
    suite.proxy = await TcpProxy.start(suite.server.port);
    const events = await suite.observe("room");
    const tab = await suite.openApp({ user: "alice", url: suite.proxy.url });
    await eventually(tab, members, ["alice"]);
    suite.proxy.silence();
    await tab.evaluate(() => dispatchEvent(new Event("offline")) && null);
    await eventually(tab, () => window.seen.includes("waiting silent"), true);
    suite.proxy.resume();
    await tab.evaluate(() => dispatchEvent(new Event("online")) && null);
    await eventually(tab, phase, "online");
    assert.deepEqual(await suite.settled(events, "room"), [["join", "alice"]]);
    suite.assertNoProblems({ networkErrors: true });
  });

  test("a page renews its token, again and again, on the same connection", async () => {
    await suite.startServer([...LONG_GRACE, "--jwt-secret", SECRET, "--jwt-leeway", "300s"]);
    let tokens = 0;
    suite.pages["/token"] = (request, response) => {
      const user = new URL(request.url, "http://site").searchParams.get("user");
      tokens += 1;
      response.end(sign({ sub: user, exp: seconds() + 4, jti: String(tokens) }, SECRET));
    };
    const tab = await suite.openApp({ token: "alice" });
    await eventually(tab, members, ["alice"]);
    await until(() => `${tokens} tokens`, () => tokens >= 3);
    assert.deepEqual(await tab.evaluate(seen), ["online"]);
    assert.equal(await tab.evaluate(() => window.presence.user), "alice");
    suite.assertNoProblems();
  });

  test("closing a connection before it is open logs no error", async () => {
    await suite.startServer(DEFAULT_TIMES);
    const tab = await suite.openApp({ user: "alice" });
    await eventually(tab, phase, "online");
    await tab.evaluate(async (url) => {
      const { connect } = await import(`${url}/presence.js`);
      for (let times = 0; times < 5; times += 1) connect(url, { user: "hasty" }).close();
      const presence = connect(url, { user: "settled" });
      await new Promise((done) => presence.on("open", done));
    }, suite.server.url);
    suite.assertNoProblems();
  });

  test("embed.js shows the users and a chat", async () => {
    await suite.startServer(DEFAULT_TIMES);
    for (const user of ["alice", "bob"]) {
      suite.pages[`/${user}`] = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Shop</title>
        <link rel="icon" href="data:,"><h1>A shop</h1>
        <script type="module" src="${suite.server.url}/embed.js" data-user="${user}" data-chat></script></html>`;
    }
    const alice = await suite.open(`${suite.site.url}/alice`);
    const bob = await suite.open(`${suite.site.url}/bob`);
    for (const tab of [alice, bob]) await eventually(tab, inside, ["alice", "bob"], ".name");
    await alice.evaluate(() => document.querySelector("div").shadowRoot.querySelector("input").focus());
    await alice.type("Hello Bob");
    await alice.press("Enter");
    for (const tab of [alice, bob]) await eventually(tab, inside, ["Hello Bob"], ".message-text");
    await bob.screenshot(`${suite.engine.name}-embed`);
    await bob.close();
    await eventually(alice, inside, ["alice"], "li .name");
    suite.assertNoProblems();
  });
}
