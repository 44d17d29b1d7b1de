/**
 * A real rollcall server on a free port, and the npm packages that scripts/browser-test installs. Processes that are
 * started here are ended here, by their process id.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { Agent, request } from "node:http";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const root = resolve(fileURLToPath(new URL(".", import.meta.url)), "../..");
const target = resolve(process.env.CARGO_TARGET_DIR ?? join(root, "target"));
const binary = resolve(process.env.ROLLCALL_BIN ?? join(target, "debug/rollcall"));
/** In the build folder, so that the sources stay clean. */
export const packages = process.env.ROLLCALL_NODE_PACKAGES ?? join(root, "target/browser");
export const requirePackage = createRequire(join(packages, "package.json"));

const { WebSocket } = requirePackage("ws");

/** How long a test waits for anything. Only failures take this long, so an overloaded machine is slow but not red. */
export const DEADLINE_MS = 120_000;
const POLL_INTERVAL_MS = 50;
const HEARTBEATS_AT_ONCE = 500;

/** The lease is long enough for seconds without CPU; users who close a tab leave soon. */
export const DEFAULT_TIMES = ["--ttl", "30s", "--grace", "2s", "--tick", "50ms"];
/** For a reload or a reconnect that has to be finished within the grace period. */
export const LONG_GRACE = ["--ttl", "30s", "--grace", "30s", "--tick", "50ms"];
/** For tests that wait for a lease to end, still with room for seconds without CPU. */
export const SHORT_LEASE = ["--ttl", "20s", "--grace", "2s", "--tick", "50ms", "--ping-interval", "5s"];
/**
 * Short intervals for heartbeats and reconnects, for tests that do not depend on a lease. Clients probe a server that
 * is silent for three intervals, and give it up if it has no CPU for four seconds.
 */
export const SHORT_TIMES = ["--ttl", "8s", "--grace", "2s", "--tick", "50ms"];
/** Longer than any test: one REST heartbeat keeps a user online. */
export const LONG_LEASE = ["--ttl", "1h", "--grace", "10s", "--tick", "50ms"];

/** A browser that gets no CPU must not be refused for a slow request. */
const HEADER_TIMEOUT = ["--header-timeout", "2m"];

/**
 * Below the ports that the system assigns to connections, so that no connection takes one while a server restarts, and
 * not those of tests/clients and scripts/measure.py.
 */
const [FIRST_PORT, LAST_PORT] = [22_000, 32_000];

/** Returns a server that listens, or null if the port is taken. */
async function listen(port, host) {
  const server = createServer().listen(port, host).unref();
  return once(server, "listening").then(() => server, () => null);
}

/**
 * A port that no other call returns, also in test files that run at the same time: a server can take seconds until it
 * listens, and can be restarted. The same port of another loopback address, which is taken until this process ends,
 * reserves it.
 */
export async function freePort() {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT));
    const probe = (await listen(port, "127.0.0.2")) && (await listen(port, "127.0.0.1"));
    if (!probe) continue;
    await new Promise((closed) => probe.close(closed));
    return port;
  }
}

export class Server {
  static async start({ port, args = DEFAULT_TIMES } = {}) {
    const server = new Server();
    server.port = port ?? (await freePort());
    server.key = args.includes("--api-key") ? args[args.indexOf("--api-key") + 1] : undefined;
    const flags = ["--listen", `127.0.0.1:${server.port}`, ...HEADER_TIMEOUT, ...args];
    server.child = spawn(binary, flags, { stdio: ["ignore", "pipe", "inherit"] });
    server.ended = once(server.child, "exit");
    server.url = await server.#printedUrl();
    return server;
  }

  async #printedUrl() {
    const lines = createInterface({ input: this.child.stdout });
    const url = new Promise((found, failed) => {
      lines.on("line", (line) => {
        const match = /https?:\/\/127\.0\.0\.1:\d+/.exec(line);
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

  /** Sends a REST heartbeat for each name, which keeps the user online for a ttl. */
  async sendHeartbeats(names) {
    // The first heartbeat of a user is answered after the next tick, so many at once are faster. `fetch` takes three
    // times the CPU of `request`.
    const agent = new Agent({ keepAlive: true, maxSockets: HEARTBEATS_AT_ONCE });
    await Promise.all(names.map((name) => this.#sendHeartbeat(name, agent)));
    agent.destroy();
  }

  #sendHeartbeat(name, agent) {
    return new Promise((done, failed) => {
      const options = { agent, method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" } };
      const post = request(`${this.url}/heartbeat`, options, (response) => {
        if (response.statusCode !== 200) failed(new Error(`heartbeat of ${name}: ${response.statusCode}`));
        response.on("end", done).resume();
      });
      post.on("error", failed).end(String(new URLSearchParams({ user_id: name })));
    });
  }

  async membersOf(room) {
    const headers = this.key ? { authorization: `Bearer ${this.key}` } : {};
    return (await fetch(`${this.url}/v1/rooms/${encodeURIComponent(room)}/members`, { headers })).json();
  }

  /** Waits until a user who lost the connection just now has left, by the time of the server. */
  async waitForGraceToEnd() {
    await this.#waitForLeave((socket) => socket.terminate());
  }

  /** Waits until a user who is silent from now on has left, by the time of the server. */
  async waitForLeaseToEnd() {
    await this.#waitForLeave(() => {});
  }

  /** With a user in a separate room, so that no test sees it. */
  async #waitForLeave(disconnect) {
    const room = `timer-${Math.random()}`;
    const url = `${this.url.replace("http", "ws")}/v1/connect?user=${room}&room=${room}`;
    const socket = new WebSocket(url, "presence.v1", { autoPong: false });
    try {
      await once(socket, "open");
      await until(`${room} has joined`, async () => (await this.membersOf(room)).count === 1);
      disconnect(socket);
      await until(`${room} has left`, async () => (await this.membersOf(room)).count === 0);
    } finally {
      socket.terminate();
    }
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Waits until `holds()` is true. `what` is the expected condition, or a function that describes it. */
export async function until(what, holds) {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`timed out: ${typeof what === "function" ? await what() : what}`);
    await sleep(POLL_INTERVAL_MS);
  }
}
