/**
 * What the browser tests stand on: a real server on a port of its own, a real Chromium, and pages whose complaints
 * are collected. Everything that is started here is ended here, by its own process id.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const root = resolve(here, "../..");
const target = resolve(process.env.CARGO_TARGET_DIR ?? join(root, "target"));
const binary = resolve(process.env.ROLLCALL_BIN ?? join(target, "release/rollcall"));
const screenshots = join(root, "target/screenshots");
/** The packages live with the other build products, so the sources stay clean. */
const packages = process.env.ROLLCALL_NODE_PACKAGES ?? join(root, "target/browser");
const { chromium } = createRequire(join(packages, "package.json"))("playwright-core");

const START_TIMEOUT_MS = 10_000;
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
/** What Chromium itself writes into the console when a server is away. */
const NETWORK_COMPLAINT = /net::ERR_|WebSocket connection to|Failed to load resource/;

/** Leases and ticks short enough for a test, long enough for a reload on a busy machine. */
export const SHORT_TIMES = ["--ttl", "2s", "--grace", "2s", "--tick", "50ms"];

export class Server {
  static async start({ port = 0, args = SHORT_TIMES } = {}) {
    const server = new Server();
    server.child = spawn(binary, ["--listen", `127.0.0.1:${port}`, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    server.ended = once(server.child, "exit");
    server.url = await server.#announcedUrl();
    server.port = Number(new URL(server.url).port);
    return server;
  }

  async #announcedUrl() {
    const lines = createInterface({ input: this.child.stdout });
    const url = new Promise((found, failed) => {
      lines.on("line", (line) => {
        const match = /http:\/\/127\.0\.0\.1:\d+/.exec(line);
        if (match) found(match[0]);
      });
      this.child.once("error", failed);
      this.child.once("exit", (code) => failed(new Error(`${binary} ended with ${code} before it printed its address`)));
      setTimeout(() => failed(new Error(`${binary} printed no address`)), START_TIMEOUT_MS).unref();
    });
    return url;
  }

  signal(name) {
    this.child.kill(name);
  }

  async stop(signal = "SIGTERM") {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    await this.ended;
  }

  /** Others who are online, without a browser: each call keeps them for a ttl. */
  async beat(names) {
    const post = (name) =>
      fetch(`${this.url}/heartbeat`, { method: "POST", body: new URLSearchParams({ user_id: name }) })
        .then((response) => response.ok || Promise.reject(new Error(`heartbeat of ${name}: ${response.status}`)));
    for (let from = 0; from < names.length; from += 50) await Promise.all(names.slice(from, from + 50).map(post));
  }
}

export class Browser {
  static async start() {
    const browser = new Browser();
    browser.profile = mkdtempSync(join(tmpdir(), "rollcall-browser-"));
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: CHROMIUM_ARGS,
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
    page.setDefaultTimeout(15_000);
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

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
