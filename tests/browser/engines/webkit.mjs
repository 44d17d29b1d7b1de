/** WebKitGTK, the engine of Safari, by WebKitWebDriver on a virtual screen. https://www.w3.org/TR/webdriver2/ */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { freePort, until } from "../server.mjs";
import { clickActions, keyActions, killGroup, printed, spawnGroup, Tab } from "./tab.mjs";

const BROWSER = fileURLToPath(new URL("webkit-browser.py", import.meta.url));
/** Errors that WebKit itself reports while a server is unreachable. */
const NETWORK_ERROR = /WebSocket connection to|Failed to load resource|WebSocket network error/;
/** A page in the back/forward cache has closed its socket, but WebKit does not wait for the answer of the server. */
const SUSPENDED = /WebSocket is closed due to suspension/;

export class WebKit {
  name = "webkit";
  restoresPages = true;
  /** The HTTP library of WebKitGTK does not accept the close code 1012 (nor 1013). Safari has another one. */
  causeOfRestart = "cut";
  #processes = [];
  #read = 0;
  /** The driver has one current window, so commands of several tabs must not mix. */
  #queue = Promise.resolve();
  #current = null;
  /** Stays open, since a session ends with its last window. */
  #firstWindow = null;

  async start() {
    this.folder = mkdtempSync(join(tmpdir(), "rollcall-webkit-"));
    this.log = join(this.folder, "log");
    writeFileSync(this.log, "");
    const screen = ["-displayfd", "3", "-screen", "0", "1280x800x24", "-nolisten", "tcp"];
    const xvfb = this.#spawn("Xvfb", screen, { stdio: ["ignore", "ignore", "pipe", "pipe"] });
    const display = await printed(xvfb, xvfb.stdio[3], /(\d+)\n/);
    const { folder } = this;
    const env = { ...process.env, DISPLAY: `:${display}`, HOME: folder, XDG_RUNTIME_DIR: folder, XDG_DATA_HOME: folder,
      XDG_CACHE_HOME: folder, NO_AT_BRIDGE: "1", WEBKIT_LOG: this.log };
    const port = await freePort();
    this.url = `http://127.0.0.1:${port}`;
    const driver = this.#spawn("WebKitWebDriver", [`--port=${port}`, "--host=127.0.0.1"], { env, stdio: "ignore" });
    let ended;
    driver.once("error", (error) => (ended = error));
    driver.once("exit", (code) => (ended = new Error(`WebKitWebDriver ended with ${code}`)));
    await until("WebKitWebDriver answers", () => {
      if (ended) throw ended;
      return fetch(`${this.url}/status`).then(({ ok }) => ok, () => false);
    });
    await this.#createSession();
  }

  #spawn(command, args, options) {
    const child = spawnGroup(command, args, options);
    this.#processes.push(child);
    return child;
  }

  async #createSession() {
    const options = { binary: BROWSER, args: [] };
    const alwaysMatch = { acceptInsecureCerts: true, "webkitgtk:browserOptions": options };
    const { sessionId, capabilities } = await this.#request("POST", "/session", { capabilities: { alwaysMatch } });
    this.version = capabilities.browserVersion;
    this.session = `/session/${sessionId}`;
    await this.#request("POST", `${this.session}/timeouts`, { script: null });
    this.#firstWindow = await this.#request("GET", `${this.session}/window`);
  }

  async #request(method, path, body) {
    const response = await fetch(this.url + path, { method, body: body && JSON.stringify(body) });
    const { value } = await response.json();
    if (value?.error) throw new Error(`${method} ${path}: ${value.error}: ${value.message}`);
    return value;
  }

  /** A command for a window. */
  send(method, path, body, window) {
    const result = this.#queue.then(async () => {
      if (window !== this.#current) {
        await this.#request("POST", `${this.session}/window`, { handle: window });
        this.#current = window;
      }
      return this.#request(method, this.session + path, body);
    });
    this.#queue = result.catch(() => {});
    return result;
  }

  async open(url) {
    const { handle } = await this.send("POST", "/window/new", { type: "window" }, this.#firstWindow);
    const tab = new WebKitTab(this, handle);
    await tab.goto(url);
    return tab;
  }

  isNetworkError = (text) => NETWORK_ERROR.test(text);

  takeProblems() {
    const text = readFileSync(this.log, "utf8");
    const lines = text.slice(this.#read).split("\n");
    this.#read = text.length;
    return lines.filter((line) => /CONSOLE .*(ERROR|WARN)/.test(line) && !SUSPENDED.test(line));
  }

  async stop() {
    for (const child of this.#processes.reverse()) await killGroup(child);
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

class WebKitTab extends Tab {
  #webkit;
  #window;

  constructor(webkit, window) {
    super();
    this.#webkit = webkit;
    this.#window = window;
  }

  #send(method, path, body) {
    return this.#webkit.send(method, path, body, this.#window);
  }

  async goto(url) {
    await this.#send("POST", "/url", { url });
  }

  async reload() {
    await this.#send("POST", "/refresh", {});
  }

  async back() {
    await this.#send("POST", "/back", {});
  }

  async evaluate(call, argument = null) {
    const script = `const [argument, done] = arguments;
      (async () => JSON.stringify(await (${call})(JSON.parse(argument))))()
        .then((value) => done({ value }), (error) => done({ error: String(error) }));`;
    const { value, error } = await this.#send("POST", "/execute/async", { script, args: [JSON.stringify(argument)] });
    if (error) throw new Error(error);
    return value === undefined ? undefined : JSON.parse(value);
  }

  async press(key) {
    await this.#perform(keyActions(key));
  }

  async clickAt(x, y) {
    await this.#perform(clickActions(x, y));
  }

  async #perform(source) {
    await this.#send("POST", "/actions", { actions: [source] });
  }

  async png() {
    return Buffer.from(await this.#send("GET", "/screenshot"), "base64");
  }

  async close() {
    await this.#send("DELETE", "/window");
  }
}
