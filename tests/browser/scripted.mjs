/** A server that is a script: it says what a test has it say, when the test says so, to presence.js under a clock that is moved by hand. */

import { mock } from "node:test";

export const members = (...users) => users.map((user) => ({ user }));
export const snapshot = (seq, users, more = {}) =>
  ({ type: "snapshot", room: "lobby", epoch: "e1", seq, count: users.length, members: members(...users), page: 1, pages: 1, ...more });
export const diff = (seq, { joined = [], left = [] } = {}) =>
  ({ type: "diff", room: "lobby", seq, joined: members(...joined), left: members(...left) });
export const WELCOME = { type: "welcome", heartbeat_ms: 5_000, ttl_ms: 10_000 };

export class ScriptedServer {
  /** Every socket that was opened; the last one is the one that is talked over. */
  sockets = [];
  /** What presence.js listens to of the browser. */
  listeners = new Map();

  /** From here on time stands, and dice always fall in the middle. */
  constructor() {
    mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
    mock.method(Math, "random", () => 0.5);
    const { sockets, listeners } = this;
    this.WebSocket = class {
      sent = [];
      readyState = 0;
      bufferedAmount = 0;

      constructor(url, protocol) {
        Object.assign(this, { url, protocol });
        sockets.push(this);
      }

      send(text) {
        this.sent.push(text === "heartbeat" ? text : JSON.parse(text));
      }

      close(code) {
        this.closedWith = code;
      }
    };
    globalThis.document = { hidden: false };
    globalThis.addEventListener = (type, handler, { signal }) => {
      const handlers = listeners.get(type) ?? new Set();
      listeners.set(type, handlers.add(handler));
      signal.addEventListener("abort", () => {
        handlers.delete(handler);
        if (handlers.size === 0) listeners.delete(type);
      });
    };
  }

  end() {
    delete globalThis.document;
    delete globalThis.addEventListener;
    mock.timers.reset();
    mock.restoreAll();
  }

  get last() {
    return this.sockets.at(-1);
  }

  sent(type) {
    return this.last.sent.filter((message) => !type || message.type === type);
  }

  welcome() {
    this.last.readyState = 1;
    this.last.onopen?.();
    this.say(WELCOME);
  }

  say(...messages) {
    for (const message of messages) this.last.onmessage?.({ data: JSON.stringify(message) });
  }

  lose(code = 1006, reason = "") {
    this.last.onclose({ code, reason });
  }

  browserSays(type, page = {}) {
    Object.assign(globalThis.document, page);
    for (const handler of this.listeners.get(type)) handler({ type });
  }
}
