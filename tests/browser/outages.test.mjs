/** What the pages say while the node has no contact with the other nodes, and to users who were taken offline. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot, waitForPhase } from "./browser.mjs";
import { assertNoHorizontalScrolling, eventually, Fixture, PHONE, shows } from "./fixture.mjs";
import { Redis } from "./redis.mjs";
import { DEFAULT_TIMES, until } from "./server.mjs";

const fixture = new Fixture();
const TOKEN = "a token for tests only";

/** The page that each user opens, and how it names the users. */
const PAGES = { "/": "#roster > .row:not(.leaving) .name", "/chat": "#roster .name" };
/** Pages that only watch, and how they show that they are connected. */
const OBSERVING = ["/status", "/login"];

describe("while Redis is unreachable", () => {
  for (const [path, names] of Object.entries(PAGES)) {
    test(`${path} says since when the list may be incomplete`, async (context) => {
      const redis = await Redis.start();
      context.after(() => redis.stop());
      await fixture.startServer({ args: [...DEFAULT_TIMES, "--redis", redis.url] });
      const page = await fixture.open(`${path}?user=alice`, PHONE);
      await waitForPhase(page, "online");
      await shows(page, names, ["alice"]);
      const degraded = () => page.locator("#degraded").innerText();
      assert.equal(await degraded(), "");
      await redis.kill();
      await page.locator('body[data-degraded="true"]').waitFor();
      assert.match(await degraded(), /^as of \d\d?:\d\d( [AP]M)?; other nodes unreachable$/);
      assert.doesNotMatch(await page.locator("main").innerText(), /right now/);
      await assertNoHorizontalScrolling(page);
      await screenshot(page, `degraded-${path === "/" ? "online" : "chat"}`);
      // A newcomer is told, too.
      const other = await fixture.open(`${path}?user=bob`);
      await other.locator('body[data-degraded="true"]').waitFor();
      await redis.run();
      for (const one of [page, other]) await one.locator('body[data-degraded="false"]').waitFor();
      assert.equal(await degraded(), "");
      fixture.assertNoProblems();
    });
  }
});

test("pages that only watch say since when their list may be incomplete", async (context) => {
  const redis = await Redis.start();
  context.after(() => redis.stop());
  await fixture.startServer({ args: [...DEFAULT_TIMES, "--dev-login", "--redis", redis.url] });
  const pages = [];
  for (const path of OBSERVING) pages.push(await fixture.open(path));
  for (const page of pages) await page.locator('body[data-stale="false"]').waitFor();
  await redis.kill();
  for (const page of pages) {
    await page.locator('body[data-degraded="true"]').waitFor();
    assert.match(await page.locator("#degraded").innerText(), /^as of .*; other nodes unreachable$/);
  }
  await redis.run();
  for (const page of pages) await page.locator('body[data-degraded="false"]').waitFor();
  fixture.assertNoProblems();
});

describe("a kicked user", () => {
  for (const path of [...Object.keys(PAGES), "/login"]) {
    test(`sees on ${path} what happened, with no button that undoes it`, async () => {
      await fixture.startServer({ args: [...DEFAULT_TIMES, "--api-key", TOKEN, ...(path === "/login" ? ["--dev-login"] : [])] });
      const page = await fixture.open(`${path}?user=alice`);
      await waitForPhase(page, "online");
      if (path === "/login") {
        await page.getByRole("textbox", { name: "Your name" }).fill("alice");
        await page.getByRole("button", { name: "Sign in" }).click();
        await page.getByRole("button", { name: "Sign out" }).waitFor();
      }
      // A page can be online before it is known to be in the room, and then the kick would come too early.
      await shows(page, PAGES[path] ?? '.person[data-online="true"] .name', ["alice"]);
      const url = `${fixture.server.url}/v1/users/alice/kick`;
      await fetch(url, { method: "POST", headers: { authorization: `Bearer ${TOKEN}` } });
      await page.getByRole("heading", { name: "You were removed" }).waitFor();
      assert.equal(await page.getByRole("button", { name: "Try now" }).count(), 0);
      await waitForPhase(page, "refused");
      await screenshot(page, `kicked-${path.slice(1)}`);
      await until("the room is empty", async () => (await fixture.server.membersOf("lobby")).count === 0);
      fixture.assertNoProblems();
    });
  }
});

test("a user who closes the tab has left, and has not timed out", async () => {
  await fixture.startServer();
  const page = await fixture.open("/?user=alice");
  await waitForPhase(page, "online");
  const other = await fixture.open("/?user=bob");
  await waitForPhase(other, "online");
  await shows(page, PAGES["/"], ["alice", "bob"]);
  await other.close();
  await eventually(page, () => document.querySelector("#activity li.left")?.textContent.replace(/\d.*|now/, ""), "bobleft");
  fixture.assertNoProblems();
});
