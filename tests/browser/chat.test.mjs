/** The page `/chat` in a browser, with a real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { pauseClock, screenshot, waitForPhase, waitForStale } from "./browser.mjs";
import {
  assertNoHorizontalScrolling, assertOnlyText, eventually, Fixture, HOSTILE, PHONE, shows, SMALL_PHONE,
} from "./fixture.mjs";
import { LONG_GRACE, LONG_LEASE, SHORT_TIMES, until } from "./server.mjs";

const fixture = new Fixture();
const TEXTS = "#log .message-text";
const PARTICIPANTS = "#roster .name";

async function join(name, options) {
  const page = await fixture.open(`/chat?user=${encodeURIComponent(name)}`, options);
  await waitForPhase(page, "online");
  return page;
}

async function write(page, text) {
  await page.locator("#text").fill(text);
  await page.keyboard.press("Enter");
}

/**
 * Waits until exactly these joins and leaves of other users are shown. A user's own join is not always shown: with
 * presence.js the user can be in the room before the chat connection is open.
 */
function showsEvents(page, me, expected) {
  const events = (me) => [...document.querySelectorAll("#log .event")]
    .filter((line) => line.querySelector("bdi").textContent !== me)
    .map((line) => line.textContent.replace(/ ·.*/, ""));
  return eventually(page, events, expected, me);
}

/**
 * A page that is online, with a clock that the test moves; then the server hangs while the connection stays open.
 * With a running clock, the page would say something else after ten seconds.
 */
async function pageOfHangingServer() {
  await fixture.startServer();
  const visitor = await fixture.newVisitor();
  const page = await visitor.context.newPage();
  await page.clock.install();
  await page.goto(`${fixture.server.url}/chat?user=alice`);
  await waitForPhase(page, "online");
  fixture.server.signal("SIGSTOP");
  await pauseClock(page);
  return page;
}

describe("the conversation", () => {
  test("three users see each other and all messages, and their own messages on their own side", async () => {
    await fixture.startServer();
    const alice = await join("alice");
    await shows(alice, PARTICIPANTS, ["alice"]);
    const bob = await join("bob");
    const carol = await join("carol");
    for (const page of [alice, bob, carol]) await shows(page, PARTICIPANTS, ["alice", "bob", "carol"]);
    await write(alice, "hello");
    await shows(bob, TEXTS, ["hello"]);
    await write(bob, "hi alice");
    for (const page of [alice, bob, carol]) await shows(page, TEXTS, ["hello", "hi alice"]);
    assert.deepEqual(await alice.locator("#log .mine .message-text").allTextContents(), ["hello"]);
    assert.deepEqual(await bob.locator("#log .mine .message-text").allTextContents(), ["hi alice"]);
    assert.equal(await carol.locator("#log .mine").count(), 0);
    assert.equal(await alice.locator("#count").innerText(), "3");
    await carol.close();
    await shows(alice, PARTICIPANTS, ["alice", "bob"]);
    await showsEvents(alice, "alice", ["bob joined", "carol joined", "carol left"]);
    fixture.assertNoProblems();
  });

  test("a newcomer sees the messages sent before", async () => {
    await fixture.startServer();
    const alice = await join("alice");
    await write(alice, "first");
    await write(alice, "second\nline");
    await shows(alice, TEXTS, ["first", "second\nline"]);
    const bob = await join("bob");
    await shows(bob, TEXTS, ["first", "second\nline"]);
    await write(bob, "third");
    for (const page of [alice, bob]) await shows(page, TEXTS, ["first", "second\nline", "third"]);
    assert.equal(await alice.locator("#log .continued").count(), 1, "the second message of a user must be shown under the same name");
    fixture.assertNoProblems();
  });

  test("a reload is invisible to others and shows the history once", async () => {
    await fixture.startServer({ args: LONG_GRACE });
    const observer = await join("observer");
    const alice = await join("alice");
    await write(alice, "still here");
    await shows(observer, TEXTS, ["still here"]);
    await alice.reload();
    await waitForPhase(alice, "online");
    await shows(alice, TEXTS, ["still here"]);
    await fixture.server.waitForGraceToEnd();
    // When the page shows bob, it has shown everything before his join.
    await join("bob");
    await shows(observer, PARTICIPANTS, ["alice", "bob", "observer"]);
    await showsEvents(observer, "observer", ["alice joined", "bob joined"]);
    fixture.assertNoProblems();
  });

  test("names and messages with HTML are shown as text", async () => {
    await fixture.startServer();
    const reader = await join("reader");
    for (const name of HOSTILE) {
      const page = await join(name);
      await write(page, name);
    }
    await shows(reader, TEXTS, HOSTILE);
    await shows(reader, PARTICIPANTS, await reader.locator(PARTICIPANTS).allTextContents());
    assert.deepEqual((await reader.locator(PARTICIPANTS).allTextContents()).sort(), [...HOSTILE, "reader"].sort());
    await assertOnlyText(reader, "#log");
    await assertOnlyText(reader, "#roster");
    fixture.assertNoProblems();
  });

  test("many joins and leaves in a row are one line", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const alice = await join("alice");
    for (const name of ["one", "two"]) await fixture.server.sendHeartbeats([name]);
    await showsEvents(alice, "alice", ["one joined", "two joined"]);
    await fixture.server.sendHeartbeats(Array.from({ length: 60 }, (_, index) => `guest ${index}`));
    await eventually(alice, () => document.querySelectorAll("#log .event").length, 1);
    // alice's own join is not always shown.
    await eventually(alice, () => /^6[23] people joined · /.test(document.querySelector("#log .summary")?.textContent), true);
    const guest = await join("a guest");
    await guest.close();
    await eventually(alice, () => /^6[34] people joined, 1 person left · /.test(document.querySelector("#log .summary").textContent), true);
    await write(alice, "hello");
    await shows(alice, TEXTS, ["hello"]);
    await join("bob");
    await eventually(alice, () => [...document.querySelectorAll("#log .event:not(.summary) bdi")].map((name) => name.textContent), ["bob"]);
    fixture.assertNoProblems();
  });

  test("long words wrap on a phone", async () => {
    await fixture.startServer();
    const alice = await join("x".repeat(128));
    const bob = await join("bob", SMALL_PHONE);
    await write(alice, `https://example.com/${"y".repeat(2_000)}`);
    await bob.locator(TEXTS).waitFor();
    await assertNoHorizontalScrolling(bob);
    const [needed, available] = await bob.locator("#log").evaluate((node) => [node.scrollWidth, node.clientWidth]);
    assert.ok(needed <= available, `the messages are ${needed} px wide, the log is ${available} px wide`);
    await screenshot(bob, "chat-small-phone");
    fixture.assertNoProblems();
  });

  test("a new message does not scroll the log while the user reads older ones", async () => {
    await fixture.startServer();
    const alice = await join("alice");
    const bob = await join("bob", PHONE);
    for (let line = 0; line < 8; line += 1) await write(alice, `line ${line}\n\n\n\n`.trimEnd() + `\n\n\n\nend of ${line}`);
    await bob.getByText("end of 7").waitFor();
    const atEnd = () => bob.locator("#log").evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight < 2);
    assert.ok(await atEnd());
    await bob.locator("#log").evaluate((node) => (node.scrollTop = 0));
    await bob.locator("#newest").waitFor({ state: "hidden" });
    await write(alice, "news");
    await bob.getByRole("button", { name: /New messages/ }).waitFor();
    assert.equal(await bob.locator("#log").evaluate((node) => node.scrollTop), 0);
    await bob.getByRole("button", { name: /New messages/ }).click();
    assert.ok(await atEnd());
    assert.ok(await bob.locator("#newest").isHidden());
    fixture.assertNoProblems();
  });
});

describe("problems", () => {
  test("after a restart of the server the page reconnects, keeps its messages and repeats none", async () => {
    await fixture.startServer({ args: SHORT_TIMES });
    const alice = await join("alice");
    const bob = await join("bob");
    await write(alice, "before");
    await shows(bob, TEXTS, ["before"]);
    await fixture.server.stop("SIGTERM");
    await Promise.all([waitForStale(alice), waitForStale(bob)]);
    await alice.locator("#text").fill("kept");
    await alice.keyboard.press("Enter");
    assert.match(await alice.locator("#text-error").innerText(), /Not connected/);
    assert.equal(await alice.locator("#text").inputValue(), "kept");
    await fixture.startServer({ args: SHORT_TIMES, port: fixture.server.port });
    for (const page of [alice, bob]) await waitForPhase(page, "online");
    for (const page of [alice, bob]) await shows(page, PARTICIPANTS, ["alice", "bob"]);
    await alice.locator("#text").press("Enter");
    for (const page of [alice, bob]) await shows(page, TEXTS, ["before", "kept"]);
    await alice.locator("#notice").waitFor({ state: "hidden" });
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });

  test("after a lost connection the history is not shown twice", async () => {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    let connection = null;
    let reachable = Promise.resolve();
    await visitor.context.routeWebSocket(/\/ws$/, async (socket) => {
      await reachable;
      connection = socket;
      socket.connectToServer();
    });
    const page = await visitor.open(fixture.server, "", { path: "/chat?user=alice", online: false });
    await waitForPhase(page, "online");
    for (const text of ["one", "two", "two"]) await write(page, text);
    await shows(page, TEXTS, ["one", "two", "two"]);
    let restore;
    reachable = new Promise((done) => (restore = done));
    await connection.close({ code: 4001 });
    await waitForStale(page);
    restore();
    await waitForPhase(page, "online");
    await write(page, "three");
    await shows(page, TEXTS, ["one", "two", "two", "three"]);
    fixture.assertNoProblems();
  });

  test("messages that are too long or too fast are refused with a reason and stay in the input", async () => {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    const answers = [];
    visitor.context.on("page", (opened) => opened.on("websocket", (socket) => {
      const isChat = socket.url().endsWith("/ws");
      if (isChat) socket.on("framereceived", ({ payload }) => answers.push(JSON.parse(payload).type));
    }));
    const page = await visitor.open(fixture.server, "", { path: "/chat?user=alice" });
    await page.locator("#text").fill("ä".repeat(2_049));
    await page.keyboard.press("Enter");
    assert.match(await page.locator("#text-error").innerText(), /4,098 bytes/);
    // Sent by a script: on a slow machine, typing eleven messages takes more than a second. The server counts ten per
    // second of its clock, and these may reach it in several.
    await page.evaluate(() => {
      for (let count = 0; count < 60; count += 1) {
        document.querySelector("#text").value = `message ${count}`;
        document.querySelector("#composer").requestSubmit();
      }
    });
    await page.getByText("Too fast: your message was not sent.").waitFor();
    assert.equal(await page.locator("#text").inputValue(), "message 59");
    const count = (type) => answers.filter((answer) => answer === type).length;
    await until(() => `60 answers: ${answers}`, () => count("msg") + count("error") === 60);
    assert.ok(count("msg") >= 10, `${count("msg")} messages were accepted`);
    await write(page, "   ");
    await eventually(page, (css) => document.querySelectorAll(css).length, count("msg"), TEXTS);
    fixture.assertNoProblems();
  });

  test("a server that hangs is detected although the connection stays open", async () => {
    const page = await pageOfHangingServer();
    await until("the page shows that the connection is silent", async () => {
      await page.clock.runFor(1_000);
      return page.getByRole("heading", { name: "The connection went silent" }).isVisible();
    });
    fixture.server.signal("SIGCONT");
    await page.clock.resume();
    await waitForPhase(page, "online");
    await write(page, "back");
    await shows(page, TEXTS, ["back"]);
  });
});

test("a page that resumes checks its connection at once", async () => {
  const page = await pageOfHangingServer();
  await page.evaluate(() => document.dispatchEvent(new Event("resume")) && null);
  await page.clock.runFor(6_000);
  await page.getByRole("heading", { name: "The connection went silent" }).waitFor();
  fixture.server.signal("SIGCONT");
  await page.clock.resume();
  await waitForPhase(page, "online");
});

test("the page asks for a name, then focuses the message input", async () => {
  await fixture.startServer();
  const page = await fixture.open("/chat");
  await page.getByLabel("Your name").fill("dora");
  await page.keyboard.press("Enter");
  await waitForPhase(page, "online");
  await shows(page, PARTICIPANTS, ["dora"]);
  await eventually(page, () => document.activeElement.id, "text");
  fixture.assertNoProblems();
});

test("everything works with the keyboard alone", async () => {
  await fixture.startServer();
  const page = await join("alice");
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to your message");
  await page.keyboard.press("Enter");
  await eventually(page, () => document.activeElement.id, "text");
  await page.keyboard.type("typed");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("in two lines");
  await page.keyboard.press("Enter");
  await shows(page, TEXTS, ["typed\nin two lines"]);
  await page.keyboard.press("Shift+Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "log", "the log must be focusable, so that the keyboard can scroll it");
  fixture.assertNoProblems();
});
