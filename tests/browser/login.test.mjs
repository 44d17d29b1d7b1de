/** The page `/login` in a browser, with a real server, with and without `--dev-login`. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot, waitForPhase, waitForStale } from "./browser.mjs";
import { assertNoHorizontalScrolling, assertOnlyText, DARK, eventually, Fixture, HOSTILE, PHONE } from "./fixture.mjs";
import { DEFAULT_TIMES, LONG_GRACE, SHORT_TIMES, until } from "./server.mjs";

const fixture = new Fixture();
const withLogin = (times) => ({ args: [...times, "--dev-login"] });
const DEV_LOGIN = withLogin(DEFAULT_TIMES);

async function open(options) {
  const page = await fixture.open("/login", options);
  await waitForPhase(page, "online");
  return page;
}

async function signIn(page, name) {
  await page.getByRole("textbox", { name: "Your name" }).fill(name);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("button", { name: "Sign out" }).waitFor();
}

/** The badge of each listed user. Evaluated in the page. */
const badges = () => Object.fromEntries([...document.querySelectorAll(".person")].map((row) =>
  [row.querySelector(".name").textContent, row.querySelector(".badge").textContent.split(" ")[0]]));

const allShow = (pages, expected) => Promise.all(pages.map((page) => eventually(page, badges, expected)));

describe("signing in and out", () => {
  test("three browsers list all known users with their status", async () => {
    await fixture.startServer(DEV_LOGIN);
    const pages = [await open(), await open(DARK), await open(PHONE)];
    const [alice, bob, guest] = pages;
    await allShow(pages, {});
    await signIn(alice, "alice");
    await allShow(pages, { alice: "online" });
    await signIn(bob, "bob");
    await allShow(pages, { alice: "online", bob: "online" });
    assert.equal(await guest.locator("#summary").innerText(), "2 of 2 online");
    await alice.getByRole("button", { name: "Sign out" }).click();
    await allShow(pages, { alice: "offline", bob: "online" });
    await alice.getByRole("textbox", { name: "Your name" }).waitFor();
    await screenshot(bob, "login-desk-dark");
    await assertNoHorizontalScrolling(guest);
    fixture.assertNoProblems();
  });

  test("an answer that comes late does not replace a newer list", async () => {
    await fixture.startServer(DEV_LOGIN);
    const [page, alice, bob] = [await open(), await open(), await open()];
    let requests = 0;
    let release;
    const released = new Promise((resolve) => { release = resolve; });
    await page.route("**/login/users", async (route) => {
      const response = await route.fetch();
      if (++requests === 1) await released;
      await route.fulfill({ response });
    });
    await signIn(alice, "alice");
    await eventually(alice, badges, { alice: "online" });
    await until("the first request", () => requests > 0);
    await signIn(bob, "bob");
    await allShow([page], { alice: "online", bob: "online" });
    const late = page.waitForResponse("**/login/users");
    release();
    await (await late).finished();
    await page.evaluate(() => fetch("livez").then(() => null));
    assert.deepEqual(await page.evaluate(badges), { alice: "online", bob: "online" });
  });

  test("a reload stays signed in and is invisible to others", async () => {
    await fixture.startServer(withLogin(LONG_GRACE));
    const [alice, observer] = [await open(), await open()];
    await signIn(alice, "alice");
    await allShow([observer], { alice: "online" });
    await observer.evaluate(() => {
      window.seen = [];
      new MutationObserver(() => window.seen.push(document.querySelector(".badge").textContent))
        .observe(document.querySelector("#people"), { subtree: true, childList: true, characterData: true });
    });
    await alice.reload();
    await waitForPhase(alice, "online");
    await eventually(alice, () => document.querySelector("#my-name").textContent, "alice");
    await signIn(await open(), "bob");
    await allShow([observer, alice], { alice: "online", bob: "online" });
    assert.ok((await observer.evaluate(() => window.seen)).every((badge) => badge === "online"));
    fixture.assertNoProblems();
  });

  test("signing out in one tab signs out all tabs of this browser, and no other browser", async () => {
    await fixture.startServer(DEV_LOGIN);
    const browser = await fixture.newVisitor();
    const tabs = [await browser.open(fixture.server, "", { path: "/login" })];
    await signIn(tabs[0], "alice");
    tabs.push(await browser.open(fixture.server, "", { path: "/login" }));
    await tabs[1].getByRole("button", { name: "Sign out" }).waitFor();
    const otherBrowser = await open();
    await signIn(otherBrowser, "alice");
    await tabs[1].getByRole("button", { name: "Sign out" }).click();
    for (const tab of tabs) await tab.getByRole("button", { name: "Sign in" }).waitFor();
    await allShow([...tabs, otherBrowser], { alice: "online" });
    await otherBrowser.getByRole("button", { name: "Sign out" }).click();
    await allShow([...tabs, otherBrowser], { alice: "offline" });
    fixture.assertNoProblems();
  });

  test("names with HTML are shown as text, and a missing name is reported", async () => {
    await fixture.startServer(DEV_LOGIN);
    const page = await open();
    await page.getByRole("button", { name: "Sign in" }).click();
    assert.match(await page.locator("#user-error").innerText(), /Enter a name/);
    for (const name of HOSTILE) await signIn(await open(), name);
    const sorted = [...HOSTILE].sort(new Intl.Collator("en", { numeric: true, sensitivity: "base" }).compare);
    await allShow([page], Object.fromEntries(sorted.map((name) => [name, "online"])));
    await assertOnlyText(page, "#people");
    fixture.assertNoProblems();
  });

  test("everything works with the keyboard alone", async () => {
    await fixture.startServer(DEV_LOGIN);
    const page = await open();
    await page.getByRole("textbox", { name: "Your name" }).focus();
    await page.keyboard.type("dora");
    await page.keyboard.press("Enter");
    await allShow([page], { dora: "online" });
    await eventually(page, () => document.activeElement.id, "sign-out");
    await page.keyboard.press("Enter");
    await allShow([page], { dora: "offline" });
    await eventually(page, () => document.activeElement.id, "user");
    fixture.assertNoProblems();
  });
});

test("after a restart of the server with another key, the page shows that the user is signed out", async () => {
  await fixture.startServer(withLogin(SHORT_TIMES));
  const page = await open();
  await signIn(page, "alice");
  await allShow([page], { alice: "online" });
  await fixture.restartServer(withLogin(SHORT_TIMES));
  await page.getByRole("button", { name: "Sign in" }).waitFor();
  await allShow([page], {});
  await signIn(page, "alice");
  await allShow([page], { alice: "online" });
  fixture.assertNoProblems({ serverWasUnreachable: true });
});

test("after a restart of the server with the same key, the user is signed in and online", async () => {
  const same = { args: [...SHORT_TIMES, "--dev-login", "--session-key", "0123456789abcdef0123456789abcdef"] };
  await fixture.startServer(same);
  const [page, observer] = [await open(), await open()];
  await signIn(page, "alice");
  await allShow([page, observer], { alice: "online" });
  await fixture.server.stop("SIGTERM");
  await Promise.all([page, observer].map(waitForStale));
  await fixture.startServer({ ...same, port: fixture.server.port });
  for (const one of [page, observer]) await waitForPhase(one, "online");
  await allShow([page, observer], { alice: "online" });
  await page.getByRole("button", { name: "Sign out" }).click();
  await allShow([page, observer], { alice: "offline" });
  fixture.assertNoProblems({ serverWasUnreachable: true });
});

test("without --dev-login the page explains that accounts belong to the application", async () => {
  await fixture.startServer();
  const page = await fixture.open("/login");
  await page.getByRole("heading", { name: "Your application owns the accounts" }).waitFor();
  assert.ok(await page.getByText("rollcall --dev-login").isVisible());
  assert.ok(await page.locator("#sign-in-box").isHidden());
  assert.ok(await page.locator("#people-box").isHidden());
});
