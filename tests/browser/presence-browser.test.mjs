/** presence.js in a browser, on a page of another site: the example of the README, a worker, a hidden tab. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";

import { Browser } from "./browser.mjs";
import { root, Server } from "./server.mjs";

const [, README_EXAMPLE] = /```html\n([^]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8"));
const BLANK = "<!doctype html><title>blank</title>";

let browser;
let server;
let site;
/** Path → content of the other site. */
let files = {};
let visitors = [];

before(async () => {
  browser = await Browser.start();
  server = await Server.start();
  site = createServer(({ url }, response) => {
    const type = url.endsWith(".js") ? "text/javascript" : "text/html; charset=utf-8";
    response.writeHead(url in files ? 200 : 204, { "content-type": type }).end(files[url]);
  }).listen(0, "127.0.0.1");
  await once(site, "listening");
  site.url = `http://127.0.0.1:${site.address().port}`;
});
after(async () => {
  await browser.stop();
  await server.stop();
  site.close();
});
afterEach(async () => {
  for (const visitor of visitors) assert.deepEqual(visitor.problems(), []);
  await Promise.all(visitors.map((visitor) => visitor.close()));
  visitors = [];
});

async function visit(path = "/") {
  const visitor = await browser.newVisitor();
  visitors.push(visitor);
  return visitor.open(site, "", { path, online: false });
}

/** Has the page connect as `user` and join `room`, as window.presence and window.room. */
async function joinAs(page, user, room, options = {}) {
  await page.evaluate(async ([url, room, options]) => {
    const { connect } = await import(`${url}/presence.js`);
    window.presence = connect(url, options);
    window.room = window.presence.join(room, { state: { from: options.user } });
    await new Promise((done) => window.room.on("change", done));
  }, [server.url, room, { user, ...options }]);
}

/** Waits until the page's room has these members with these states. */
async function shows(page, expected) {
  const same = (expected) => JSON.stringify([...window.room.members].sort()) === JSON.stringify(expected);
  await page.waitForFunction(same, Object.entries(expected).sort());
}

test("the example of the README has twelve lines and works unchanged", async () => {
  assert.equal(README_EXAMPLE.trimEnd().split("\n").length, 12);
  files = { "/": README_EXAMPLE.replaceAll("http://localhost:8000", server.url) };
  const [one, two] = [await visit(), await visit()];
  for (const page of [one, two]) await page.waitForFunction(() => document.querySelectorAll("#people li").length === 2);
  assert.equal(await one.locator("#count").innerText(), "2");
  assert.deepEqual(await one.locator("#people li").allTextContents(), await two.locator("#people li").allTextContents());
  await two.close();
  await one.waitForFunction(() => document.querySelectorAll("#people li").length === 1);
  assert.equal(await one.locator("#count").innerText(), "1");
});

test("presence.js works in a worker", async () => {
  files = {
    "/": BLANK,
    "/worker.js": `import { connect } from "${server.url}/presence.js";
      const room = connect("${server.url}", { user: "worker" }).join("work");
      room.on("change", () => postMessage([...room.members.keys()].sort()));`,
  };
  const page = await visit();
  await joinAs(page, "page", "work");
  const seen = await page.evaluate(() => new Promise((done) => {
    const worker = new Worker("/worker.js", { type: "module" });
    worker.onmessage = ({ data }) => data.length === 2 && done(data);
    worker.onerror = ({ message }) => done(message);
  }));
  assert.deepEqual(seen, ["page", "worker"]);
  await shows(page, { page: { from: "page" }, worker: null });
});

test("with the option `away`, a hidden tab is away until it is shown again", async () => {
  files = { "/": BLANK };
  const [observer, page] = [await visit(), await visit()];
  await joinAs(observer, "observer", "tabs");
  await joinAs(page, "tab", "tabs", { away: true });
  // Headless browsers never hide a tab, so the event is simulated.
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
  }, hidden);
  await hide(true);
  await shows(observer, { observer: { from: "observer" }, tab: { from: "tab", away: true } });
  await hide(false);
  await shows(observer, { observer: { from: "observer" }, tab: { from: "tab" } });
});

test("a page that resumes checks its connection at once", async () => {
  files = { "/": BLANK };
  const page = await visit();
  const probes = await page.evaluate(async (url) => {
    const { connect } = await import(`${url}/presence.js`);
    const sent = [];
    class Recording extends WebSocket {
      send(text) {
        sent.push(text);
        super.send(text);
      }
    }
    const presence = connect(url, { user: "frozen", WebSocket: Recording });
    await new Promise((done) => presence.on("open", done));
    document.dispatchEvent(new Event("resume")); // as browsers fire it: it does not bubble
    return sent.filter((text) => text.includes('"ack":true')).length;
  }, server.url);
  assert.equal(probes, 1);
});

test("closing a connection before it is open logs no error", async () => {
  files = { "/": BLANK };
  const [observer, page] = [await visit(), await visit()];
  await joinAs(observer, "observer", "hasty");
  await page.evaluate(async (url) => {
    const { connect } = await import(`${url}/presence.js`);
    for (let times = 0; times < 5; times += 1) {
      const presence = connect(url, { user: "hasty" });
      presence.join("hasty");
      presence.close();
    }
    window.room = connect(url, { user: "settled" }).join("hasty");
    await new Promise((done) => window.room.on("change", done));
  }, server.url);
  await shows(observer, { observer: { from: "observer" }, settled: null });
});
