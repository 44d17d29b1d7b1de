/**
 * What the scenarios of all engines share: a browser, a server and a page of another site per test, and an observer in
 * Node, which sees what other users see.
 */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, afterEach, before } from "node:test";

import { connect } from "../../../src/web/client/presence.js";
import { requirePackage, Server, until } from "../server.mjs";

const { WebSocket } = requirePackage("ws");

/** A page that joins the room `room` and records its phases and messages. */
const APP = `<!doctype html><meta charset="utf-8"><title>app</title><link rel="icon" href="data:,">
  <script type="module">
  const query = new URLSearchParams(location.search);
  const { connect } = await import(query.get("server") + "/presence.js");
  const token = query.has("token") ? async () => (await fetch("/token?user=" + query.get("token"))).text() : undefined;
  const presence = connect(query.get("url"), { user: query.get("user") ?? undefined, token });
  const room = presence.join("room", { state: { tab: document.title } });
  const seen = [];
  addEventListener("pageshow", ({ persisted }) => persisted && seen.push("restored"));
  presence.on("phase", ({ phase, cause }) => seen.push(cause ? phase + " " + cause.kind : phase));
  room.on("message", ({ user, data }) => seen.push(user + ": " + data));
  Object.assign(window, { presence, room, seen });
</script>`;

export const phase = () => window.presence?.connection.phase ?? null;
export const members = () => [...(window.room?.members.keys() ?? [])].sort();
export const seen = () => window.seen ?? null;

/** A page that reconnects without a wait, and is not frozen soon after it was left. Evaluated in the page. */
export function reconnectSoon() {
  Math.random = () => 0;
  const work = () => {
    for (const start = Date.now(); Date.now() < start + 300;);
  };
  addEventListener("pagehide", () => setTimeout(work));
}

export class Suite {
  /** Path → the HTML of a page of the other site; a function answers the request itself. */
  pages = {};
  #clients = [];
  #tabs = [];

  /** Create one per suite of node:test. */
  constructor(Engine) {
    this.engine = new Engine();
    before(async () => {
      await Promise.all([this.engine.start(), this.#startSite()]);
      console.log(`${this.engine.name} ${this.engine.version}`);
    });
    after(async () => {
      this.site?.close();
      await this.engine.stop();
    });
    afterEach(() => this.#clear());
  }

  async #startSite() {
    this.site = createServer((request, response) => {
      const { pathname } = new URL(request.url, "http://site");
      const page = pathname === "/app" ? APP : this.pages[pathname];
      if (typeof page === "function") return page(request, response);
      return response.writeHead(page ? 200 : 404, { "content-type": "text/html; charset=utf-8" }).end(page);
    }).listen(0, "127.0.0.1");
    await once(this.site, "listening");
    // Not the host of the server, so they are also different sites.
    this.site.url = `http://localhost:${this.site.address().port}`;
  }

  async #clear() {
    for (const client of this.#clients.splice(0)) client.close();
    await Promise.all(this.#tabs.splice(0).map((tab) => tab.close().catch(() => {})));
    await this.proxy?.stop();
    await this.server?.stop("SIGKILL");
    this.proxy = this.server = undefined;
    this.engine.takeProblems();
    this.pages = {};
  }

  async startServer(args) {
    this.server = await Server.start({ args });
  }

  /** On the same port, after the server has stopped. */
  async startAgain(args) {
    const { port } = this.server;
    this.server = await Server.start({ port, args });
  }

  async open(url) {
    const tab = await this.engine.open(url);
    this.#tabs.push(tab);
    return tab;
  }

  /** Opens the page of another site that joins `room`. */
  openApp(query) {
    const { url } = this.server;
    return this.open(`${this.site.url}/app?${new URLSearchParams({ server: url, url, ...query })}`);
  }

  /** Opens a page of the server. */
  openPage(path) {
    return this.open(this.server.url + path);
  }

  #connect(user, options) {
    const client = connect(this.server.url, { user, WebSocket, ...options });
    this.#clients.push(client);
    return client;
  }

  /** Returns what an observer sees of a room from now on: [[event, user, reason], …]. */
  async observe(name, options) {
    const events = [];
    const room = this.#connect("observer", options).observe(name);
    await until("the observer sees the room", () => room.ready);
    for (const event of ["join", "leave"]) {
      room.on(event, ({ user, reason }) => events.push(reason ? [event, user, reason] : [event, user]));
    }
    return events;
  }

  /** Returns when the observer has seen all changes until now: a user who joins now is the last one. */
  async settled(events, name, options) {
    const user = `last-${events.length}`;
    this.#connect(user, options).join(name);
    await until("the observer sees the last user", () => events.some(([, joined]) => joined === user));
    return events.filter(([, name]) => !name.startsWith("last-"));
  }

  assertNoProblems({ networkErrors = false } = {}) {
    const isExpected = (text) => networkErrors && this.engine.isNetworkError(text);
    assert.deepEqual(this.engine.takeProblems().filter((text) => !isExpected(text)), []);
  }
}
