/** The page `/docs` in a browser, with a real server. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request } from "node:http";
import { test } from "node:test";

import { screenshot } from "./browser.mjs";
import { assertNoHorizontalScrolling, DARK, eventually, Fixture, PHONE, shows } from "./fixture.mjs";
import { LONG_LEASE } from "./server.mjs";

const fixture = new Fixture();
const KEY = "the key of the application in this test";

const open = (path = "/docs", options) => fixture.open(path, options);

async function document() {
  return (await fetch(`${fixture.server.url}/openapi.json`)).json();
}

function operationsOf(api) {
  return Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), ...operation })));
}

test("each operation of the document is shown, in the contents and with an anchor", async () => {
  await fixture.startServer({ args: LONG_LEASE });
  const page = await open();
  const operations = operationsOf(await document());
  await eventually(page, () => document.querySelectorAll(".operation").length, operations.length);
  for (const { operationId, path, method, summary, responses } of operations) {
    const section = page.locator(`#${operationId}`);
    assert.equal((await section.locator("h3").innerText()).replace(/\s+/g, " "), `${method} ${path}`);
    assert.equal(await page.locator(`#contents a[href="#${operationId}"]`).innerText(), summary);
    assert.deepEqual(await section.locator(".status").allInnerTexts(), Object.keys(responses));
  }
  assert.equal(await page.locator("text=undefined").count(), 0);
  assert.equal(await page.locator("text=[object Object]").count(), 0);
  await page.locator("#contents a", { hasText: "Take a user offline" }).click();
  await eventually(page, () => location.hash, "#kickUser");
  const other = await open("/docs#revoke");
  await other.locator("#revoke").waitFor();
  await eventually(other, () => Math.abs(document.querySelector("#revoke").getBoundingClientRect().top) < 40, true);
  fixture.assertNoProblems();
});

test("the search shows operations with all words", async () => {
  await fixture.startServer({ args: LONG_LEASE });
  const page = await open();
  await page.locator("#kickUser").waitFor();
  await page.getByLabel("Search the operations").fill("POST messages");
  const found = ["#publishToRoom", "#publishToUser"];
  const visible = () => [...document.querySelectorAll(".operation")].filter((node) => node.checkVisibility()).map(({ id }) => `#${id}`);
  await eventually(page, visible, found);
  await shows(page, "#found", [`2 of ${await page.locator(".operation").count()} operations`]);
  assert.equal(await page.locator(".group:not([hidden])").count(), 2);
  await page.getByLabel("Search the operations").fill("no operation has this");
  await eventually(page, visible, []);
  await page.getByLabel("Search the operations").fill("");
  await page.locator("#readMetrics").waitFor();
  await shows(page, "#found", [""]);
});

/** The answer of the form of an operation. */
async function send(page, operation, fields) {
  const section = page.locator(`#${operation}`);
  if (!(await section.locator(".try-form").count())) await section.locator(".try summary").click();
  for (const [label, value] of Object.entries(fields)) await section.getByLabel(label, { exact: true }).fill(value);
  await section.getByRole("button", { name: "Send" }).click();
  await eventually(page, (id) => document.querySelector(`#${id} .answer`).textContent.length > 1, true, operation);
  const text = await section.locator(".answer").innerText();
  return { status: Number(text.slice(0, 3)), text };
}

test("a form sends the request of an operation, with the key that was typed", async () => {
  await fixture.startServer({ args: [...LONG_LEASE, "--pages", "all", "--api-key", KEY] });
  const page = await open();
  assert.equal((await send(page, "kickUser", {})).status, 401);
  const kicked = await send(page, "kickUser", { "Key or token": KEY, user: "ann é/?" });
  assert.deepEqual([kicked.status, JSON.parse(kicked.text.split("\n")[1])], [200, { user: "ann é/?" }]);
  assert.match((await send(page, "heartbeat", { Body: "user_id=bob" })).text, /success/);
  const members = await send(page, "listMembers", { room: "lobby", limit: "1" });
  assert.match(members.text, /"members":\[\{"user":"bob"\}\]/, "the key is remembered");
  assert.equal((await send(page, "listMembers", { limit: "0" })).status, 400);
  await page.reload();
  assert.equal((await send(page, "listMembers", {})).status, 401, "the key is nowhere but in the memory of the page");
});

test("examples can be copied into a terminal", async () => {
  await fixture.startServer({ args: [...LONG_LEASE, "--pages", "all", "--api-key", KEY] });
  const page = await open();
  const example = async (id) => (await page.locator(`#${id} > .example`).last().innerText());
  const { url } = fixture.server;
  assert.equal(await example("readLiveness"), `curl '${url}/livez'`);
  assert.equal(await example("publishToUser"), [`curl -X POST '${url}/v1/users/alice/messages' \\`,
    "  -H 'Authorization: Bearer KEY' \\", "  -H 'Content-Type: application/json' \\", `  -d '{"data":{"text":"Your turn"}}'`].join("\n"));
  assert.equal(await example("readMetrics"), `curl '${url}/metrics'`);
  assert.equal(await example("heartbeat"), `curl -X POST '${url}/heartbeat' \\\n  -d 'user_id=alice'`);
  assert.equal(await example("signOut"), `curl -X POST '${url}/logout'`);
  assert.equal(await example("connectNative"), `new WebSocket("${url.replace("http", "ws")}/v1/connect?user=alice")`);
  const hint = (id) => page.locator(`#${id} > .example + .hint`).innerText();
  assert.equal(await hint("readMetrics"), "If the server requires it, add -H 'Authorization: Bearer KEY'");
  assert.equal(await hint("heartbeat"), "If the server requires it, add -H 'Authorization: Bearer TOKEN'");
  assert.match(await example("publishEvent"), /\/apps\/1\/events\?body_md5=MD5&auth_key=KEY/);
});

test("works below a prefix that a proxy removes, on a server without other pages", async (context) => {
  await fixture.startServer({ args: [...LONG_LEASE, "--pages", "client"] });
  const proxy = createServer((incoming, response) => {
    const { method, headers, url } = incoming;
    if (!url.startsWith("/below/")) return response.writeHead(418).end();
    const path = url.slice("/below".length);
    const onward = request({ port: fixture.server.port, host: "127.0.0.1", method, headers, path }, (answer) =>
      answer.pipe(response.writeHead(answer.statusCode, answer.headers)));
    onward.on("error", () => response.destroy());
    return incoming.pipe(onward);
  });
  context.after(() => proxy.close());
  await once(proxy.listen(0, "127.0.0.1"), "listening");
  const visitor = await fixture.newVisitor();
  const page = await visitor.open({ url: `http://127.0.0.1:${proxy.address().port}` }, "", { path: "/below/docs", online: false });
  assert.match((await send(page, "readReadiness", {})).text, /"status":"ok"/);
  assert.match(await page.locator("#readLiveness > .example").innerText(), /127\.0\.0\.1:\d+\/below\/livez'$/);
  assert.equal(await page.getByRole("navigation", { name: "Pages" }).count(), 0);
  await page.locator(".brand").click();
  await page.locator("#kickUser").waitFor();
  fixture.assertNoProblems();
});

test("fits every screen with everything open", async () => {
  await fixture.startServer({ args: LONG_LEASE });
  for (const [screen, options] of Object.entries({ desk: {}, dark: DARK, phone: PHONE, "phone-dark": { ...PHONE, ...DARK } })) {
    const page = await open("/docs#readStatus", options);
    await page.locator("#readStatus").waitFor();
    await screenshot(page, `docs-${screen}`);
    await page.evaluate(() => document.querySelectorAll("details").forEach((node) => (node.open = true)));
    await assertNoHorizontalScrolling(page);
  }
  fixture.assertNoProblems();
});

test("says that the document cannot be loaded", async () => {
  await fixture.startServer({ args: LONG_LEASE });
  const visitor = await fixture.newVisitor();
  await visitor.context.route(/openapi/, (route) => route.fulfill({ status: 503, body: "" }));
  const page = await visitor.open(fixture.server, "", { path: "/docs", online: false });
  await page.getByRole("alert").filter({ hasText: "the server answers with 503" }).waitFor();
});
