/**
 * Firefox, by its own WebDriver BiDi: no driver is needed between the test and the browser.
 * https://w3c.github.io/webdriver-bidi/
 */

import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { requirePackage } from "../server.mjs";
import { clickActions, keyActions, killGroup, printed, spawnGroup, Tab } from "./tab.mjs";

const { WebSocket } = requirePackage("ws");

/** Nothing is fetched from other hosts. WebDriver BiDi itself turns off updates, telemetry and first-run pages. */
const PREFERENCES = {
  "app.normandy.enabled": false,
  "browser.region.network.url": "",
  "browser.safebrowsing.downloads.remote.enabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "data:,",
};
/** Errors that Firefox itself reports while a server is unreachable, or when a page with a WebSocket is left. */
const NETWORK_ERROR = /can’t establish a connection|was interrupted while the page|Cross-Origin Request Blocked/;

export class Firefox {
  name = "firefox";
  restoresPages = false;
  causeOfRestart = "restarting";
  #problems = [];
  #commands = new Map();

  async start() {
    this.profile = mkdtempSync(join(tmpdir(), "rollcall-firefox-"));
    const line = ([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});\n`;
    writeFileSync(join(this.profile, "user.js"), Object.entries(PREFERENCES).map(line).join(""));
    const flags = ["--headless", "--no-remote", "--profile", this.profile, "--remote-debugging-port", "0"];
    const env = { ...process.env, HOME: this.profile, MOZ_HEADLESS_WIDTH: "1280", MOZ_HEADLESS_HEIGHT: "800" };
    this.child = spawnGroup(process.env.FIREFOX ?? "firefox-esr", flags, { env, stdio: ["ignore", "ignore", "pipe"] });
    const address = await printed(this.child, this.child.stderr, /BiDi listening on (ws:\S+)\n/);
    await this.#connect(`${address}/session`);
  }

  async #connect(address) {
    this.socket = new WebSocket(address, { maxPayload: 0 });
    await once(this.socket, "open");
    this.socket.on("message", (data) => this.#receive(JSON.parse(data)));
    const alwaysMatch = { acceptInsecureCerts: true };
    const { capabilities } = await this.send("session.new", { capabilities: { alwaysMatch } });
    this.version = capabilities.browserVersion;
    await this.send("session.subscribe", { events: ["log.entryAdded"] });
    const report = () => document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      console.error(`policy: ${violatedDirective} ${blockedURI}`));
    await this.send("script.addPreloadScript", { functionDeclaration: String(report) });
  }

  #receive({ id, type, method, params, result, error, message }) {
    if (method === "log.entryAdded" && /error|warn/.test(params.level)) this.#problems.push(params.text);
    const command = this.#commands.get(id);
    this.#commands.delete(id);
    if (type === "success") command?.done(result);
    else if (type === "error") command?.failed(new Error(`${command.method}: ${error}: ${message}`));
  }

  send(method, params) {
    const id = (this.lastId = (this.lastId ?? 0) + 1);
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((done, failed) => this.#commands.set(id, { method, done, failed }));
  }

  async open(url) {
    const { context } = await this.send("browsingContext.create", { type: "window" });
    const tab = new FirefoxTab(this, context);
    await tab.goto(url);
    return tab;
  }

  isNetworkError = (text) => NETWORK_ERROR.test(text);

  takeProblems() {
    return this.#problems.splice(0);
  }

  async stop() {
    this.socket?.terminate();
    await killGroup(this.child);
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

class FirefoxTab extends Tab {
  #firefox;
  #context;

  constructor(firefox, context) {
    super();
    this.#firefox = firefox;
    this.#context = context;
  }

  #send(method, params) {
    return this.#firefox.send(method, { context: this.#context, ...params });
  }

  async goto(url) {
    await this.#send("browsingContext.navigate", { url, wait: "complete" });
  }

  async reload() {
    await this.#send("browsingContext.reload", { wait: "complete" });
  }

  async back() {
    await this.#send("browsingContext.traverseHistory", { delta: -1 });
  }

  async evaluate(call, argument = null) {
    const { type, result, exceptionDetails } = await this.#firefox.send("script.callFunction", {
      functionDeclaration: `async (argument) => JSON.stringify(await (${call})(JSON.parse(argument)))`,
      arguments: [{ type: "string", value: JSON.stringify(argument) }],
      awaitPromise: true,
      target: { context: this.#context },
    });
    if (type === "exception") throw new Error(exceptionDetails.text);
    return result.value === undefined ? undefined : JSON.parse(result.value);
  }

  async press(key) {
    await this.#perform(keyActions(key));
  }

  async clickAt(x, y) {
    await this.#perform(clickActions(x, y));
  }

  async #perform(source) {
    await this.#send("input.performActions", { actions: [source] });
  }

  async png() {
    return Buffer.from((await this.#send("browsingContext.captureScreenshot")).data, "base64");
  }

  async close() {
    await this.#send("browsingContext.close");
  }
}
