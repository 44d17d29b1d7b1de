/** The page at `/status` in a real browser, against the real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { phase, screenshot } from "./harness.mjs";
import { assertNothingSticksOut, assertOnlyText, DARK, eventually, HOSTILE, PHONE, Scene, shows } from "./scene.mjs";

const scene = new Scene();

const open = (options) => scene.open("/status", options);

async function connect(page, ids) {
  await page.getByLabel("User id").fill(ids);
  await page.getByRole("button", { name: "Connect", exact: true }).click();
}

const connected = (page, names) => shows(page, '.connection[data-phase="online"] .name', names);

/** Waits for the counters: established, online, offline. */
const counted = (page, numbers) => shows(page, ".counter-value", numbers.map(String));

/** The messages of the log, oldest first, without what differs from run to run. */
async function messages(page) {
  const lines = await page.locator(".wire-line .wire-text").allTextContents();
  return lines.reverse().filter((line) => line.startsWith("{")).map((line) => {
    const { type, userId } = JSON.parse(line);
    return [type, userId];
  });
}

describe("users by hand", () => {
  test("one is connected and disconnected, and another tab reads of it", async () => {
    await scene.start();
    const [watcher, other] = [await open(), await open()];
    await connect(watcher, "1");
    await connected(watcher, ["1"]);
    await connect(other, "alice");
    await counted(watcher, [1, 1, 0]);
    await counted(other, [1, 1, 0]);
    for (const page of [watcher, other]) await shows(page, "#roster .name", ["1", "alice"]);
    await other.getByRole("button", { name: "Disconnect alice" }).click();
    await counted(watcher, [1, 1, 1]);
    await shows(other, "#roster .name", ["1"]);
    assert.deepEqual(await messages(watcher), [["CONNECTION_ESTABLISHED", 1], ["USER_ONLINE", "alice"], ["USER_OFFLINE", "alice"]]);
    assert.equal(await other.locator("#connection-text").innerText(), "Not connected");
    assert.ok(await other.evaluate(() => document.activeElement.id === "user"), "the keyboard is where one goes on");
    scene.assertNoProblems();
  });

  test("several in one page, each told of the others", async () => {
    await scene.start();
    const page = await open();
    await connect(page, "7, 8,9 , 8");
    await connected(page, ["7", "8", "9"]);
    // Each of the three is told of the two others.
    await counted(page, [3, 6, 0]);
    assert.equal(await page.locator("#connection-text").innerText(), "3 connected");
    await page.getByRole("button", { name: "Disconnect all" }).click();
    await shows(page, "#roster .name", []);
    assert.equal(await page.locator("#count").innerText(), "0");
    scene.assertNoProblems();
  });

  test("the page goes: its users are offline, and a third tab sees it", async () => {
    await scene.start();
    const [watcher, goes] = [await open(), await open()];
    await connect(watcher, "1");
    await connect(goes, "2, 3");
    await counted(watcher, [1, 2, 0]);
    await goes.close();
    await counted(watcher, [1, 2, 2]);
    scene.assertNoProblems();
  });

  test("what cannot be is said", async () => {
    await scene.start();
    const page = await open();
    const problem = () => page.locator("#user-error").innerText();
    for (const [typed, expected] of [[" , ", /type a user id/], ["x".repeat(129), /129 bytes/],
      [Array.from({ length: 21 }, (_, index) => index).join(","), /20 connections at most/]]) {
      await connect(page, typed);
      assert.match(await problem(), expected);
    }
    assert.equal(await page.locator(".connection").count(), 0);
    await connect(page, "1");
    await connected(page, ["1"]);
    await connect(page, "1");
    assert.match(await problem(), /connected already/);
    scene.assertNoProblems();
  });

  test("ids are text, whatever is in them", async () => {
    await scene.start();
    const [page, other] = [await open(DARK), await open(PHONE)];
    await connect(page, "1");
    for (const id of HOSTILE) await connect(other, id);
    await counted(page, [1, HOSTILE.length, 0]);
    assert.deepEqual((await messages(page)).slice(1).map(([, id]) => id), HOSTILE);
    for (const one of [page, other]) {
      await assertOnlyText(one, "main");
      await assertNothingSticksOut(one);
    }
    scene.assertNoProblems();
  });
});

describe("the log", () => {
  test("is bounded, the counters are not", async () => {
    await scene.start();
    const page = await open();
    await connect(page, "1");
    await connected(page, ["1"]);
    await scene.server.beat(Array.from({ length: 250 }, (_, index) => `user ${index}`));
    await eventually(page, () => Number(document.querySelectorAll(".counter-value")[1].textContent) >= 250, true);
    assert.equal(await page.locator(".wire-line").count(), 200);
    await page.getByRole("button", { name: "Clear" }).click();
    assert.equal(await page.locator(".wire-line").count(), 0);
    scene.assertNoProblems();
  });

  test("can be paused, and counts what it did not show", async () => {
    await scene.start();
    const [page, other] = [await open(), await open()];
    await connect(page, "1");
    await connected(page, ["1"]);
    await page.getByRole("button", { name: "Pause" }).click();
    await connect(other, "2, 3");
    await page.getByRole("button", { name: "Go on (2)" }).waitFor();
    assert.equal(await page.locator(".wire-line").count(), 1);
    await page.getByRole("button", { name: "Go on (2)" }).click();
    await connect(other, "4");
    await eventually(page, () => document.querySelectorAll(".wire-line").length, 2);
    scene.assertNoProblems();
  });
});

test("a server that restarts: everybody comes back, and the log tells how it was", async () => {
  await scene.start();
  const page = await open();
  await connect(page, "1, 2");
  await counted(page, [2, 2, 0]);
  await scene.server.stop("SIGTERM");
  await page.locator('.connection[data-phase="waiting"]').first().waitFor();
  await page.getByText("closed by the server: 1012").first().waitFor();
  await scene.start({ port: scene.server.port });
  await connected(page, ["1", "2"]);
  await counted(page, [4, 4, 0]);
  await phase(page, "online");
  await shows(page, "#roster .name", ["1", "2"]);
  assert.ok(await page.locator("#notice").isHidden());
  await screenshot(page, "status-after-restart");
  scene.assertNoProblems({ serverWasAway: true });
});

test("the keyboard alone is enough", async () => {
  await scene.start();
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
  scene.assertNoProblems();
});
