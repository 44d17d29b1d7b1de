/** A fake server for presence.js: it sends what a test gives it, and its clock stands still unless the test moves it. */

import { mock } from "node:test";

export const members = (...users) => users.map((user) => ({ user }));
export const snapshot = (seq, users, fields = {}) => ({
  type: "snapshot", room: "lobby", epoch: "e1", seq, count: users.length, members: members(...users), page: 1, pages: 1, ...fields,
});
export const diff = (seq, { joined = [], left = [] } = {}) =>
  ({ type: "diff", room: "lobby", seq, joined: members(...joined), left: members(...left) });
export const WELCOME = { type: "welcome", heartbeat_ms: 5_000, ttl_ms: 10_000 };

const OPEN = 1;

export class FakeServer {
  /** Every socket that presence.js opened. The last one is in use. */
  sockets = [];
  /** The browser events that presence.js listens to. */
  listeners = new Map();

  /** Stops the clock, and makes every random number 0.5. */
  constructor() {
    mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
    mock.method(Math, "random", () => 0.5);
    const { sockets, listeners } = this;
    this.WebSocket = class {
      received = [];
      readyState = 0;
      bufferedAmount = 0;

      constructor(url, protocols) {
        Object.assign(this, { url, protocols });
        sockets.push(this);
      }

      send(text) {
        this.received.push(text === "heartbeat" ? text : JSON.parse(text));
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

  get socket() {
    return this.sockets.at(-1);
  }

  /** The messages that the present socket received. */
  received(type) {
    return this.socket.received.filter((message) => !type || message.type === type);
  }

  welcome(fields = {}) {
    this.socket.readyState = OPEN;
    this.socket.onopen?.();
    this.send({ ...WELCOME, ...fields });
  }

  send(...messages) {
    for (const message of messages) this.socket.onmessage?.({ data: JSON.stringify(message) });
  }

  /** Closes the connection. */
  close(code = 1006, reason = "") {
    this.socket.onclose({ code, reason });
  }

  /** Fires a browser event, after changing properties of the document. */
  dispatch(type, changes = {}, { persisted } = {}) {
    Object.assign(globalThis.document, changes);
    for (const handler of this.listeners.get(type) ?? []) handler({ type, persisted });
  }
}
