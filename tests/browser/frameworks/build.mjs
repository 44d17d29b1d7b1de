/**
 * Builds the examples with Vite, against the npm package as it is packed, and serves them. scripts/browser-test installs
 * the frameworks.
 */

import { execFile } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { promisify } from "node:util";

import { eventually } from "../fixture.mjs";
import { DEADLINE_MS, root } from "../server.mjs";

const run = promisify(execFile);
const here = join(root, "tests/browser/frameworks");
const examples = join(root, "docs/examples");

/** Compilers need a lot of CPU, which an overloaded machine does not have. */
export const COMPILER_DEADLINE_MS = 5 * DEADLINE_MS;
export const packages = process.env.ROLLCALL_FRAMEWORK_PACKAGES ?? join(root, "target/frameworks");

/** Serves the folder of each name below `/name/`. */
export async function serve(folders) {
  const site = createServer(({ url }, response) => {
    const [, name, path] = /^\/([\w-]+)\/([\w./-]*)/.exec(url) ?? [];
    if (!folders[name]) return response.writeHead(404).end();
    const type = path.endsWith(".js") ? "text/javascript" : "text/html; charset=utf-8";
    response.writeHead(200, { "content-type": type }).end(readFileSync(join(folders[name], path || "index.html")));
  }).listen(0, "127.0.0.1");
  await once(site, "listening");
  site.url = `http://127.0.0.1:${site.address().port}`;
  return site;
}

/** Waits until the page shows these members, in any order. */
export function showsMembers(page, expected) {
  const shown = () => [...document.querySelectorAll("#members li")].map((li) => li.textContent).sort();
  return eventually(page, shown, [...expected].sort());
}

export class Workshop {
  /** Between the sources and the packages: below `packages`, so that imports find the frameworks. */
  folder = mkdtempSync(join(packages, "build-"));
  /** The installed client. */
  client = join(this.folder, "node_modules/rollcall-presence");

  /** Installs the packed client, and copies the examples with the files that the tests add. */
  async prepare() {
    mkdirSync(this.client, { recursive: true });
    const pack = ["pack", join(root, "src/web/client"), "--silent", "--offline", "--pack-destination", this.folder];
    const { stdout } = await run("npm", pack);
    this.tarball = join(this.folder, stdout.trim());
    await run("tar", ["-xzf", this.tarball, "--strip-components=1", "-C", this.client]);
    const isExample = (path) => !/node_modules|dist/.test(path.slice(root.length));
    cpSync(examples, this.folder, { recursive: true, filter: isExample });
    cpSync(join(examples, "svelte"), join(this.folder, "svelte4"), { recursive: true });
    for (const name of ["react", "vue", "svelte", "svelte4"]) {
      const isSource = (path) => !path.includes("vite.config");
      cpSync(join(here, name), join(this.folder, name, "src"), { recursive: true, filter: isSource });
    }
    cpSync(join(here, "svelte4/vite.config.js"), join(this.folder, "svelte4/vite.config.js"));
    cpSync(join(here, "react/vite.config.react18.js"), join(this.folder, "react/vite.config.react18.js"));
  }

  /** Runs `vite build` for development, in which React runs effects twice and frameworks report mistakes. */
  async #vite(name, options, env = {}) {
    const vite = join(packages, "node_modules/vite/bin/vite.js");
    const always = ["--mode", "development", "--minify", "false", "--logLevel", "error", "--emptyOutDir"];
    const settings = { ...process.env, NODE_ENV: "development", ...env };
    await run("node", [vite, "build", ...always, ...options], {
      cwd: join(this.folder, name), env: settings, timeout: COMPILER_DEADLINE_MS,
    });
  }

  /** The folder of a page that connects to `url`: of the example, or with another script and HTML of a server. */
  async page(name, url, { out = "dist", config = "vite.config.js", script, html = "" } = {}) {
    if (script) {
      const page = `<!doctype html><link rel="icon" href="data:," /><div id="app">${html}</div>`;
      const module = `<script type="module" src="/src/${script}"></script>`;
      writeFileSync(join(this.folder, name, "index.html"), page + module);
    }
    await this.#vite(name, ["--base", "./", "--outDir", out, "--config", config], { VITE_ROLLCALL_URL: url });
    return join(this.folder, name, out);
  }

  /** What a server renders. */
  async rendered(name, entry) {
    await this.#vite(name, ["--ssr", `src/${entry}`, "--outDir", "ssr"]);
    const { render } = await import(join(this.folder, name, "ssr/server.js"));
    return render();
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
