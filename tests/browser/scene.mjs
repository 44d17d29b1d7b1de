/**
 * One browser for a file of tests, a server for each test, and visitors with browsers of their own; whatever was started
 * is ended after each test.
 */

import assert from "node:assert/strict";
import { after, afterEach, before } from "node:test";

import { Browser } from "./harness.mjs";
import { Server, until } from "./server.mjs";

/** The narrowest phone that is still around. */
export const SMALL_PHONE = { viewport: { width: 320, height: 568 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
export const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
export const DARK = { colorScheme: "dark" };
/** As a name, an id, a message or a state: none of it may become more than text. */
export const HOSTILE = [
  `<img src=x onerror="document.body.dataset.owned='yes'">`,
  `<script>document.body.dataset.owned='yes'</script>`,
  `"><svg/onload=alert(1)>`,
  "${7*7}{{7*7}}</textarea>",
];

export class Scene {
  server = null;
  #browser = null;
  #visitors = [];

  /** Call it once in a file of tests. */
  constructor() {
    before(async () => (this.#browser = await Browser.start()));
    after(() => this.#browser.stop());
    afterEach(() => this.#clear());
  }

  async #clear() {
    await Promise.all(this.#visitors.map((visitor) => visitor.leave()));
    this.#visitors = [];
    await this.server?.stop("SIGKILL");
    this.server = null;
  }

  async start(options) {
    this.server = await Server.start(options);
    return this.server;
  }

  /** Ends the server as an operator would, and starts another one at the same address. */
  async restart(options) {
    const { port } = this.server;
    await this.server.stop("SIGTERM");
    return this.start({ ...options, port });
  }

  async visitor(options) {
    const visitor = await this.#browser.visitor(options);
    this.#visitors.push(visitor);
    return visitor;
  }

  /** A visitor with one tab at `path`. */
  async open(path, options) {
    const visitor = await this.visitor(options);
    return visitor.open(this.server, "", { path, online: false });
  }

  assertNoProblems(options) {
    for (const visitor of this.#visitors) assert.deepEqual(visitor.problems(options), []);
  }
}

/** Waits until `find` in the page returns what is expected; says what it returned last. */
export async function eventually(page, find, expected, argument) {
  const wanted = JSON.stringify(expected);
  let found;
  // Asked from here: the pages' policy does not let a test evaluate text there.
  const same = async () => (found = JSON.stringify(await page.evaluate(find, argument))) === wanted;
  await until(() => `expected ${wanted}, there is ${found}`, same);
}

/** Waits until these texts, and no others, are in the elements of a selector. */
export async function shows(page, selector, expected) {
  const texts = (css) => [...document.querySelectorAll(css)].map((node) => node.textContent);
  await eventually(page, texts, expected, selector);
}

export async function assertNothingSticksOut(page) {
  const [needed, there] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(needed <= there, `the page is ${needed} px wide, the window ${there}`);
}

/** Nothing that a stranger wrote has become an element or run. */
export async function assertOnlyText(page, selector) {
  assert.equal(await page.locator(`${selector} :is(img, script, svg, textarea)`).count(), 0);
  assert.equal(await page.locator("body").getAttribute("data-owned"), null);
}
