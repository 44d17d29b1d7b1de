/** The page at `/dashboard` in a real browser, against the real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { phase, screenshot } from "./harness.mjs";
import { Redis } from "./redis.mjs";
import { DARK, eventually, Scene } from "./scene.mjs";
import { until } from "./server.mjs";

const scene = new Scene();
/** Longer than any test: those who beat once stay. */
const LONG_LEASE = ["--ttl", "1h", "--tick", "50ms"];

async function open(options) {
  const page = await scene.open("/dashboard", options);
  await phase(page, "online");
  return page;
}

/** The value that stands in the chart of a title. */
const valueOf = (title) => [...document.querySelectorAll(".chart")].find((chart) => chart.querySelector("h3").textContent === title)
  ?.querySelector(".chart-value").textContent;

const usersInLobby = () => fetch(`${scene.server.url}/v1/rooms/lobby/count`).then((answer) => answer.json()).then(({ count }) => count);

describe("the charts", () => {
  test("move with the server, in numbers and in words", async () => {
    await scene.start({ args: LONG_LEASE });
    const page = await open();
    await eventually(page, valueOf, "0", "Users online");
    await scene.server.beat(["a", "b", "c"]);
    await eventually(page, valueOf, "3", "Users online");
    await eventually(page, valueOf, "0", "Connections");
    const words = await page.getByRole("img", { name: /^Users online/ }).getAttribute("aria-label");
    assert.match(words, /now 3, lowest 0 and highest 3/);
    for (const title of ["CPU", "Memory", "Tick duration, mean"]) assert.match(await page.evaluate(valueOf, title), /^[\d.,]+ (%|MB|ms)$/);
    assert.equal(await page.locator(".chart path.chart-line[d*=NaN], .chart path.chart-area[d*=Infinity]").count(), 0);
    assert.match(await page.locator("#store-text").innerText(), /store is memory/);
    scene.assertNoProblems();
  });

  test("explain themselves to the keyboard", async () => {
    await scene.start();
    const page = await open();
    const help = page.locator(".chart").first().locator("details");
    await help.locator("summary").focus();
    await page.keyboard.press("Enter");
    assert.match(await help.locator("p").innerText(), /memory and each newcomer's list/);
    const charts = await page.locator(".chart").count();
    assert.equal(await page.locator(".chart details p").evaluateAll((hints) => hints.filter((hint) => hint.textContent.length > 40).length), charts);
    scene.assertNoProblems();
  });

  test("are not asked for while nobody sees them", async () => {
    await scene.start();
    const visitor = await scene.visitor();
    await visitor.context.clock.install();
    await visitor.context.addInitScript(() => {
      const { fetch } = window;
      window.asked = 0;
      window.fetch = (address, ...more) => {
        window.asked += Number(address === "/v1/stats");
        return fetch(address, ...more);
      };
    });
    const page = await visitor.open(scene.server, "", { path: "/dashboard" });
    const asked = () => page.evaluate(() => window.asked);
    const show = (hidden) => page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    await until("asked twice", async () => (await asked()) >= 2);
    await show(true);
    const before = await asked();
    await page.clock.runFor(60_000);
    assert.equal(await asked(), before);
    await show(false);
    await until("asked again", async () => (await asked()) > before);
    scene.assertNoProblems();
  });

  test("tell of a server that is away, and go on with its next life", async () => {
    await scene.start({ args: LONG_LEASE });
    const page = await open();
    await scene.server.beat(["a", "b"]);
    await eventually(page, valueOf, "2", "Users online");
    const { port } = scene.server;
    await scene.server.stop("SIGKILL");
    await page.getByRole("heading", { name: "The server does not answer" }).waitFor();
    await phase(page, "waiting");
    await scene.start({ port });
    await phase(page, "online");
    await eventually(page, valueOf, "0", "Users online");
    assert.ok(await page.locator("#notice").isHidden());
    const values = await page.locator(".chart-value").allTextContents();
    assert.ok(values.every((value) => !value.startsWith("-")), `no rate is below zero: ${values}`);
    scene.assertNoProblems({ serverWasAway: true });
  });

  test("show what Redis was spared, and when it is away", async (context) => {
    const redis = await Redis.start();
    context.after(() => redis.stop());
    await scene.start({ args: [...LONG_LEASE, "--redis", redis.url] });
    const page = await open(DARK);
    await eventually(page, () => document.querySelectorAll("#store-charts .chart").length, 2);
    const users = Array.from({ length: 20 }, (_, number) => `user ${number}`);
    const rounds = 50;
    for (let round = 0; round < rounds; round += 1) await scene.server.beat(users);
    const saved = async () => /^([\d,]+) heartbeats → ([\d,]+) commands in ([\d,]+) round trips$/.exec(await page.locator("#saved").innerText())
      .slice(1).map((number) => Number(number.replaceAll(",", "")));
    await until("all heartbeats are shown", async () => (await saved())[0] >= users.length * rounds);
    const [heartbeats, commands, trips] = await saved();
    assert.ok(commands > users.length && commands < heartbeats / 2, `${heartbeats} heartbeats, ${commands} commands`);
    assert.ok(trips > 0 && trips <= commands, `${trips} round trips`);
    assert.equal(await page.locator("#saved").getAttribute("data-degraded"), "false");
    await redis.kill();
    await page.getByText(/Redis has not answered since/).waitFor();
    assert.equal(await page.locator("#saved").getAttribute("data-degraded"), "true");
    await eventually(page, valueOf, "20", "Users online");
    await redis.run();
    await page.getByText(/One command per heartbeat/).waitFor();
    assert.equal(await page.locator("#saved").getAttribute("data-degraded"), "false");
    scene.assertNoProblems();
  });
});

describe("the demo users", () => {
  test("come into the lobby, and all of them go when they are stopped", async () => {
    await scene.start();
    const page = await open();
    await page.getByRole("button", { name: "Bring in 20 demo users" }).click();
    await until("a dozen in the lobby", async () => (await usersInLobby()) >= 12);
    await eventually(page, (title) => Number([...document.querySelectorAll(".chart")]
      .find((chart) => chart.querySelector("h3").textContent === title).querySelector(".chart-value").textContent) > 9, true, "Connections");
    const members = await fetch(`${scene.server.url}/v1/rooms/lobby/members`).then((answer) => answer.json());
    assert.ok(members.members.every(({ user, state }) => user.endsWith(" (demo)") && state.mood));
    await screenshot(page, "dashboard-demo");
    await page.getByRole("button", { name: /^Stop the demo users \(\d+ s\)$/ }).click();
    await until("nobody in the lobby", async () => (await usersInLobby()) === 0);
    await page.getByRole("button", { name: "Bring in 20 demo users" }).waitFor();
    scene.assertNoProblems();
  });

  test("go with the page", async () => {
    await scene.start();
    const page = await open();
    await page.getByRole("button", { name: "Bring in 20 demo users" }).click();
    await until("some in the lobby", async () => (await usersInLobby()) >= 3);
    await page.goto(`${scene.server.url}/status`);
    await until("nobody in the lobby", async () => (await usersInLobby()) === 0);
    scene.assertNoProblems();
  });
});
