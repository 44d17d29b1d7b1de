/** Rules for every page: layout, links, accessible names, keyboard, Content-Security-Policy. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot } from "./browser.mjs";
import { assertNoHorizontalScrolling, DARK, Fixture, PHONE, SMALL_PHONE } from "./fixture.mjs";
import { LONG_LEASE } from "./server.mjs";

const fixture = new Fixture();
const PAGES = { online: "/?user=me", chat: "/chat?user=me", status: "/status", login: "/login", dashboard: "/dashboard",
  debug: "/debug", docs: "/docs" };
const USERS = ["Ada Lovelace", "grace.hopper", "x".repeat(128)];
/** The element that each page shows last when it is opened. */
const COMPLETE = {
  online: (page) => page.locator("#roster > .row").nth(USERS.length),
  chat: (page) => page.locator("#roster .name").nth(USERS.length),
  status: (page) => page.getByLabel("User id"),
  login: (page) => page.getByRole("heading", { name: "Your application owns the accounts" }),
  debug: (page) => page.locator("#field-user"),
  docs: (page) => page.locator(".operation").first(),
  dashboard: (page) => page.locator('body[data-phase="online"] .chart').first(),
};
const SCREENS = {
  desk: {}, "desk-dark": DARK, phone: PHONE, "phone-dark": { ...PHONE, ...DARK }, "small-phone": SMALL_PHONE,
  tablet: { viewport: { width: 820, height: 1180 } },
};

for (const [name, path] of Object.entries(PAGES)) {
  test(`${path} fits every screen, light and dark`, async () => {
    await fixture.startServer({ args: LONG_LEASE });
    await fixture.server.sendHeartbeats(USERS);
    for (const [screen, options] of Object.entries(SCREENS)) {
      const visitor = await fixture.newVisitor(options);
      const page = await visitor.open(fixture.server, "", { path, online: false });
      await COMPLETE[name](page).waitFor();
      await assertNoHorizontalScrolling(page);
      const [red] = (await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).match(/\d+/g).map(Number);
      assert.equal(red < 64, options.colorScheme === "dark", `${screen}: the red of the background is ${red}`);
      await screenshot(page, `page-${name}-${screen}`);
      assert.deepEqual(visitor.problems(), []);
      await visitor.close();
    }
  });
}

describe("every page", () => {
  test("links to all other pages and marks its own link", async () => {
    await fixture.startServer();
    const page = await fixture.open("/status");
    const links = { Online: "/", Chat: "/chat", Login: "/login", Dashboard: "/dashboard", Debug: "/debug", API: "/docs", Status: "/status" };
    for (const [link, path] of Object.entries(links)) {
      await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: link }).click({ noWaitAfter: false });
      await page.waitForURL(fixture.server.url + path);
      const current = page.locator("nav [aria-current=page]");
      assert.deepEqual(await current.allTextContents(), [link]);
      if (await page.locator("dialog[open]").count()) {
        await page.getByLabel("Your name").fill("me");
        await page.keyboard.press("Enter");
      }
    }
  });

  test("has one heading, accessible names for all controls, and a link that skips the header", async () => {
    await fixture.startServer();
    for (const path of Object.values(PAGES)) {
      const page = await fixture.open(path);
      assert.equal(await page.locator("h1").count(), 1, path);
      assert.equal(await page.locator("main").count(), 1, path);
      const unnamed = await page.evaluate(() => {
        const isNamed = (node) => node.textContent.trim() || node.labels?.length || node.getAttribute("aria-label");
        return [...document.querySelectorAll("button, input, select, textarea, a[href], [role=img]")]
          .filter((node) => node.checkVisibility() && !isNamed(node)).map((node) => node.outerHTML);
      });
      assert.deepEqual(unnamed, [], path);
      await page.evaluate(() => document.activeElement?.blur());
      await page.keyboard.press("Tab");
      const skip = await page.evaluate(() => document.activeElement.getAttribute("href"));
      assert.match(skip, /^#/, path);
      assert.equal(await page.locator(skip).count(), 1, `${path}: the skip link has no target ${skip}`);
      await page.close();
    }
  });

  test("loads nothing from other hosts and allows nothing inline", async () => {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    const hosts = new Set();
    visitor.context.on("request", (request) => hosts.add(new URL(request.url()).host));
    for (const path of Object.values(PAGES)) {
      const page = await visitor.open(fixture.server, "", { path, online: false });
      const answer = await fetch(fixture.server.url + path);
      assert.match(answer.headers.get("content-security-policy"), /default-src 'none'; script-src 'self'; style-src 'self'/);
      assert.equal(await page.locator("[style], style, script:not([src]), [onclick]").count(), 0, path);
      const injected = await page.evaluate(() => {
        const script = document.createElement("script");
        script.textContent = "document.body.dataset.owned = 'yes'";
        document.body.append(script);
        return document.body.dataset.owned;
      });
      assert.equal(injected, undefined, `${path}: the policy did not block an inline script`);
      await page.close();
    }
    assert.deepEqual([...hosts], [new URL(fixture.server.url).host]);
  });
});
