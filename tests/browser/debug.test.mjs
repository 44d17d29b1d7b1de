/** The page `/debug` in a browser, with a real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot, waitForPhase } from "./browser.mjs";
import { assertNoHorizontalScrolling, assertOnlyText, DARK, eventually, Fixture, HOSTILE, PHONE, shows } from "./fixture.mjs";
import { DEFAULT_TIMES, LONG_LEASE } from "./server.mjs";

const fixture = new Fixture();
const SHOWN = ".frame:not([hidden]) .frame-text";

const open = (options) => fixture.open("/debug", options);
const click = (page, name) => page.getByRole("button", { name, exact: true }).click();

async function connect(page, protocol) {
  if (protocol) await page.getByLabel("Protocol", { exact: true }).selectOption(protocol);
  await click(page, "Connect");
}

async function send(page, template) {
  if (template) await page.getByLabel("Template").selectOption(template);
  await click(page, "Send");
}

/** Waits for a frame of the server that contains the text. */
const receives = (page, text) => page.locator(".frame-in .frame-text", { hasText: text }).first().waitFor();

describe("each protocol connects, and its templates are understood:", () => {
  const PUSHER_ARGS = [...DEFAULT_TIMES, "--pages", "all", "--pusher-app", "7:app-key:secret-of-the-tests"];
  const cases = {
    "native": ["welcome", ["Join", "snapshot"], ["Message", "hello"], ["Watch", '"online":true'], ["Heartbeat with an answer", "heartbeat_ack"]],
    "online-users": ["", ["Heartbeat", "heartbeat_ack"]],
    "online-status": ["CONNECTION_ESTABLISHED"],
    "chat": ["", ["Join", '"type":"join"'], ["Message", "Hello everyone"], ["Ping", "pong"]],
    "pusher": ["connection_established", ["Subscribe", "subscription_succeeded"], ["Ping", "pusher:pong"]],
  };
  for (const [protocol, [first, ...sent]] of Object.entries(cases)) {
    test(protocol, async () => {
      await fixture.startServer({ args: protocol === "pusher" ? PUSHER_ARGS : DEFAULT_TIMES });
      const page = await open();
      await connect(page, protocol);
      await waitForPhase(page, "online");
      if (first) await receives(page, first);
      for (const [template, answer] of sent) {
        await send(page, template);
        await receives(page, answer);
      }
      await click(page, "Disconnect");
      await page.locator(".frame-event", { hasText: "Closed with 1000" }).waitFor();
      assert.equal(await page.locator("#connection-text").innerText(), "Offline");
      fixture.assertNoProblems();
    });
  }
});

describe("frames", () => {
  test("have a time and a size, and are shown as JSON on demand", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    await connect(page);
    await receives(page, "welcome");
    const line = page.locator(".frame-in").first();
    assert.match(await line.locator("time").innerText(), /^\d\d:\d\d:\d\d[.,]\d{3}$/);
    assert.match(await line.locator(".frame-size").innerText(), /^\d+ B$/);
    await line.locator("summary").click();
    const shown = await line.locator("pre").innerText();
    assert.equal(JSON.parse(shown).type, "welcome");
    assert.match(shown, /\n {2}"protocol": "presence.v1"/);
    await screenshot(page, "debug-opened");
    await click(page, "Copy frame");
    await eventually(page, async () => JSON.parse((await navigator.clipboard.readText()) || "{}").type, "welcome");
    fixture.assertNoProblems();
  });

  test("are filtered, without heartbeats, copied as shown, and cleared", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    // No frame is sent meanwhile.
    await page.getByLabel("Send a heartbeat every 5 s").uncheck();
    await connect(page);
    await receives(page, "welcome");
    await send(page, "Heartbeat with an answer");
    await receives(page, "heartbeat_ack");
    await page.getByLabel("Hide heartbeats").check();
    assert.equal(await page.locator(SHOWN, { hasText: "heartbeat_ack" }).count(), 0);
    await page.getByLabel("Show only frames with this text").fill("WELCOME");
    await eventually(page, (css) => document.querySelectorAll(css).length, 1, SHOWN);
    assert.match(await page.locator("#frames-count").innerText(), /^1 of \d+$/);
    await click(page, "Copy");
    await eventually(page, async () => (await navigator.clipboard.readText()).split("\n").length, 1);
    await page.getByLabel("Show only frames with this text").fill("nothing has this text");
    await page.getByText("No frame matches.").waitFor();
    await click(page, "Clear");
    await shows(page, ".frame", []);
    fixture.assertNoProblems();
  });

  test("are bounded", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const page = await open();
    await connect(page, "chat");
    await waitForPhase(page, "online");
    await page.getByLabel("Template").selectOption("Join");
    await page.evaluate(() => {
      for (let number = 0; number < 600; number += 1) document.querySelector("#send-form").requestSubmit();
    });
    await eventually(page, () => document.querySelectorAll(".frame").length, 500);
    await shows(page, "#frames-count", ["500"]);
  });

  test("of other users are text", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const page = await open();
    await connect(page);
    await send(page, "Join");
    for (const text of HOSTILE) {
      await page.locator("#text").fill(JSON.stringify({ type: "message", room: "lobby", data: text }));
      await page.keyboard.press("Control+Enter");
    }
    await eventually(page, () => [...document.querySelectorAll(".frame-in .frame-text")]
      .filter((node) => node.textContent.includes('"type":"message"')).length, HOSTILE.length);
    for (const line of await page.locator(".frame-in summary").all()) await line.click();
    await assertOnlyText(page, "#frames");
    fixture.assertNoProblems();
  });
});

test("a token is sent as a subprotocol and stays in memory", async () => {
  await fixture.startServer({ args: [...LONG_LEASE, "--pages", "all", "--jwt-secret", "the secret of the application in these tests"] });
  const page = await open();
  const token = "not.a.token-that-the-server-accepts";
  await page.getByLabel("Token").fill(token);
  assert.equal(await page.getByLabel("Token").getAttribute("type"), "password");
  await connect(page);
  await page.locator(".frame-event", { hasText: "Closed with 1008" }).waitFor();
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, location.href, document.cookie]));
  assert.ok(!kept.includes(token) && !(await page.locator("body").innerText()).includes(token), kept);
  await page.reload();
  assert.equal(await page.getByLabel("Token").inputValue(), "");
  await page.getByLabel("Token").fill("no token (");
  await connect(page);
  await page.getByText("This is not a token").waitFor();
  fixture.assertNoProblems();
});

test("a server that is away, and a frame without a connection, are reported", async () => {
  await fixture.startServer();
  const page = await open();
  await click(page, "Send");
  await page.getByText("There is no connection.").waitFor();
  await fixture.server.stop("SIGKILL");
  await connect(page);
  await page.locator(".frame-event", { hasText: "Closed without a close frame (1006)" }).waitFor();
  await page.getByRole("button", { name: "Connect", exact: true }).waitFor();
});

test("it works on a phone", async () => {
  await fixture.startServer({ args: LONG_LEASE });
  for (const [name, options] of Object.entries({ phone: PHONE, dark: { ...PHONE, ...DARK } })) {
    const page = await open(options);
    await connect(page);
    await send(page, "Join");
    await receives(page, "snapshot");
    await page.locator(".frame-in summary").first().click();
    await assertNoHorizontalScrolling(page);
    await page.locator("#frames").scrollIntoViewIfNeeded();
    await screenshot(page, `debug-${name}`);
    await page.close();
  }
  fixture.assertNoProblems();
});
