/**
 * What the tests of the client and of the pages stand on: a real server on a port of its own, and the npm packages that
 * scripts/browser-test has installed. What is started here is ended here, by its own process id.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const root = resolve(fileURLToPath(new URL(".", import.meta.url)), "../..");
const target = resolve(process.env.CARGO_TARGET_DIR ?? join(root, "target"));
const binary = resolve(process.env.ROLLCALL_BIN ?? join(target, "release/rollcall"));
/** The packages live with the other build products, so the sources stay clean. */
export const packages = process.env.ROLLCALL_NODE_PACKAGES ?? join(root, "target/browser");
export const installed = createRequire(join(packages, "package.json"));

const START_TIMEOUT_MS = 10_000;

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
    // Each first heartbeat is answered at the next tick: many at once are done sooner.
    for (let from = 0; from < names.length; from += 500) await Promise.all(names.slice(from, from + 500).map(post));
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
