/** The page `/dashboard` in a browser, with a real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot, waitForPhase } from "./browser.mjs";
import { DARK, eventually, Fixture } from "./fixture.mjs";
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

const usersInLobby = async () => (await fixture.server.membersOf("lobby")).count;

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
        window.requests += Number(address === "/v1/stats");
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
    assert.ok(await page.locator("#notice").isHidden());
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
    const users = Array.from({ length: 20 }, (_, number) => `user ${number}`);
    const rounds = 50;
    for (let round = 0; round < rounds; round += 1) await fixture.server.sendHeartbeats(users);
    const SUMMARY = /^([\d,]+) heartbeats → ([\d,]+) commands in ([\d,]+) round trips$/;
    const summary = async () => SUMMARY.exec(await page.locator("#redis-summary").innerText()).slice(1)
      .map((number) => Number(number.replaceAll(",", "")));
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

describe("the demo users", () => {
  test("join the lobby, and all leave when they are stopped", async () => {
    await fixture.startServer();
    const page = await open();
    await page.getByRole("button", { name: "Add 20 demo users" }).click();
    await until("twelve users in the lobby", async () => (await usersInLobby()) >= 12);
    await until("ten connections in the chart", async () => Number(await page.evaluate(valueOf, "Connections")) > 9);
    const { members } = await fixture.server.membersOf("lobby");
    assert.ok(members.every(({ user, state }) => user.endsWith(" (demo)") && state.mood));
    await screenshot(page, "dashboard-demo");
    await page.getByRole("button", { name: /^Stop the demo users \(\d+ s\)$/ }).click();
    await until("an empty lobby", async () => (await usersInLobby()) === 0);
    await page.getByRole("button", { name: "Add 20 demo users" }).waitFor();
    fixture.assertNoProblems();
  });

  test("leave when the user goes to another page", async () => {
    await fixture.startServer();
    const page = await open();
    await page.getByRole("button", { name: "Add 20 demo users" }).click();
    await until("three users in the lobby", async () => (await usersInLobby()) >= 3);
    await page.goto(`${fixture.server.url}/status`);
    await until("an empty lobby", async () => (await usersInLobby()) === 0);
    fixture.assertNoProblems();
  });
});
