/** The page `/dashboard` in a browser, with a real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot, waitForPhase } from "./browser.mjs";
import { DARK, eventually, Fixture, PHONE } from "./fixture.mjs";
import { Redis } from "./redis.mjs";
import { LONG_LEASE, until } from "./server.mjs";

const fixture = new Fixture();

async function open(options) {
  const page = await fixture.open("/dashboard", options);
  await waitForPhase(page, "online");
  return page;
}

/** The value shown in the chart with this title. Evaluated in the page. */
const valueOf = (title) => [...document.querySelectorAll(".chart")]
  .find((chart) => chart.querySelector("h3").textContent === title)?.querySelector(".chart-value").textContent;

const usersIn = async (room) => (await fixture.server.membersOf(room)).count;

describe("a server that requires a key", () => {
  /** A server that shows its counters with the key `sesame` only. The page is at `origin`. Returns the keys it received. */
  async function openWithKey(origin) {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    const keys = [];
    await visitor.context.route(`${origin}/**`, async (route) => {
      const url = route.request().url().replace(origin, fixture.server.url);
      const { authorization } = await route.request().allHeaders();
      if (!url.endsWith("/v1/stats")) return route.fulfill({ response: await route.fetch({ url }) });
      keys.push(authorization);
      const status = authorization ? 403 : 401;
      if (authorization !== "Bearer sesame") return route.fulfill({ status, json: { error: "unauthorized" } });
      await route.fulfill({ response: await route.fetch({ url }) });
    });
    const page = await visitor.open({ url: origin }, "", { path: "/dashboard", online: false });
    const field = page.getByLabel("A key of this server");
    await field.waitFor();
    return { page, keys, field };
  }

  test("is asked with the key that was typed, which is in the memory of the page only", async () => {
    const { page, keys, field } = await openWithKey("http://localhost:1");
    for (const key of ["guessed", "sesame"]) {
      await field.fill(key);
      await page.keyboard.press("Enter");
      if (key === "guessed") await page.getByText("does not accept this key").waitFor();
    }
    await waitForPhase(page, "online");
    await eventually(page, valueOf, "0", "Users online");
    assert.equal(await field.isVisible(), false);
    // The page asks again, with the same key, if the answer takes too long.
    const different = keys.filter((key, at) => at === 0 || key !== keys[at - 1]);
    assert.deepEqual(different, [undefined, "Bearer guessed", "Bearer sesame"]);
    const withoutKey = () => keys.filter((key) => !key).length;
    const before = withoutKey();
    const stored = () => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href, document.getElementById("key").value]);
    assert.doesNotMatch(await page.evaluate(stored), /sesame|guessed/);
    await page.reload();
    await field.waitFor();
    // The form is shown after an answer to a request without a key.
    assert.ok(withoutKey() > before);
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });

  test("is not sent a key without TLS from another machine", async () => {
    const { page, keys, field } = await openWithKey("http://rollcall.example");
    assert.equal(await field.isDisabled(), true);
    await page.getByText("Open this page with https://").waitFor();
    await page.evaluate(() => {
      document.getElementById("key").value = "sesame";
      document.getElementById("key-form").requestSubmit();
    });
    assert.deepEqual(keys.filter(Boolean), []);
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });
});

describe("the charts", () => {
  test("follow the counters of the server, with a text alternative", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const page = await open();
    await eventually(page, valueOf, "0", "Users online");
    await fixture.server.sendHeartbeats(["a", "b", "c"]);
    await eventually(page, valueOf, "3", "Users online");
    await eventually(page, valueOf, "0", "Connections");
    const label = await page.getByRole("img", { name: /^Users online/ }).getAttribute("aria-label");
    assert.match(label, /now 3, lowest 0, highest 3/);
    for (const title of ["CPU", "Memory", "Tick duration, mean"]) {
      assert.match(await page.evaluate(valueOf, title), /^[\d.,]+ (%|MB|ms)$/);
    }
    assert.equal(await page.locator(".chart path.chart-line[d*=NaN], .chart path.chart-area[d*=Infinity]").count(), 0);
    assert.match(await page.locator("#store-text").innerText(), /store is memory/);
    fixture.assertNoProblems();
  });

  test("have explanations that open with the keyboard too", async () => {
    await fixture.startServer();
    const page = await open();
    const help = page.locator(".chart").first().locator("details");
    await help.locator("summary").focus();
    await page.keyboard.press("Enter");
    assert.match(await help.locator("p").innerText(), /Memory and the list for each newcomer/);
    const charts = await page.locator(".chart").count();
    const lengths = await page.locator(".chart details p").evaluateAll((hints) => hints.map((hint) => hint.textContent.length));
    assert.equal(lengths.filter((length) => length > 40).length, charts);
    fixture.assertNoProblems();
  });

  test("request nothing while the page is hidden", async () => {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    await visitor.context.clock.install();
    await visitor.context.addInitScript(() => {
      const { fetch } = window;
      window.requests = 0;
      window.fetch = (address, ...more) => {
        window.requests += Number(address === "v1/stats");
        return fetch(address, ...more);
      };
    });
    const page = await visitor.open(fixture.server, "", { path: "/dashboard" });
    const requests = () => page.evaluate(() => window.requests);
    const show = (hidden) => page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    await until("two requests", async () => (await requests()) >= 2);
    await show(true);
    const before = await requests();
    await page.clock.runFor(60_000);
    assert.equal(await requests(), before);
    await show(false);
    await until("another request", async () => (await requests()) > before);
    fixture.assertNoProblems();
  });

  test("report an unreachable server and continue after its restart", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const page = await open();
    await fixture.server.sendHeartbeats(["a", "b"]);
    await eventually(page, valueOf, "2", "Users online");
    const { port } = fixture.server;
    await fixture.server.stop("SIGKILL");
    await page.getByRole("heading", { name: "The server does not answer" }).waitFor();
    await waitForPhase(page, "waiting");
    await fixture.startServer({ port });
    await waitForPhase(page, "online");
    await eventually(page, valueOf, "0", "Users online");
    await page.locator("#notice").waitFor({ state: "hidden" });
    const values = await page.locator(".chart-value").allTextContents();
    assert.ok(values.every((value) => !value.startsWith("-")), `a rate is negative: ${values}`);
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });

  test("show the numbers of heartbeats and Redis commands, and an unreachable Redis", async (context) => {
    const redis = await Redis.start();
    context.after(() => redis.stop());
    await fixture.startServer({ args: [...LONG_LEASE, "--redis", redis.url] });
    const page = await open(DARK);
    await eventually(page, () => document.querySelectorAll("#store-charts .chart").length, 2);
    await page.getByText(/each heartbeat would be one command/).waitFor();
    assert.ok(await page.locator("#redis-summary").isHidden(), "at low load nothing is put together");
    const scopes = await page.locator(".chart").evaluateAll((charts) => charts.filter((chart) => chart.innerText.includes("all nodes"))
      .map((chart) => chart.querySelector("h3").textContent));
    assert.deepEqual(scopes, ["Users online"], "what is counted on all nodes must be labelled");
    assert.match(await page.locator("#facts").innerText(), /this node: /);
    const users = Array.from({ length: 20 }, (_, number) => `user ${number}`);
    const rounds = 50;
    for (let round = 0; round < rounds; round += 1) await fixture.server.sendHeartbeats(users);
    const SUMMARY = /^([\d,]+) heartbeats → ([\d,]+) commands in ([\d,]+) round trips$/;
    const summary = async () => (SUMMARY.exec(await page.locator("#redis-summary").innerText()) ?? [0, 0, 0, 0]).slice(1)
      .map((number) => Number(String(number).replaceAll(",", "")));
    await until("all heartbeats are shown", async () => (await summary())[0] >= users.length * rounds);
    const [heartbeats, commands, trips] = await summary();
    assert.ok(commands > users.length && commands < heartbeats / 2, `${heartbeats} heartbeats, ${commands} commands`);
    assert.ok(trips > 0 && trips <= commands, `${trips} round trips`);
    assert.equal(await page.locator("#redis-summary").getAttribute("data-degraded"), "false");
    await redis.kill();
    await page.getByText(/Redis has not answered since/).waitFor();
    assert.equal(await page.locator("#redis-summary").getAttribute("data-degraded"), "true");
    await eventually(page, valueOf, "20", "Users online");
    await redis.run();
    await page.getByText(/each heartbeat would be one command/).waitFor();
    assert.equal(await page.locator("#redis-summary").getAttribute("data-degraded"), "false");
    fixture.assertNoProblems();
  });
});

describe("what should stay low", () => {
  const row = (page, name) => page.locator("#problems tr", { hasText: name });
  const cells = async (page, name) => row(page, name).locator("td").allTextContents();

  /** Opens the dashboard with a server whose counters the test sets. */
  async function openWith(counters) {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    await visitor.context.route("**/v1/stats", async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, json: { ...(await response.json()), ...counters() } });
    });
    const page = await visitor.open(fixture.server, "", { path: "/dashboard", online: false });
    await waitForPhase(page, "online");
    return page;
  }

  test("is a rate with a limit, since a stated time, and the start of the server does not count", async () => {
    let uptime = 1_000;
    let missed = 2;
    const page = await openWith(() => ({ uptime_ms: (uptime += 2_000), ticks_missed: missed, ticks: uptime / 100 }));
    await until("a rate", async () => (await cells(page, "ticks_missed"))[1].includes("% of ticks"));
    assert.deepEqual((await cells(page, "ticks_missed")).slice(0, 3), ["0", "0 % of ticks", "1 % of ticks"]);
    assert.match(await page.locator("#since").innerText(), /^Since \d/);
    assert.equal(await page.locator("#problems .above").count(), 0);
    missed += 1_000;
    await row(page, "ticks_missed").and(page.locator(".above")).waitFor();
    fixture.assertNoProblems();
  });

  test("is stacked on a phone", async () => {
    await fixture.startServer();
    const page = await open(PHONE);
    const box = page.locator(".table-box");
    const [needed, available] = await box.evaluate((node) => [node.scrollWidth, node.clientWidth]);
    assert.ok(needed <= available, `the table is ${needed} px wide, its box ${available} px`);
    const lefts = await row(page, "ticks_missed").locator("td, th").evaluateAll((nodes) => nodes.map((node) => node.offsetLeft));
    assert.equal(new Set(lefts).size, 1, "the cells are below each other");
  });
});

describe("the demo users", () => {
  test("join a room of their own, never the lobby, and all leave when they are stopped", async () => {
    await fixture.startServer();
    const page = await open();
    await page.getByRole("button", { name: "Add 20 demo users" }).click();
    await until("twelve users in their room", async () => (await usersIn("demo")) >= 12);
    assert.equal(await usersIn("lobby"), 0);
    await until("ten connections in the chart", async () => Number(await page.evaluate(valueOf, "Connections")) > 9);
    const { members } = await fixture.server.membersOf("demo");
    assert.ok(members.every(({ user, state }) => user.endsWith(" (demo)") && state.mood));
    await screenshot(page, "dashboard-demo");
    await page.getByRole("button", { name: /^Stop the demo users \(\d+ s\)$/ }).click();
    await until("an empty room", async () => (await usersIn("demo")) === 0);
    await page.getByRole("button", { name: "Add 20 demo users" }).waitFor();
    fixture.assertNoProblems();
  });

  test("are shown by the page that the dashboard links to", async () => {
    await fixture.startServer();
    const page = await open();
    await page.getByRole("button", { name: "Add 20 demo users" }).click();
    const link = await page.getByRole("link", { name: "room of their own" }).evaluate((node) => node.href);
    const other = await fixture.open(`${new URL(link).pathname}${new URL(link).search}&user=watcher`);
    await until("three of them on the page", async () => (await other.locator("#roster .name", { hasText: "(demo)" }).count()) >= 3);
    assert.equal(await other.locator("#room-name").innerText(), "demo");
    fixture.assertNoProblems();
  });

  test("leave when the user goes to another page", async () => {
    await fixture.startServer();
    const page = await open();
    await page.getByRole("button", { name: "Add 20 demo users" }).click();
    await until("three users in their room", async () => (await usersIn("demo")) >= 3);
    await page.goto(`${fixture.server.url}/status`);
    await until("an empty room", async () => (await usersIn("demo")) === 0);
    fixture.assertNoProblems();
  });
});
