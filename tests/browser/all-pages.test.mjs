/** What holds for every page: nothing sticks out, nothing complains, all are linked, named and usable by keyboard. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { screenshot } from "./harness.mjs";
import { assertNothingSticksOut, DARK, PHONE, Scene, SMALL_PHONE } from "./scene.mjs";

const scene = new Scene();
const PAGES = { online: "/?user=me", chat: "/chat?user=me", status: "/status", login: "/login", dashboard: "/dashboard" };
/** Those who are there, and what each page shows last when it is opened. */
const CROWD = ["Ada Lovelace", "grace.hopper", "x".repeat(128)];
const COMPLETE = {
  online: (page) => page.locator("#roster > .row").nth(CROWD.length),
  chat: (page) => page.locator("#roster .name").nth(CROWD.length),
  status: (page) => page.getByLabel("User id"),
  login: (page) => page.getByRole("heading", { name: "Your application owns the accounts" }),
  dashboard: (page) => page.locator('body[data-phase="online"] .chart').first(),
};
const LOOKS = {
  desk: {}, "desk-dark": DARK, phone: PHONE, "phone-dark": { ...PHONE, ...DARK }, "small-phone": SMALL_PHONE,
  tablet: { viewport: { width: 820, height: 1180 } },
};

function assertNoComplaints(visitor) {
  assert.deepEqual(visitor.problems(), []);
}

for (const [name, path] of Object.entries(PAGES)) {
  test(`${path} fits every screen, in light and dark`, async () => {
    await scene.start({ args: ["--ttl", "1h", "--tick", "50ms"] });
    await scene.server.beat(CROWD);
    for (const [look, options] of Object.entries(LOOKS)) {
      const visitor = await scene.visitor(options);
      const page = await visitor.open(scene.server, "", { path, online: false });
      await COMPLETE[name](page).waitFor();
      await assertNothingSticksOut(page);
      const [red] = (await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).match(/\d+/g).map(Number);
      assert.equal(red < 64, options.colorScheme === "dark", `${look}: the ground is ${red}`);
      await screenshot(page, `page-${name}-${look}`);
      assertNoComplaints(visitor);
      await visitor.leave();
    }
  });
}

describe("every page", () => {
  test("links to all others and says which one it is", async () => {
    await scene.start();
    const page = await scene.open("/status");
    for (const [link, path] of [["Online", "/"], ["Chat", "/chat"], ["Login", "/login"], ["Dashboard", "/dashboard"], ["Status", "/status"]]) {
      await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: link }).click({ noWaitAfter: false });
      await page.waitForURL(scene.server.url + path);
      const current = page.locator("nav [aria-current=page]");
      assert.deepEqual(await current.allTextContents(), [link]);
      if (await page.locator("dialog[open]").count()) {
        await page.getByLabel("Your name").fill("me");
        await page.keyboard.press("Enter");
      }
    }
  });

  test("has a heading, names for all that can be used, and a way past the header", async () => {
    await scene.start();
    for (const path of Object.values(PAGES)) {
      const page = await scene.open(path);
      assert.equal(await page.locator("h1").count(), 1, path);
      assert.equal(await page.locator("main").count(), 1, path);
      const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input, textarea, a[href], [role=img]")]
        .filter((node) => node.checkVisibility() && !node.textContent.trim() && !node.labels?.length && !node.getAttribute("aria-label"))
        .map((node) => node.outerHTML));
      assert.deepEqual(nameless, [], path);
      await page.evaluate(() => document.activeElement?.blur());
      await page.keyboard.press("Tab");
      const skip = await page.evaluate(() => document.activeElement.getAttribute("href"));
      assert.match(skip, /^#/, path);
      assert.equal(await page.locator(skip).count(), 1, `${path} skips to ${skip}`);
      await page.close();
    }
  });

  test("takes nothing from another host and allows nothing inline", async () => {
    await scene.start();
    const visitor = await scene.visitor();
    const hosts = new Set();
    visitor.context.on("request", (request) => hosts.add(new URL(request.url()).host));
    for (const path of Object.values(PAGES)) {
      const page = await visitor.open(scene.server, "", { path, online: false });
      const answer = await fetch(scene.server.url + path);
      assert.match(answer.headers.get("content-security-policy"), /default-src 'none'; script-src 'self'; style-src 'self'/);
      assert.equal(await page.locator("[style], style, script:not([src]), [onclick]").count(), 0, path);
      const injected = await page.evaluate(() => {
        const script = document.createElement("script");
        script.textContent = "document.body.dataset.owned = 'yes'";
        document.body.append(script);
        return document.body.dataset.owned;
      });
      assert.equal(injected, undefined, `${path}: the policy holds`);
      await page.close();
    }
    assert.deepEqual([...hosts], [new URL(scene.server.url).host]);
  });
});
