/** Chromium and its pages for the browser tests. Collects what the pages report as errors. */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { DEADLINE_MS, requirePackage, root } from "./server.mjs";

const screenshots = join(root, "target/screenshots");
const { chromium } = requirePackage("playwright-core");

const CHROMIUM_ARGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** Errors that Chromium itself writes to the console while a server is unreachable. */
export const NETWORK_ERROR = /net::ERR_|WebSocket connection to|Failed to load resource/;

export class Browser {
  /** `options` are further ones of Playwright. */
  static async start(options = {}) {
    const browser = new Browser();
    browser.profile = mkdtempSync(join(tmpdir(), "rollcall-browser-"));
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: CHROMIUM_ARGS,
      timeout: DEADLINE_MS,
      env: { ...process.env, HOME: browser.profile, XDG_CONFIG_HOME: browser.profile, XDG_CACHE_HOME: browser.profile },
      ...options,
    });
    return browser;
  }

  async stop() {
    await this.chromium.close();
    // A process of the browser can still be writing when the first one has ended.
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 10 });
  }

  /** A user with separate cookies and storage, as in another browser. */
  async newVisitor(options = {}) {
    const context = await this.chromium.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    context.setDefaultTimeout(DEADLINE_MS);
    const visitor = new Visitor(context);
    await context.exposeBinding("reportViolation", (_, violation) => visitor.violations.push(violation));
    await context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) =>
        window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`));
    });
    return visitor;
  }
}

export class Visitor {
  /** What the Content-Security-Policy blocked. */
  violations = [];
  /** Console errors, warnings and uncaught exceptions. */
  errors = [];

  constructor(context) {
    this.context = context;
  }

  async open(server, name, { path = `/?user=${encodeURIComponent(name)}`, online = true } = {}) {
    const page = await this.context.newPage();
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) this.errors.push(message.text());
    });
    page.on("pageerror", (error) => this.errors.push(String(error)));
    await page.goto(server.url + path);
    if (online) await waitForPhase(page, "online");
    return page;
  }

  /** All errors; without network errors if the server was unreachable. */
  problems({ serverWasUnreachable = false } = {}) {
    const errors = this.errors.filter((text) => !(serverWasUnreachable && NETWORK_ERROR.test(text)));
    return [...this.violations, ...errors];
  }

  async close() {
    await this.context.close();
  }
}

export async function waitForPhase(page, expected) {
  await page.locator(`body[data-phase="${expected}"]`).waitFor({ state: "attached" });
}

/**
 * Waits until the page marks its content as not live. Phases can be too short for waitForPhase. Also this mark can be
 * too short, unless the page cannot reconnect until it was seen.
 */
export async function waitForStale(page) {
  await page.locator('body[data-stale="true"]').waitFor({ state: "attached" });
}

/** Stops the clock of a page, which was installed before. From now on only the test moves it. */
export async function pauseClock(page) {
  const soon = () => page.clock.pauseAt(Date.now() + 1_000);
  // The time must still be in the future when the command arrives. A command that is late stops the clock, too.
  await soon().catch(soon);
}

/** The names on the page `/`, in its order. Rows that are animated out are not counted. */
export function rosterNames(page) {
  return page.locator("#roster > .row:not(.leaving) .name").allTextContents();
}

/** Waits until the page `/` shows exactly these names, in this order. */
export async function showsRoster(page, expected) {
  const shown = (names) => {
    const rows = [...document.querySelectorAll("#roster > .row:not(.leaving) .name")];
    return JSON.stringify(rows.map((row) => row.textContent)) === JSON.stringify(names);
  };
  await page.waitForFunction(shown, expected).catch(async () => {
    throw new Error(`expected ${JSON.stringify(expected)}, the page shows ${JSON.stringify(await rosterNames(page))}`);
  });
}

/** The sequence number of the room, as printed on the page `/`. If it stays the same, no diff was sent. */
export async function seqOf(page) {
  return Number(/seq (\d+)/.exec(await page.locator("#facts").innerText())[1]);
}

export async function screenshot(page, name) {
  mkdirSync(screenshots, { recursive: true });
  await page.screenshot({ path: join(screenshots, `${name}.png`) });
}
