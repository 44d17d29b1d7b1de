/**
 * A proxy that knows WebSocket messages and mistreats them: it drops, duplicates, delays and cuts, as its dice say. TCP
 * promises that none of this happens; a client that survives it survives what does happen.
 */

import { once } from "node:events";

import { installed } from "./server.mjs";

const { WebSocket, WebSocketServer } = installed("ws");

/**
 * Who has lost a join, or the welcome, has lost the connection: TCP loses nothing else. All others may be dropped: what a
 * client asks for again by itself, and everything that the server tells.
 */
const FROM_CLIENT = /^heartbeat$|"type":"(heartbeat|resync)"/;
const FROM_SERVER = /"type":"(?!welcome)/;

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function dice(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Proxy {
  /** What was done to messages, for the record of a run. */
  done = { passed: 0, dropped: 0, duplicated: 0, delayed: 0, cut: 0 };
  #pairs = new Set();

  /** In front of `target`, with chances `{ drop, duplicate, delay, cut }` per message, or per message that matches `of`. */
  static async start(target, { random, ...chances }) {
    const proxy = new Proxy();
    proxy.random = random;
    proxy.chances = chances;
    proxy.server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    proxy.server.on("connection", (client, { url }) => proxy.#pair(client, new WebSocket(target.replace("http", "ws") + url, "presence.v1")));
    await once(proxy.server, "listening");
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  /** From now on everything is passed on as it is. */
  calm() {
    this.chances = {};
  }

  /** Ends all connections without a word. */
  cut() {
    for (const end of this.#pairs) end();
  }

  async stop() {
    this.cut();
    await new Promise((done) => this.server.close(done));
  }

  #pair(client, server) {
    const end = () => {
      this.#pairs.delete(end);
      client.terminate();
      server.terminate();
    };
    this.#pairs.add(end);
    client.on("error", end);
    server.on("error", end);
    const open = once(server, "open").catch(end);
    this.#pass(client, server, open, end, FROM_CLIENT);
    this.#pass(server, client, open, end, FROM_SERVER);
  }

  #pass(from, to, ready, end, mayBeLost) {
    const deliver = (text) => to.readyState === WebSocket.OPEN && to.send(text);
    let queue = ready;
    from.on("message", (data) => {
      const text = data.toString();
      const fate = this.#fate(text, mayBeLost);
      this.done[fate] += 1;
      if (fate === "cut") return end();
      if (fate === "dropped") return;
      // A delay holds up what comes behind it; a duplicate comes late and out of order.
      const ms = this.random() * 120;
      if (fate === "delayed") queue = queue.then(() => new Promise((done) => setTimeout(done, ms)));
      queue = queue.then(() => deliver(text));
      if (fate === "duplicated") setTimeout(() => queue.then(() => deliver(text)), ms);
    });
    const closed = (code, reason) => queue.then(() => {
      if (code === 1006) end();
      else if (to.readyState === WebSocket.OPEN) to.close(code === 1005 ? undefined : code, reason);
    });
    from.on("close", closed);
  }

  #fate(text, mayBeLost) {
    const { of = /^/, drop = 0, duplicate = 0, delay = 0, cut = 0 } = this.chances;
    if (!of.test(text)) return "passed";
    let roll = this.random();
    if ((roll -= drop) < 0) return mayBeLost.test(text) ? "dropped" : "passed";
    if ((roll -= duplicate) < 0) return "duplicated";
    if ((roll -= delay) < 0) return "delayed";
    return roll - cut < 0 ? "cut" : "passed";
  }
}
