/** axe-core finds no violation on any page, in any of its states. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";

import { screenshot, waitForPhase } from "./browser.mjs";
import { DARK, Fixture, PHONE, shows } from "./fixture.mjs";
import { DEFAULT_TIMES, LONG_LEASE, packages } from "./server.mjs";

const fixture = new Fixture();
const AXE = readFileSync(join(packages, "node_modules/axe-core/axe.min.js"), "utf8");

/** Fails if axe-core finds anything on the page, as it is now. */
async function assertAccessible(page, what) {
  await page.evaluate(AXE);
  const violations = await page.evaluate(async () => {
    // What is animated has the contrast of its end.
    const ending = document.getAnimations().filter(({ effect }) => effect.getTiming().iterations === 1);
    // An animation that is cancelled is rejected.
    await Promise.allSettled(ending.map((animation) => animation.finished));
    const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
    return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 200)}`));
  });
  await screenshot(page, `axe-${what}`);
  assert.deepEqual(violations, [], what);
}

/** Opens the page in several screens and brings it into the state to check. */
function check(name, path, { args = LONG_LEASE, enter = () => {} } = {}) {
  test(`${name} has no violation`, async () => {
    await fixture.startServer({ args });
    await fixture.server.sendHeartbeats(["Ada Lovelace", "grace.hopper"]);
    for (const [screen, options] of Object.entries({ desk: {}, dark: DARK, phone: PHONE })) {
      const page = await fixture.open(path, options);
      await enter(page);
      await assertAccessible(page, `${name}-${screen}`);
      await page.close();
    }
  });
}

const online = (page) => waitForPhase(page, "online");
const DEV_LOGIN = [...DEFAULT_TIMES, "--dev-login"];

check("online", "/?user=me", { enter: (page) => shows(page, "#roster .name", ["Ada Lovelace", "grace.hopper", "me"]) });
check("online-asks-for-a-name", "/?user=", { enter: (page) => page.getByLabel("Your name").waitFor() });
check("chat", "/chat?user=me", {
  async enter(page) {
    await online(page);
    await page.locator("#text").fill("hello");
    await page.keyboard.press("Enter");
    await page.locator("#log .message-text").first().waitFor();
  },
});
check("status", "/status", {
  async enter(page) {
    await page.getByLabel("User id").fill("1, 2");
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await page.locator(".log-line").nth(2).waitFor();
  },
});
check("login-explained", "/login", {
  enter: (page) => page.getByRole("heading", { name: "Your application owns the accounts" }).waitFor(),
});
check("login-signed-out", "/login", { args: DEV_LOGIN, enter: online });
check("login-signed-in", "/login", {
  args: DEV_LOGIN,
  async enter(page) {
    await page.getByRole("textbox", { name: "Your name" }).fill("alice");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.locator('.person[data-online="true"]').waitFor();
  },
});
check("debug", "/debug", {
  async enter(page) {
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await online(page);
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await page.locator(".frame-out summary").first().click();
    await page.getByRole("button", { name: "Copy frame" }).waitFor();
  },
});
check("docs", "/docs", {
  async enter(page) {
    await page.locator("#kickUser").waitFor();
    // axe-core takes long for all operations, which look alike.
    await page.getByLabel("Search the operations").fill("publish a message");
    await page.evaluate(() => {
      document.querySelectorAll(".operation[hidden]").forEach((node) => node.remove());
      // Everything that can be opened: schemas, errors, and the forms.
      document.querySelectorAll("#publishToRoom details").forEach((node) => (node.open = true));
    });
    await page.locator("#publishToRoom .try-form").waitFor();
  },
});
check("not-found", "/no/such/page");
check("dashboard", "/dashboard", { enter: (page) => page.locator("#problems tr").first().waitFor() });

test("a page with a problem has no violation", async () => {
  await fixture.startServer({ args: DEV_LOGIN });
  const pages = [];
  for (const path of ["/?user=me", "/chat?user=me", "/dashboard", "/login", "/status"]) {
    pages.push(await fixture.open(path));
    if (path === "/status") await pages.at(-1).getByRole("button", { name: "Connect", exact: true }).click();
    await online(pages.at(-1));
  }
  await fixture.server.stop("SIGKILL");
  for (const [index, page] of pages.entries()) {
    await page.locator("#notice:not([hidden])").waitFor();
    await assertAccessible(page, `problem-${index}`);
  }
});

test("a page with embed.js has no violation", async (context) => {
  await fixture.startServer({ args: LONG_LEASE });
  await fixture.server.sendHeartbeats(["Ada Lovelace"]);
  const script = (attributes) => `<script type="module" src="${fixture.server.url}/embed.js" data-chat ${attributes}></script>`;
  const site = createServer((_, response) => response.writeHead(200, { "content-type": "text/html" }).end(
    `<!doctype html><html lang="en"><title>Shop</title><meta name="viewport" content="width=device-width">
     <main><h1>A shop</h1>${script('data-user="alice"')}${script('data-room="other" data-theme="dark"')}</main></html>`));
  context.after(() => site.close());
  await once(site.listen(0, "127.0.0.1"), "listening");
  const visitor = await fixture.newVisitor(PHONE);
  const page = await visitor.open({ url: `http://localhost:${site.address().port}` }, "", { path: "/", online: false });
  await page.getByRole("textbox", { name: "Write a message" }).fill("hello");
  await page.keyboard.press("Enter");
  await page.locator(".message-text").waitFor();
  await assertAccessible(page, "embed");
  await page.getByRole("button", { name: "Join" }).click();
  await page.getByRole("textbox", { name: "Your name" }).waitFor();
  await assertAccessible(page, "embed-asks-for-a-name");
});
