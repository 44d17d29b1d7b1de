/**
 * What the tests of the client and of the pages stand on: a real server on a port of its own, and the npm packages that
 * scripts/browser-test has installed. What is started here is ended here, by its own process id.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const root = resolve(fileURLToPath(new URL(".", import.meta.url)), "../..");
const target = resolve(process.env.CARGO_TARGET_DIR ?? join(root, "target"));
const binary = resolve(process.env.ROLLCALL_BIN ?? join(target, "debug/rollcall"));
/** The packages live with the other build products, so the sources stay clean. */
export const packages = process.env.ROLLCALL_NODE_PACKAGES ?? join(root, "target/browser");
export const installed = createRequire(join(packages, "package.json"));

const { WebSocket } = installed("ws");

/** How long anything may take before a test gives up: only failures take so long, so a machine without CPU to spare is slower and not red. */
export const DEADLINE_MS = 120_000;
const ASK_EVERY_MS = 50;

/** Nobody who is starved of CPU for seconds is taken for dead, and who closes a tab is soon seen to have gone. */
export const STEADY = ["--ttl", "30s", "--grace", "2s", "--tick", "50ms"];
/** For what has to happen within the grace: a reload, a reconnect. */
export const LONG_GRACE = ["--ttl", "15s", "--grace", "15s", "--tick", "50ms"];
/** A lease, and pings, that a test waits to be over, with room for seconds without CPU. */
export const LEASE = ["--ttl", "12s", "--grace", "2s", "--tick", "50ms", "--ping-interval", "5s"];
/** Heartbeats and reconnects come soon, where nobody asks whether a lease was kept. */
export const HASTY = ["--ttl", "4s", "--grace", "2s", "--tick", "50ms"];

/** A client that is slow to say what it wants is not sent away. */
const PATIENT = ["--header-timeout", "2m"];

/** Below the ports that the system gives to connections: nobody takes it while a server restarts. */
const [FIRST_PORT, LAST_PORT] = [20_000, 32_000];

export async function freePort() {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT));
    const probe = createServer().listen(port, "127.0.0.1");
    const free = await once(probe, "listening").then(() => true, () => false);
    if (!free) continue;
    probe.close();
    await once(probe, "close");
    return port;
  }
}

export class Server {
  static async start({ port, args = STEADY } = {}) {
    const server = new Server();
    server.port = port ?? (await freePort());
    server.child = spawn(binary, ["--listen", `127.0.0.1:${server.port}`, ...PATIENT, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    server.ended = once(server.child, "exit");
    server.url = await server.#announcedUrl();
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
      setTimeout(() => failed(new Error(`${binary} printed no address`)), DEADLINE_MS).unref();
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

  async membersOf(room) {
    return (await fetch(`${this.url}/v1/rooms/${encodeURIComponent(room)}/members`)).json();
  }

  /** Waits until somebody who lost the connection just now has been taken for gone, by the server's own time. */
  async graceIsOver() {
    await this.#gone((witness) => witness.terminate());
  }

  /** Waits until somebody of whom nothing was heard from now on has been taken for gone, by the server's own time. */
  async leaseIsOver() {
    await this.#gone(() => {});
  }

  /** In a room of its own, so that nobody is shown anything. */
  async #gone(leave) {
    const room = `witness-${Math.random()}`;
    const witness = new WebSocket(`${this.url.replace("http", "ws")}/v1/connect?user=${room}&room=${room}`, "presence.v1", { autoPong: false });
    try {
      await once(witness, "open");
      await until("the witness is here", async () => (await this.membersOf(room)).count === 1);
      leave(witness);
      await until("the witness has gone", async () => (await this.membersOf(room)).count === 0);
    } finally {
      witness.terminate();
    }
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Waits until `holds()` is true; `what` says what should have been, or is asked for it. */
export async function until(what, holds) {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`never: ${typeof what === "function" ? await what() : what}`);
    await sleep(ASK_EVERY_MS);
  }
}
