/** The npm package with its bindings: what it contains, its types, and what publint and attw say about it. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import { COMPILER_DEADLINE_MS, packages, Workshop } from "./frameworks/build.mjs";
import { root, Server } from "./server.mjs";

const run = promisify(execFile);
const source = join(root, "src/web/client");
const { exports: entries } = JSON.parse(readFileSync(join(source, "package.json")));
const bindings = ["react", "vue", "svelte"];
const declarations = ["presence", "store", ...bindings];

let workshop;
before(async () => {
  workshop = new Workshop();
  await workshop.prepare();
  cpSync(join(root, "tests/browser/frameworks/types"), join(workshop.folder, "types"), { recursive: true });
  // The declarations of frameworks are not checked, which takes half a minute. Those of the package are, as sources.
  mkdirSync(join(workshop.folder, "declarations"));
  for (const name of declarations) {
    const text = readFileSync(join(source, `${name}.d.ts`), "utf8");
    const code = text.replace(/^export function/gm, "export declare function");
    writeFileSync(join(workshop.folder, "declarations", `${name}.ts`), code);
  }
});
after(() => workshop?.remove());

/** Runs a program of an npm package. */
async function program(path, ...args) {
  const options = { cwd: workshop.folder, timeout: COMPILER_DEADLINE_MS, env: { ...process.env, FORCE_COLOR: "0" } };
  const started = run("node", [join(packages, "node_modules", path), ...args], options);
  return started.catch(({ message, stdout, stderr }) => assert.fail(`${message}\n${stdout}\n${stderr}`));
}

/** Compiles files, without output. */
function compile(files, compilerOptions = {}) {
  const config = {
    compilerOptions: {
      noEmit: true, strict: true, exactOptionalPropertyTypes: true, skipLibCheck: true, types: [],
      target: "es2022", lib: ["es2022", "dom"], module: "esnext", moduleResolution: "bundler", jsx: "react-jsx",
      ...compilerOptions,
    },
    files,
  };
  writeFileSync(join(workshop.folder, "tsconfig.json"), JSON.stringify(config));
  return program("typescript/bin/tsc", "--project", "tsconfig.json");
}

test("the types accept correct code and reject wrong code, with React 19, Vue and Svelte", async () => {
  const samples = ["types/react.tsx", "types/vue.ts", "types/svelte.ts"];
  await compile([...samples, ...declarations.map((name) => `declarations/${name}.ts`)]);
});

test("the types fit React 18", async () => {
  const react18 = join(packages, "node_modules/@types/react18");
  const paths = { react: [react18], "react/*": [`${react18}/*`] };
  await compile(["types/react.tsx", "declarations/react.ts"], { paths });
});

test("publint finds nothing", async () => {
  await program("publint/src/cli.js", "run", workshop.client, "--strict", "--pack", "false");
});

test("attw finds nothing: the package consists of ES modules", async () => {
  await program("@arethetypeswrong/cli/dist/index.js", workshop.tarball, "--profile", "esm-only", "--no-emoji");
});

test("each binding has the functions that its types declare", async () => {
  for (const name of bindings) {
    const types = readFileSync(join(source, entries[`./${name}`].types), "utf8");
    const declared = [...types.matchAll(/^export function (\w+)/gm)].map(([, declared]) => declared).sort();
    const found = await import(join(workshop.client, `${name}.js`));
    assert.deepEqual(Object.keys(found).sort(), declared, name);
  }
});

test("the examples have the versions that are tested here", () => {
  const { dependencies: tested } = JSON.parse(readFileSync(join(root, "tests/browser/frameworks/package.json")));
  for (const name of bindings) {
    const example = JSON.parse(readFileSync(join(root, "docs/examples", name, "package.json")));
    const { "rollcall-presence": client, ...versions } = { ...example.dependencies, ...example.devDependencies };
    assert.equal(client, "file:../../../src/web/client");
    for (const [dependency, version] of Object.entries(versions)) assert.equal(version, tested[dependency], dependency);
  }
});

test("the server serves none of the bindings", async () => {
  const server = await Server.start();
  for (const file of [...bindings, "store"].flatMap((name) => [`${name}.js`, `${name}.d.ts`])) {
    assert.equal((await fetch(`${server.url}/${file}`)).status, 404, file);
  }
  await server.stop();
});
