/** A browser, a server per test and visitors. Everything is closed after each test, the browser after the last. */

import assert from "node:assert/strict";
import { after, afterEach, before } from "node:test";

import { Browser } from "./browser.mjs";
import { Server, until } from "./server.mjs";

/** The narrowest phone that is still in use. */
export const SMALL_PHONE = { viewport: { width: 320, height: 568 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
export const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
export const DARK = { colorScheme: "dark" };
/** Used as names, ids, messages and states. Pages must show them as text. */
export const HOSTILE = [
  `<img src=x onerror="document.body.dataset.owned='yes'">`,
  `<script>document.body.dataset.owned='yes'</script>`,
  `"><svg/onload=alert(1)>`,
  "${7*7}{{7*7}}</textarea>",
];

/** One browser for all fixtures of a process, since starting Chromium is expensive. */
let sharedBrowser = null;
let fixtures = 0;

export class Fixture {
  server = null;
  #browser = null;
  #visitors = [];

  /** Create one per file, or one per suite if suites run side by side. */
  constructor() {
    before(async () => {
      fixtures += 1;
      this.#browser = await (sharedBrowser ??= Browser.start());
    });
    after(async () => {
      fixtures -= 1;
      if (fixtures > 0) return;
      sharedBrowser = null;
      await this.#browser.stop();
    });
    afterEach(() => this.#clear());
  }

  async #clear() {
    await Promise.all(this.#visitors.map((visitor) => visitor.close()));
    this.#visitors = [];
    await this.server?.stop("SIGKILL");
    this.server = null;
  }

  async startServer(options) {
    this.server = await Server.start(options);
    return this.server;
  }

  /** Stops the server with SIGTERM and starts another one on the same port. */
  async restartServer(options) {
    const { port } = this.server;
    await this.server.stop("SIGTERM");
    return this.startServer({ ...options, port });
  }

  async newVisitor(options) {
    const visitor = await this.#browser.newVisitor(options);
    this.#visitors.push(visitor);
    return visitor;
  }

  /** Opens `path` as a new visitor. */
  async open(path, options) {
    const visitor = await this.newVisitor(options);
    return visitor.open(this.server, "", { path, online: false });
  }

  assertNoProblems(options) {
    for (const visitor of this.#visitors) assert.deepEqual(visitor.problems(options), []);
  }
}

/** Waits until `find`, evaluated in the page, returns the expected value. The error shows the last value. */
export async function eventually(page, find, expected, argument) {
  const wanted = JSON.stringify(expected);
  let found;
  // Polled from here, since the Content-Security-Policy of the pages does not allow waitForFunction with a text.
  const same = async () => (found = JSON.stringify(await page.evaluate(find, argument))) === wanted;
  await until(() => `expected ${wanted}, the page has ${found}`, same);
}

/** Waits until the elements of a selector have exactly these texts. */
export async function shows(page, selector, expected) {
  const texts = (css) => [...document.querySelectorAll(css)].map((node) => node.textContent);
  await eventually(page, texts, expected, selector);
}

export async function assertNoHorizontalScrolling(page) {
  const [needed, available] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(needed <= available, `the page is ${needed} px wide, the window is ${available} px wide`);
}

/** Nothing that other users wrote became an element or was executed. */
export async function assertOnlyText(page, selector) {
  assert.equal(await page.locator(`${selector} :is(img, script, svg, textarea)`).count(), 0);
  assert.equal(await page.locator("body").getAttribute("data-owned"), null);
}
