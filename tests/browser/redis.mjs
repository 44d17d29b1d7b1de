/** A real redis-server of a test: on a free port, in a temporary folder, without persistence. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { freePort, until } from "./server.mjs";

const accepts = (port) => new Promise((done) => {
  const socket = connect(port, "127.0.0.1", () => done(true) ?? socket.destroy());
  socket.on("error", () => done(false));
});

export class Redis {
  #folder = mkdtempSync(join(tmpdir(), "rollcall-redis-"));
  #child;

  static async start() {
    const redis = new Redis();
    redis.port = await freePort();
    await redis.run();
    return redis;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Starts the server, empty; also after `kill`. */
  async run() {
    const flags = ["--port", this.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", this.#folder];
    this.#child = spawn("redis-server", flags.map(String), { stdio: "ignore" });
    await until(`redis-server listens on ${this.port}`, () => {
      if (this.#child.exitCode !== null) throw new Error(`redis-server ended with ${this.#child.exitCode}`);
      return accepts(this.port);
    });
  }

  async kill() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill("SIGKILL");
    await once(this.#child, "exit");
  }

  async stop() {
    await this.kill();
    rmSync(this.#folder, { recursive: true });
  }
}
