/** The page at `/chat` in a real browser, against the real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { phase, screenshot, stale } from "./harness.mjs";
import { assertNothingSticksOut, assertOnlyText, eventually, HOSTILE, PHONE, Scene, shows, SMALL_PHONE } from "./scene.mjs";
import { HASTY, LONG_GRACE } from "./server.mjs";

const scene = new Scene();
const SAID = "#log .said";
const HERE = "#roster .name";

async function join(name, options) {
  const page = await scene.open(`/chat?user=${encodeURIComponent(name)}`, options);
  await phase(page, "online");
  return page;
}

async function say(page, text) {
  await page.locator("#text").fill(text);
  await page.keyboard.press("Enter");
}

/**
 * Waits until these join and leave lines, and no others, are there, but for those of `me`: who is present through both of the
 * page's connections may be in the room before the chat begins.
 */
const showsEvents = (page, me, expected) => eventually(page, (me) => [...document.querySelectorAll("#log .event")]
  .filter((line) => line.querySelector("bdi").textContent !== me).map((line) => line.textContent.replace(/ ·.*/, "")), expected, me);

describe("the conversation", () => {
  test("three people see who is here and what is said, each their own on their own side", async () => {
    await scene.start();
    const alice = await join("alice");
    await shows(alice, HERE, ["alice"]);
    const bob = await join("bob");
    const carol = await join("carol");
    for (const page of [alice, bob, carol]) await shows(page, HERE, ["alice", "bob", "carol"]);
    await say(alice, "hello");
    await say(bob, "hi alice");
    for (const page of [alice, bob, carol]) await shows(page, SAID, ["hello", "hi alice"]);
    assert.deepEqual(await alice.locator("#log .mine .said").allTextContents(), ["hello"]);
    assert.deepEqual(await bob.locator("#log .mine .said").allTextContents(), ["hi alice"]);
    assert.equal(await carol.locator("#log .mine").count(), 0);
    assert.equal(await alice.locator("#count").innerText(), "3");
    await carol.close();
    await shows(alice, HERE, ["alice", "bob"]);
    await showsEvents(alice, "alice", ["bob joined", "carol joined", "carol left"]);
    scene.assertNoProblems();
  });

  test("a newcomer reads what was said before", async () => {
    await scene.start();
    const alice = await join("alice");
    await say(alice, "first");
    await say(alice, "second\nline");
    await shows(alice, SAID, ["first", "second\nline"]);
    const bob = await join("bob");
    await shows(bob, SAID, ["first", "second\nline"]);
    await say(bob, "third");
    for (const page of [alice, bob]) await shows(page, SAID, ["first", "second\nline", "third"]);
    assert.equal(await alice.locator("#log .more-of-it").count(), 1, "the second of the same person has no head of its own");
    scene.assertNoProblems();
  });

  test("a reload shows nobody anything, and tells the history once", async () => {
    await scene.start({ args: LONG_GRACE });
    const observer = await join("observer");
    const alice = await join("alice");
    await say(alice, "still here");
    await shows(observer, SAID, ["still here"]);
    await alice.reload();
    await phase(alice, "online");
    await shows(alice, SAID, ["still here"]);
    await scene.server.graceIsOver();
    // Who comes after all that is seen after it.
    await join("bob");
    await shows(observer, HERE, ["alice", "bob", "observer"]);
    await showsEvents(observer, "observer", ["alice joined", "bob joined"]);
    scene.assertNoProblems();
  });

  test("what strangers write is text, whatever is in it", async () => {
    await scene.start();
    const reader = await join("reader");
    for (const name of HOSTILE) {
      const page = await join(name);
      await say(page, name);
    }
    await shows(reader, SAID, HOSTILE);
    await shows(reader, HERE, await reader.locator(HERE).allTextContents());
    assert.deepEqual((await reader.locator(HERE).allTextContents()).sort(), [...HOSTILE, "reader"].sort());
    await assertOnlyText(reader, "#log");
    await assertOnlyText(reader, "#roster");
    scene.assertNoProblems();
  });

  test("long words wrap, on a phone too", async () => {
    await scene.start();
    const alice = await join("x".repeat(128));
    const bob = await join("bob", SMALL_PHONE);
    await say(alice, `https://example.com/${"y".repeat(2_000)}`);
    await bob.locator(SAID).waitFor();
    await assertNothingSticksOut(bob);
    const [needed, there] = await bob.locator("#log").evaluate((node) => [node.scrollWidth, node.clientWidth]);
    assert.ok(needed <= there, `the messages are ${needed} px wide in ${there}`);
    await screenshot(bob, "chat-small-phone");
    scene.assertNoProblems();
  });

  test("who reads further up is not torn away", async () => {
    await scene.start();
    const alice = await join("alice");
    const bob = await join("bob", PHONE);
    for (let line = 0; line < 8; line += 1) await say(alice, `line ${line}\n\n\n\n`.trimEnd() + `\n\n\n\nend of ${line}`);
    await bob.getByText("end of 7").waitFor();
    const atEnd = () => bob.locator("#log").evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight < 2);
    assert.ok(await atEnd());
    await bob.locator("#log").evaluate((node) => (node.scrollTop = 0));
    await bob.locator("#newest").waitFor({ state: "hidden" });
    await say(alice, "news");
    await bob.getByRole("button", { name: /New messages/ }).waitFor();
    assert.equal(await bob.locator("#log").evaluate((node) => node.scrollTop), 0);
    await bob.getByRole("button", { name: /New messages/ }).click();
    assert.ok(await atEnd());
    assert.ok(await bob.locator("#newest").isHidden());
    scene.assertNoProblems();
  });
});

describe("when something is wrong", () => {
  test("a server that restarts: comes back by itself, keeps what was said and says no line twice", async () => {
    await scene.start({ args: HASTY });
    const alice = await join("alice");
    const bob = await join("bob");
    await say(alice, "before");
    await shows(bob, SAID, ["before"]);
    await scene.server.stop("SIGTERM");
    await Promise.all([stale(alice), stale(bob)]);
    await alice.locator("#text").fill("kept");
    await alice.keyboard.press("Enter");
    assert.match(await alice.locator("#text-error").innerText(), /Not connected/);
    assert.equal(await alice.locator("#text").inputValue(), "kept");
    await scene.start({ args: HASTY, port: scene.server.port });
    for (const page of [alice, bob]) await phase(page, "online");
    for (const page of [alice, bob]) await shows(page, HERE, ["alice", "bob"]);
    await alice.locator("#text").press("Enter");
    for (const page of [alice, bob]) await shows(page, SAID, ["before", "kept"]);
    assert.ok(await alice.locator("#notice").isHidden());
    scene.assertNoProblems({ serverWasAway: true });
  });

  test("a connection that breaks: the history comes again and is not shown twice", async () => {
    await scene.start();
    const visitor = await scene.visitor();
    let line = null;
    await visitor.context.routeWebSocket(/\/ws$/, (socket) => {
      line = socket;
      socket.connectToServer();
    });
    const page = await visitor.open(scene.server, "", { path: "/chat?user=alice", online: false });
    await phase(page, "online");
    for (const text of ["one", "two", "two"]) await say(page, text);
    await shows(page, SAID, ["one", "two", "two"]);
    await line.close({ code: 4001 });
    await stale(page);
    await phase(page, "online");
    await say(page, "three");
    await shows(page, SAID, ["one", "two", "two", "three"]);
    scene.assertNoProblems();
  });

  test("what is too long or too fast is refused in words, and not lost", async () => {
    await scene.start();
    const page = await join("alice");
    await page.locator("#text").fill("ä".repeat(2_049));
    await page.keyboard.press("Enter");
    assert.match(await page.locator("#text-error").innerText(), /4,098 bytes/);
    // All at once: a slow machine would not reach eleven in a second.
    await page.evaluate(() => {
      for (let count = 0; count < 11; count += 1) {
        document.querySelector("#text").value = `message ${count}`;
        document.querySelector("#composer").requestSubmit();
      }
    });
    await page.getByText("Not so fast").waitFor();
    assert.equal(await page.locator("#text").inputValue(), "message 10");
    await say(page, "   ");
    await page.locator(SAID).nth(9).waitFor();
    assert.equal(await page.locator(SAID).count(), 10);
    scene.assertNoProblems();
  });

  test("a server that hangs is noticed, though the connection stays open", async () => {
    await scene.start();
    const visitor = await scene.visitor();
    const page = await visitor.context.newPage();
    await page.clock.install();
    await page.goto(`${scene.server.url}/chat?user=alice`);
    await phase(page, "online");
    scene.server.signal("SIGSTOP");
    await page.clock.runFor(26_000);
    await page.getByRole("heading", { name: "The connection went silent" }).waitFor();
    scene.server.signal("SIGCONT");
    await page.clock.resume();
    await phase(page, "online");
    await say(page, "back");
    await shows(page, SAID, ["back"]);
  });
});

test("a name is asked for where there is none, and then the next thing is to write", async () => {
  await scene.start();
  const page = await scene.open("/chat");
  await page.getByLabel("Your name").fill("dora");
  await page.keyboard.press("Enter");
  await phase(page, "online");
  await shows(page, HERE, ["dora"]);
  await eventually(page, () => document.activeElement.id, "text");
  scene.assertNoProblems();
});

test("the keyboard alone is enough", async () => {
  await scene.start();
  const page = await join("alice");
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to your message");
  await page.keyboard.press("Enter");
  await page.keyboard.type("typed");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("in two lines");
  await page.keyboard.press("Enter");
  await shows(page, SAID, ["typed\nin two lines"]);
  await page.keyboard.press("Shift+Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "log", "the messages can be scrolled with the keyboard");
  scene.assertNoProblems();
});
