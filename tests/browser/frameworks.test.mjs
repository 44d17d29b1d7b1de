/**
 * The bindings for React 18 and 19, Vue, Svelte 4 and 5: the examples of docs/examples in Chromium, all in one room of
 * a real server; and what a server renders.
 */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Browser } from "./browser.mjs";
import { eventually, shows } from "./fixture.mjs";
import { serve, showsMembers, Workshop } from "./frameworks/build.mjs";
import { LONG_GRACE, Server } from "./server.mjs";

/** The user of each page is named after it. */
const NAMES = ["react18", "react19", "react-hydrated", "vue", "svelte4", "svelte5"];
const SERVER_RENDERED = ["react-hydrated", "vue", "svelte5"];

let browser, server, site, workshop;
/** Name → the folder of its page. */
const folders = {};
/** Name → what a server renders. */
const rendered = {};
/** Name → its visitor, its open page and the number of connections that it has opened. */
const open = {};
/** Sockets that were opened while servers rendered. */
let serverSockets = 0;

before(async () => {
  workshop = new Workshop();
  [browser, server] = await Promise.all([Browser.start(), Server.start({ args: LONG_GRACE }), workshop.prepare()]);
  const url = server.url.replace("http", "ws");
  folders.react19 = await workshop.page("react", url);
  folders.react18 = await workshop.page("react", url, { out: "dist18", config: "vite.config.react18.js" });
  folders.vue = await workshop.page("vue", url);
  folders.svelte5 = await workshop.page("svelte", url);
  folders.svelte4 = await workshop.page("svelte4", url);
  await renderOnServer();
  const hydrated = { out: "dist-hydrated", script: "hydrate.jsx", html: rendered["react-hydrated"] };
  folders["react-hydrated"] = await workshop.page("react", url, hydrated);
  site = await serve(folders);
});
after(async () => {
  await browser?.stop();
  await server?.stop();
  site?.close();
  workshop?.remove();
});

async function renderOnServer() {
  const original = globalThis.WebSocket;
  globalThis.WebSocket = class {
    constructor() {
      serverSockets += 1;
    }
  };
  rendered["react-hydrated"] = await workshop.rendered("react", "server.jsx");
  rendered.vue = await workshop.rendered("vue", "server.js");
  rendered.svelte5 = await workshop.rendered("svelte", "server.js");
  globalThis.WebSocket = original;
}

/** Opens the page of a binding. */
async function visit(name, user = name) {
  const visitor = await browser.newVisitor();
  const page = await visitor.open(site, "", { path: `/${name}/?user=${user}`, online: false });
  return { visitor, page };
}

/** Runs a check for all pages, and names the one that fails. */
async function forAll(check) {
  await Promise.all(NAMES.map((name) => check(open[name].page, name).catch((error) => {
    throw new Error(`${name}: ${error.message}`, { cause: error });
  })));
}

async function say(page, text) {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button").click();
}

test("a server renders a room without members, and opens no connection", () => {
  for (const name of SERVER_RENDERED) {
    assert.match(rendered[name], /connecting<\/span>; <strong id="count">0</, name);
    assert.doesNotMatch(rendered[name], /<li>/, name);
  }
  assert.equal(serverSockets, 0);
});

test("the page for React 18 contains React 18", () => {
  const assets = join(folders.react18, "assets");
  const [text] = readdirSync(assets).map((name) => readFileSync(join(assets, name), "utf8"));
  assert.deepEqual(["18.3.1", "19.3.1"].map((version) => text.includes(version)), [true, false]);
});

test("pages with all bindings join one room and show each other, with one connection each", async () => {
  for (const name of NAMES) {
    const visitor = await browser.newVisitor();
    const one = (open[name] = { visitor, sockets: 0 });
    visitor.context.on("page", (page) => page.on("websocket", () => (one.sockets += 1)));
    one.page = await visitor.open(site, "", { path: `/${name}/?user=${name}`, online: false });
  }
  await forAll(async (page, name) => {
    await showsMembers(page, NAMES);
    await shows(page, "#count", [String(NAMES.length)]);
    await shows(page, "#phase", ["online"]);
    assert.equal(open[name].sockets, 1);
  });
});

test("a message of each page reaches all pages, and states show who is typing", async () => {
  const { page: first } = open[NAMES[0]];
  for (const name of NAMES) {
    const { page } = open[name];
    await page.getByLabel("Message").fill(`from ${name}`);
    await showsMembers(first, NAMES.map((other) => (other === name ? `${name} …` : other)));
    await page.getByRole("button").click();
  }
  await forAll(async (page) => {
    await shows(page, "#messages li", NAMES.map((name) => `${name}: from ${name}`));
    await showsMembers(page, NAMES);
    assert.equal(await page.getByLabel("Message").inputValue(), "");
  });
});

test("a second tab and a reload are invisible to the others", async () => {
  await forAll((page) => page.evaluate(() => {
    const list = document.querySelector("#members");
    window.smallest = list.children.length;
    new MutationObserver(() => (window.smallest = Math.min(window.smallest, list.children.length)))
      .observe(list, { childList: true });
  }));
  const reloaded = ["react19", "vue", "svelte5"];
  for (const name of reloaded) {
    const tab = await visit(name);
    await showsMembers(tab.page, NAMES);
    await open[name].page.reload();
    await showsMembers(open[name].page, NAMES);
    assert.deepEqual(tab.visitor.problems(), [], name);
    await tab.visitor.close();
  }
  // A user who joins now is the last change, so all earlier ones have arrived.
  const last = await visit("react18", "last");
  await forAll((page) => showsMembers(page, [...NAMES, "last"]));
  for (const name of NAMES.filter((name) => !reloaded.includes(name))) {
    assert.equal(await open[name].page.evaluate(() => window.smallest), NAMES.length, name);
  }
  await last.visitor.close();
  for (const name of NAMES) assert.deepEqual(open[name].visitor.problems(), [], name);
});

test("after a restart of the server all pages are online again, with their states and messages", async () => {
  const { port } = server;
  await open.vue.page.getByLabel("Message").fill("still here");
  await server.stop("SIGTERM");
  server = await Server.start({ port, args: LONG_GRACE });
  await forAll(async (page) => {
    await showsMembers(page, NAMES.map((name) => (name === "vue" ? "vue …" : name)));
    await shows(page, "#phase", ["online"]);
  });
  await open.vue.page.getByRole("button").click();
  await say(open.react18.page, "again");
  await forAll((page) => eventually(page, () =>
    [...document.querySelectorAll("#messages li")].map((li) => li.textContent).slice(-2).sort(),
  ["react18: again", "vue: still here"]));
  for (const name of NAMES) {
    assert.deepEqual(open[name].visitor.problems({ serverWasUnreachable: true }), [], name);
    await open[name].visitor.close();
  }
});
