/** The page `/status` in a browser, with a real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot, waitForPhase } from "./browser.mjs";
import {
  assertNoHorizontalScrolling, assertOnlyText, DARK, eventually, Fixture, HOSTILE, PHONE, shows,
} from "./fixture.mjs";
import { LONG_LEASE } from "./server.mjs";

const fixture = new Fixture();

const open = (options) => fixture.open("/status", options);

async function connect(page, ids) {
  await page.getByLabel("User id").fill(ids);
  await page.getByRole("button", { name: "Connect", exact: true }).click();
}

const connected = (page, names) => shows(page, '.connection[data-phase="online"] .name', names);

/** Waits until the counters have these values: established, online, offline. */
const showsCounters = (page, values) => shows(page, ".counter-value", values.map(String));

/** Type and user of the messages in the log, oldest first. */
async function messages(page) {
  const lines = await page.locator(".log-line .log-text").allTextContents();
  return lines.reverse().filter((line) => line.startsWith("{")).map((line) => {
    const { type, userId } = JSON.parse(line);
    return [type, userId];
  });
}

describe("connections", () => {
  test("are opened and closed, and another tab receives the events", async () => {
    await fixture.startServer();
    const [observer, other] = [await open(), await open()];
    await connect(observer, "1");
    await connected(observer, ["1"]);
    await connect(other, "alice");
    await showsCounters(observer, [1, 1, 0]);
    await showsCounters(other, [1, 1, 0]);
    for (const page of [observer, other]) await shows(page, "#roster .name", ["1", "alice"]);
    await other.getByRole("button", { name: "Disconnect alice" }).click();
    await showsCounters(observer, [1, 1, 1]);
    await shows(other, "#roster .name", ["1"]);
    assert.deepEqual(await messages(observer), [["CONNECTION_ESTABLISHED", 1], ["USER_ONLINE", "alice"], ["USER_OFFLINE", "alice"]]);
    assert.equal(await other.locator("#connection-text").innerText(), "Not connected");
    assert.ok(await other.evaluate(() => document.activeElement.id === "user"), "the input must have the focus");
    fixture.assertNoProblems();
  });

  test("of one page each receive the events of the others", async () => {
    await fixture.startServer();
    const page = await open();
    await connect(page, "7, 8,9 , 8");
    await connected(page, ["7", "8", "9"]);
    // Each of the three receives the events of the two others.
    await showsCounters(page, [3, 6, 0]);
    assert.equal(await page.locator("#connection-text").innerText(), "3 connected");
    await page.getByRole("button", { name: "Disconnect all" }).click();
    await shows(page, "#roster .name", []);
    assert.equal(await page.locator("#count").innerText(), "0");
    fixture.assertNoProblems();
  });

  test("end with their page", async () => {
    await fixture.startServer();
    const [observer, closing] = [await open(), await open()];
    await connect(observer, "1");
    await connect(closing, "2, 3");
    await showsCounters(observer, [1, 2, 0]);
    await closing.close();
    await showsCounters(observer, [1, 2, 2]);
    fixture.assertNoProblems();
  });

  test("with invalid ids are refused with a reason", async () => {
    await fixture.startServer();
    const page = await open();
    const problem = () => page.locator("#user-error").innerText();
    for (const [typed, expected] of [[" , ", /Enter a user id/], ["x".repeat(129), /129 bytes/],
      [Array.from({ length: 21 }, (_, index) => index).join(","), /21 connections; the limit of this page is 20/]]) {
      await connect(page, typed);
      assert.match(await problem(), expected);
    }
    assert.equal(await page.locator(".connection").count(), 0);
    await connect(page, "1");
    await connected(page, ["1"]);
    await connect(page, "1");
    assert.match(await problem(), /Already connected: 1/);
    fixture.assertNoProblems();
  });

  test("with HTML in their ids show it as text", async () => {
    await fixture.startServer();
    const [page, other] = [await open(DARK), await open(PHONE)];
    await connect(page, "1");
    for (const id of HOSTILE) await connect(other, id);
    await showsCounters(page, [1, HOSTILE.length, 0]);
    assert.deepEqual((await messages(page)).slice(1).map(([, id]) => id), HOSTILE);
    for (const one of [page, other]) {
      await assertOnlyText(one, "main");
      await assertNoHorizontalScrolling(one);
    }
    fixture.assertNoProblems();
  });
});

describe("the log", () => {
  test("keeps the last 200 messages, the counters count all", async () => {
    // No user leaves meanwhile, which would be one more message.
    await fixture.startServer({ args: LONG_LEASE });
    const page = await open();
    await connect(page, "1");
    await connected(page, ["1"]);
    await fixture.server.sendHeartbeats(Array.from({ length: 250 }, (_, index) => `user ${index}`));
    await eventually(page, () => Number(document.querySelectorAll(".counter-value")[1].textContent) >= 250, true);
    assert.equal(await page.locator(".log-line").count(), 200);
    await page.getByRole("button", { name: "Clear" }).click();
    assert.equal(await page.locator(".log-line").count(), 0);
    fixture.assertNoProblems();
  });

  test("can be paused, and counts the messages that it does not show", async () => {
    await fixture.startServer();
    const [page, other] = [await open(), await open()];
    await connect(page, "1");
    await showsCounters(page, [1, 0, 0]);
    await page.getByRole("button", { name: "Pause" }).click();
    await connect(other, "2, 3");
    await page.getByRole("button", { name: "Resume (2)" }).waitFor();
    assert.equal(await page.locator(".log-line").count(), 1);
    await page.getByRole("button", { name: "Resume (2)" }).click();
    await connect(other, "4");
    await eventually(page, () => document.querySelectorAll(".log-line").length, 2);
    fixture.assertNoProblems();
  });
});

test("after a restart of the server all users reconnect, and the log shows why they were disconnected", async () => {
  await fixture.startServer();
  const page = await open();
  await connect(page, "1, 2");
  await showsCounters(page, [2, 2, 0]);
  await fixture.server.stop("SIGTERM");
  await page.locator('.connection[data-phase="waiting"]').first().waitFor();
  await page.getByText("closed by the server: 1012").first().waitFor();
  await fixture.startServer({ port: fixture.server.port });
  await connected(page, ["1", "2"]);
  await showsCounters(page, [4, 4, 0]);
  await waitForPhase(page, "online");
  await shows(page, "#roster .name", ["1", "2"]);
  await page.locator("#notice").waitFor({ state: "hidden" });
  await screenshot(page, "status-after-restart");
  fixture.assertNoProblems({ serverWasUnreachable: true });
});

test("everything works with the keyboard alone", async () => {
  await fixture.startServer();
  const page = await open();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("5");
  await page.keyboard.press("Enter");
  await connected(page, ["5"]);
  assert.equal(await page.getByLabel("User id").inputValue(), "6", "the next number is offered");
  await page.keyboard.press("Enter");
  await connected(page, ["5", "6"]);
  for (let tabs = 0; tabs < 3; tabs += 1) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await connected(page, ["6"]);
  await page.keyboard.press("Enter");
  await connected(page, []);
  assert.equal(await page.evaluate(() => document.activeElement.id), "user");
  fixture.assertNoProblems();
});
