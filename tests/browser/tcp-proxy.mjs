/** A TCP proxy in front of a server, to lose the network: connections are reset, or nothing arrives any more. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class TcpProxy {
  #pairs = new Set();
  #phase = "forward";

  static async start(port) {
    const proxy = new TcpProxy();
    proxy.server = createServer((client) => proxy.#accept(client, port)).listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  #accept(client, port) {
    client.on("error", () => {});
    if (this.#phase === "cut") return void client.resetAndDestroy();
    const server = connect(port, "127.0.0.1");
    const pair = [client, server];
    this.#pairs.add(pair);
    for (const [from, to] of [pair, [server, client]]) {
      from.on("error", () => {});
      from.on("data", (bytes) => to.write(bytes));
      from.on("end", () => to.end());
      from.on("close", () => {
        this.#pairs.delete(pair);
        to.destroy();
      });
    }
    if (this.#phase === "silent") for (const socket of pair) socket.pause();
  }

  /** Resets all connections, also those that are opened from now on. */
  cut() {
    this.#phase = "cut";
    for (const [client, server] of this.#pairs) {
      client.resetAndDestroy();
      server.resetAndDestroy();
    }
  }

  /** Connections stay open, but nothing arrives at the other end. */
  silence() {
    this.#phase = "silent";
    for (const socket of [...this.#pairs].flat()) socket.pause();
  }

  /** The network is back. Connections from the time of silence were lost. */
  resume() {
    for (const socket of [...this.#pairs].flat()) socket.resetAndDestroy();
    this.#phase = "forward";
  }

  async stop() {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }
}
