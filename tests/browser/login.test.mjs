/** The page at `/login` in a real browser, against the real server with `--dev-login`, and without it. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { phase, screenshot } from "./harness.mjs";
import { assertNothingSticksOut, assertOnlyText, DARK, eventually, HOSTILE, PHONE, Scene } from "./scene.mjs";
import { HASTY, LONG_GRACE, STEADY } from "./server.mjs";

const scene = new Scene();
const withLogin = (times) => ({ args: [...times, "--dev-login"] });
const DEV_LOGIN = withLogin(STEADY);

async function open(options) {
  const page = await scene.open("/login", options);
  await phase(page, "online");
  return page;
}

async function signIn(page, name) {
  await page.getByRole("textbox", { name: "Your name" }).fill(name);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("button", { name: "Sign out" }).waitFor();
}

/** Who is listed, and with which badge. */
const badges = () => Object.fromEntries([...document.querySelectorAll(".person")].map((row) =>
  [row.querySelector(".name").textContent, row.querySelector(".badge").textContent.split(" ")[0]]));

const everybodySees = (pages, expected) => Promise.all(pages.map((page) => eventually(page, badges, expected)));

describe("signing in and out", () => {
  test("three browsers: everybody known is listed, online or not", async () => {
    await scene.start(DEV_LOGIN);
    const pages = [await open(), await open(DARK), await open(PHONE)];
    const [alice, bob, guest] = pages;
    await everybodySees(pages, {});
    await signIn(alice, "alice");
    await everybodySees(pages, { alice: "online" });
    await signIn(bob, "bob");
    await everybodySees(pages, { alice: "online", bob: "online" });
    assert.equal(await guest.locator("#summary").innerText(), "2 of 2 online");
    await alice.getByRole("button", { name: "Sign out" }).click();
    await everybodySees(pages, { alice: "offline", bob: "online" });
    await alice.getByRole("textbox", { name: "Your name" }).waitFor();
    await screenshot(bob, "login-desk-dark");
    await assertNothingSticksOut(guest);
    scene.assertNoProblems();
  });

  test("a reload stays signed in, and nobody sees it", async () => {
    await scene.start(withLogin(LONG_GRACE));
    const [alice, watcher] = [await open(), await open()];
    await signIn(alice, "alice");
    await everybodySees([watcher], { alice: "online" });
    await watcher.evaluate(() => {
      window.seen = [];
      new MutationObserver(() => window.seen.push(document.querySelector(".badge").textContent))
        .observe(document.querySelector("#people"), { subtree: true, childList: true, characterData: true });
    });
    await alice.reload();
    await phase(alice, "online");
    await eventually(alice, () => document.querySelector("#my-name").textContent, "alice");
    await signIn(await open(), "bob");
    await everybodySees([watcher, alice], { alice: "online", bob: "online" });
    assert.ok((await watcher.evaluate(() => window.seen)).every((badge) => badge === "online"));
    scene.assertNoProblems();
  });

  test("signed out in one tab is signed out in all of this browser, and not in another", async () => {
    await scene.start(DEV_LOGIN);
    const browser = await scene.visitor();
    const tabs = [await browser.open(scene.server, "", { path: "/login" })];
    await signIn(tabs[0], "alice");
    tabs.push(await browser.open(scene.server, "", { path: "/login" }));
    await tabs[1].getByRole("button", { name: "Sign out" }).waitFor();
    const elsewhere = await open();
    await signIn(elsewhere, "alice");
    await tabs[1].getByRole("button", { name: "Sign out" }).click();
    for (const tab of tabs) await tab.getByRole("button", { name: "Sign in" }).waitFor();
    await everybodySees([...tabs, elsewhere], { alice: "online" });
    await elsewhere.getByRole("button", { name: "Sign out" }).click();
    await everybodySees([...tabs, elsewhere], { alice: "offline" });
    scene.assertNoProblems();
  });

  test("names are text, and what is no name is said", async () => {
    await scene.start(DEV_LOGIN);
    const page = await open();
    await page.getByRole("button", { name: "Sign in" }).click();
    assert.match(await page.locator("#user-error").innerText(), /type a name/);
    for (const name of HOSTILE) await signIn(await open(), name);
    await everybodySees([page], Object.fromEntries(await page.locator(".person .name").allTextContents()
      .then(() => [...HOSTILE].sort(new Intl.Collator("en", { numeric: true, sensitivity: "base" }).compare).map((name) => [name, "online"]))));
    await assertOnlyText(page, "#people");
    scene.assertNoProblems();
  });

  test("the keyboard alone is enough", async () => {
    await scene.start(DEV_LOGIN);
    const page = await open();
    await page.getByRole("textbox", { name: "Your name" }).focus();
    await page.keyboard.type("dora");
    await page.keyboard.press("Enter");
    await everybodySees([page], { dora: "online" });
    await eventually(page, () => document.activeElement.id, "sign-out");
    await page.keyboard.press("Enter");
    await everybodySees([page], { dora: "offline" });
    await eventually(page, () => document.activeElement.id, "user");
    scene.assertNoProblems();
  });
});

test("a server that restarts with another key has forgotten who was signed in, and the page says so", async () => {
  await scene.start(withLogin(HASTY));
  const page = await open();
  await signIn(page, "alice");
  await everybodySees([page], { alice: "online" });
  await scene.restart(withLogin(HASTY));
  await page.getByRole("button", { name: "Sign in" }).waitFor();
  await everybodySees([page], {});
  await signIn(page, "alice");
  await everybodySees([page], { alice: "online" });
  scene.assertNoProblems({ serverWasAway: true });
});

test("a server that restarts with the same key: signed in and online again", async () => {
  const same = { args: [...HASTY, "--dev-login", "--session-key", "0123456789abcdef0123456789abcdef"] };
  await scene.start(same);
  const [page, watcher] = [await open(), await open()];
  await signIn(page, "alice");
  await everybodySees([page, watcher], { alice: "online" });
  await scene.server.stop("SIGTERM");
  await Promise.all([page, watcher].map((one) => one.locator("body[data-stale=true]").waitFor({ state: "attached" })));
  await scene.start({ ...same, port: scene.server.port });
  for (const one of [page, watcher]) await phase(one, "online");
  await everybodySees([page, watcher], { alice: "online" });
  await page.getByRole("button", { name: "Sign out" }).click();
  await everybodySees([page, watcher], { alice: "offline" });
  scene.assertNoProblems({ serverWasAway: true });
});

test("without --dev-login the page says whose business accounts are", async () => {
  await scene.start();
  const page = await scene.open("/login");
  await page.getByRole("heading", { name: "Your application owns the accounts" }).waitFor();
  assert.ok(await page.getByText("rollcall --dev-login").isVisible());
  assert.ok(await page.locator("#sign-in-box").isHidden());
  assert.ok(await page.locator("#people-box").isHidden());
});
