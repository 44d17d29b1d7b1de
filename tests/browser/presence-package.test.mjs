/** presence.js as it is distributed: served over HTTP, as an npm package, with types, and its size. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";

import { DEADLINE_MS, packages, root, Server } from "./server.mjs";

const MAX_GZIPPED_BYTES = 5_000;
/** The size depends a little on the version of zlib. */
const ZLIB_DIFFERENCE_BYTES = 16;
const run = promisify(execFile);
const source = join(root, "src/web/client");
const { version, name } = JSON.parse(readFileSync(join(source, "package.json")));

let folder;
let server;
before(async () => {
  folder = mkdtempSync(join(tmpdir(), "presence-package-"));
  server = await Server.start();
});
after(async () => {
  await server.stop();
  rmSync(folder, { recursive: true });
});

const isCode = (line) => line && !line.startsWith("//");
const withoutComments = (text) => text.split("\n").map((line) => line.trimStart()).filter(isCode).join("\n") + "\n";

for (const [file, type, served] of [
  ["presence.js", "text/javascript", withoutComments],
  ["presence.d.ts", "application/typescript", (text) => text],
]) {
  test(`/${file} is served as it is, a script without its comments, for pages of other sites too`, async () => {
    const response = await fetch(`${server.url}/${file}`);
    assert.equal(await response.text(), served(readFileSync(join(source, file), "utf8")));
    assert.equal(response.headers.get("content-type"), `${type}; charset=utf-8`);
    assert.equal(response.headers.get("access-control-allow-origin"), "*");
    assert.equal(response.headers.get("content-encoding"), "gzip");
  });
}

test("/presence.js is under 5 KB gzipped, as the README says", async (context) => {
  const served = Buffer.from(await (await fetch(`${server.url}/presence.js`)).arrayBuffer());
  const size = gzipSync(served, { level: 9 }).length;
  context.diagnostic(`${served.length} bytes, ${size} gzipped`);
  assert.ok(size < MAX_GZIPPED_BYTES, `${size} bytes`);
  const [, stated] = /([\d,]+) bytes\s+gzipped/.exec(readFileSync(join(root, "README.md"), "utf8"));
  assert.ok(Math.abs(Number(stated.replace(",", "")) - size) <= ZLIB_DIFFERENCE_BYTES, `the README says ${stated}, the size is ${size}`);
});

test("presence.js imports no other module", () => {
  assert.doesNotMatch(readFileSync(join(source, "presence.js"), "utf8"), /\bimport\b|\brequire\b/);
});

test("no regular expression looks behind: older browsers would refuse the whole script", () => {
  for (const file of ["client/presence.js", "embed/embed.js"]) {
    assert.doesNotMatch(readFileSync(join(root, "src/web", file), "utf8"), /\(\?<[=!]/, file);
  }
});

describe("the npm package", () => {
  const npm = (...args) => run("npm", [...args, "--loglevel=error", "--offline", "--no-audit", "--no-fund"], { cwd: folder });

  before(async () => {
    await npm("pack", source);
    writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
    await npm("install", `./${name}-${version}.tgz`);
    symlinkSync(join(packages, "node_modules/ws"), join(folder, "node_modules/ws"));
  });

  test("contains the modules, their types and a README, and has the version of the server", async () => {
    const [{ files }] = JSON.parse((await npm("pack", "--dry-run", "--json", source)).stdout);
    const modules = ["presence", "react", "store", "svelte", "vue"].flatMap((name) => [`${name}.d.ts`, `${name}.js`]);
    assert.deepEqual(files.map(({ path }) => path).sort(), ["README.md", "package.json", ...modules].sort());
    assert.match(readFileSync(join(root, "Cargo.toml"), "utf8"), new RegExp(`^version = "${version}"$`, "m"));
  });

  const consumer = (imports, option) => `${imports}
    import { connect } from "${name}";
    const presence = connect(process.argv[2], { user: "consumer"${option} });
    const room = presence.join("packed");
    room.on("change", () => {
      console.log(JSON.stringify([...room.members]));
      presence.close();
    });`;

  for (const [what, flags, imports, option] of [
    ["with the WebSocket of ws", [], 'import { WebSocket } from "ws";', ", WebSocket"],
    ["with Node's own WebSocket", ["--experimental-websocket"], "", ""],
  ]) {
    test(`works in Node ${what}, and Node exits after close()`, async () => {
      writeFileSync(join(folder, "consumer.js"), consumer(imports, option));
      const options = { cwd: folder, timeout: DEADLINE_MS };
      const { stdout, stderr } = await run("node", [...flags, "consumer.js", server.url], options);
      assert.equal(stdout, '[["consumer",null]]\n');
      assert.doesNotMatch(stderr, /Error/);
    });
  }

  test("fails with a clear error if there is no WebSocket", { skip: globalThis.WebSocket && "this Node has one" }, async () => {
    writeFileSync(join(folder, "consumer.js"), consumer("", ""));
    const started = run("node", ["consumer.js", server.url], { cwd: folder, timeout: DEADLINE_MS });
    await assert.rejects(started, /TypeError: no WebSocket: pass the class of npm's ws/);
  });

  const tsc = (text) => {
    writeFileSync(join(folder, "consumer.ts"), text);
    // The libraries of TypeScript itself are not checked, which saves most of the time.
    const options = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--skipDefaultLibCheck"];
    const target = ["--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"];
    const compiler = join(packages, "node_modules/typescript/bin/tsc");
    return run("node", [compiler, ...options, ...target, "consumer.ts"], { cwd: folder });
  };

  test("has types that accept correct code", async () => {
    await tsc(`
      import { connect, type Presence, type Room } from "${name}";
      const presence: Presence = connect(undefined, { user: "alice", away: { mood: "asleep" }, WebSocket });
      const room: Room = presence.join("lobby", { state: { list: [1, null] }, detail: "count" });
      const offs: (() => void)[] = [
        room.on("change", ({ joined, left, reset }) => console.log(joined[0]?.state, left[0]?.reason, reset)),
        room.on("join", ({ user }, reset) => console.log(user.length, reset)),
        room.on("count", (count) => count.toFixed()),
        room.on("message", ({ user, data, ts }) => console.log(user, data, ts)),
        presence.on("message", ({ data, ts }) => console.log(data, ts)),
        presence.on("down", ({ cause }) => console.log(cause.kind)),
        presence.on("error", ({ code }) => console.log(code)),
        presence.watch(new Set(["bob"])).on("change", (changed) => changed.map(({ user, online }) => [user, online])),
      ];
      if (presence.connection.phase === "waiting") console.log(presence.connection.retryAt);
      const sent: boolean = room.send({ text: "hello" });
      room.setState(null);
      const mood: unknown = room.members.get("bob")?.mood;
      const name: unknown = room.info("bob")?.name;
      presence.token = "fresh";
      presence.token = async () => "fresh";
      connect("ws://here", { token: () => "fresh" });
    `);
  });

  test("has types that reject wrong code", async () => {
    const wrong = [
      'connect("ws://here", { user: 7 })',
      'connect("ws://here", { token: async () => 7 })',
      'connect("ws://here", { user: "alice" }).join("lobby", { detail: "names" })',
      'connect("ws://here", { user: "alice" }).join("lobby").on("chnage", () => {})',
      'connect("ws://here", { user: "alice" }).join("lobby").setState("text")',
      'connect("ws://here", { user: "alice" }).join("lobby").members.clear()',
    ];
    const lines = [`import { connect } from "${name}";`, ...wrong];
    const { stdout } = await tsc(lines.join("\n")).catch((error) => error);
    const refused = [...stdout.matchAll(/^consumer\.ts\((\d+),.*error TS2/gm)].map(([, line]) => lines[line - 1]);
    assert.deepEqual(refused, wrong);
  });

  test("has exactly the members that presence.d.ts declares", async () => {
    const { connect } = await import(join(source, "presence.js"));
    const types = readFileSync(join(source, "presence.d.ts"), "utf8");
    const declared = (type) => {
      const [, body] = new RegExp(`^export interface ${type} \\{\\n([^]*?)\\n\\}`, "m").exec(types);
      return [...body.matchAll(/^ {2}(?:readonly )?(\w+)/gm)].map(([, member]) => member).sort();
    };
    class SilentSocket {
      close() {}
    }
    const presence = connect("ws://here", { user: "alice", WebSocket: SilentSocket });
    const [room, watch] = [presence.join("lobby"), presence.watch([])];
    presence.close();
    for (const [type, one] of Object.entries({ Presence: presence, Room: room, Watch: watch })) {
      assert.deepEqual(Object.keys(one).sort(), declared(type), type);
    }
  });
});
