/**
 * What the browser tests stand on: a real Chromium, and pages whose complaints are collected.
 */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { DEADLINE_MS, installed, root } from "./server.mjs";

const screenshots = join(root, "target/screenshots");
const { chromium } = installed("playwright-core");

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
/** What Chromium itself writes to the console while a server is away. */
const NETWORK_COMPLAINT = /net::ERR_|WebSocket connection to|Failed to load resource/;

export class Browser {
  static async start() {
    const browser = new Browser();
    browser.profile = mkdtempSync(join(tmpdir(), "rollcall-browser-"));
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: CHROMIUM_ARGS,
      timeout: DEADLINE_MS,
      env: { ...process.env, HOME: browser.profile, XDG_CONFIG_HOME: browser.profile, XDG_CACHE_HOME: browser.profile },
    });
    return browser;
  }

  async stop() {
    await this.chromium.close();
    rmSync(this.profile, { recursive: true, force: true });
  }

  /** Somebody with a browser of their own: nothing is shared with the others but the server. */
  async visitor(options = {}) {
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
  /** What the Content-Security-Policy stopped. */
  violations = [];
  /** Console errors, warnings and uncaught exceptions. */
  complaints = [];

  constructor(context) {
    this.context = context;
  }

  async open(server, name, { path = `/?user=${encodeURIComponent(name)}`, online = true } = {}) {
    const page = await this.context.newPage();
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) this.complaints.push(message.text());
    });
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    await page.goto(server.url + path);
    if (online) await phase(page, "online");
    return page;
  }

  /** Everything that was complained about, without the network's own errors where a server was meant to be away. */
  problems({ serverWasAway = false } = {}) {
    const complaints = this.complaints.filter((text) => !(serverWasAway && NETWORK_COMPLAINT.test(text)));
    return [...this.violations, ...complaints];
  }

  async leave() {
    await this.context.close();
  }
}

export async function phase(page, expected) {
  await page.locator(`body[data-phase="${expected}"]`).waitFor({ state: "attached" });
}

/** Waits until the page has noticed that what it shows is not live; a phase may be over before anybody looks. */
export async function stale(page) {
  await page.locator('body[data-stale="true"]').waitFor({ state: "attached" });
}

/** The names on the page, in its order; those on their way out are not counted. */
export function roster(page) {
  return page.locator("#roster > .row:not(.leaving) .name").allTextContents();
}

/** Waits until the page shows exactly these, in this order. */
export async function showsRoster(page, expected) {
  const shown = (names) => {
    const rows = [...document.querySelectorAll("#roster > .row:not(.leaving) .name")];
    return JSON.stringify(rows.map((row) => row.textContent)) === JSON.stringify(names);
  };
  await page.waitForFunction(shown, expected).catch(async () => {
    throw new Error(`expected ${JSON.stringify(expected)}, the page shows ${JSON.stringify(await roster(page))}`);
  });
}

/** The room's sequence number as the page prints it: unchanged means that nobody was told anything. */
export async function seqOf(page) {
  return /seq (\d+)/.exec(await page.locator("#wire").innerText())[1];
}

export async function screenshot(page, name) {
  mkdirSync(screenshots, { recursive: true });
  await page.screenshot({ path: join(screenshots, `${name}.png`) });
}
