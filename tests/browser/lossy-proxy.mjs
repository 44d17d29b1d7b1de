/**
 * A WebSocket proxy that drops, duplicates and delays messages and cuts connections at random. TCP does none of the
 * first three, so a client that copes with this proxy copes with real networks.
 */

import { once } from "node:events";

import { requirePackage } from "./server.mjs";

const { WebSocket, WebSocketServer } = requirePackage("ws");

/**
 * Which messages may be dropped: from the client those that it repeats, from the server all but the welcome. The others
 * are lost only together with their connection.
 */
const DROPPABLE_FROM_CLIENT = /^heartbeat$|"type":"(heartbeat|resync)"/;
const DROPPABLE_FROM_SERVER = /"type":"(?!welcome)/;
const MAX_DELAY_MS = 120;

/** Random numbers in [0, 1), the same for the same seed (mulberry32). */
export function seededRandom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class LossyProxy {
  /** How many messages were treated in each way. */
  counts = { passed: 0, dropped: 0, duplicated: 0, delayed: 0, cut: 0 };
  #pairs = new Set();

  /** In front of `target`. `chances` are `{ drop, duplicate, delay, cut }` per message that matches `matching`. */
  static async start(target, { random, ...chances }) {
    const proxy = new LossyProxy();
    proxy.random = random;
    proxy.chances = chances;
    proxy.server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    proxy.server.on("connection", (client, { url }) => {
      proxy.#pair(client, new WebSocket(target.replace("http", "ws") + url, "presence.v1"));
    });
    await once(proxy.server, "listening");
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  /** From now on all messages pass. */
  passAll() {
    this.chances = {};
  }

  /** Ends all connections without a close frame. */
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
    this.#forward(client, server, open, end, DROPPABLE_FROM_CLIENT);
    this.#forward(server, client, open, end, DROPPABLE_FROM_SERVER);
  }

  #forward(from, to, ready, end, droppable) {
    const deliver = (text) => to.readyState === WebSocket.OPEN && to.send(text);
    let queue = ready;
    from.on("message", (data) => {
      const text = data.toString();
      const action = this.#choose(text, droppable);
      this.counts[action] += 1;
      if (action === "cut") return end();
      if (action === "dropped") return;
      // A delayed message holds up all later ones; a duplicate arrives late and out of order.
      const ms = this.random() * MAX_DELAY_MS;
      if (action === "delayed") queue = queue.then(() => new Promise((done) => setTimeout(done, ms)));
      queue = queue.then(() => deliver(text));
      if (action === "duplicated") setTimeout(() => queue.then(() => deliver(text)), ms);
    });
    const closed = (code, reason) => queue.then(() => {
      if (code === 1006) end();
      else if (to.readyState === WebSocket.OPEN) to.close(code === 1005 ? undefined : code, reason);
    });
    from.on("close", closed);
  }

  #choose(text, droppable) {
    const { matching = /^/, drop = 0, duplicate = 0, delay = 0, cut = 0 } = this.chances;
    if (!matching.test(text)) return "passed";
    let random = this.random();
    if ((random -= drop) < 0) return droppable.test(text) ? "dropped" : "passed";
    if ((random -= duplicate) < 0) return "duplicated";
    if ((random -= delay) < 0) return "delayed";
    return random - cut < 0 ? "cut" : "passed";
  }
}
