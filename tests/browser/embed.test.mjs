/** embed.js on a page of another origin, in a browser, with a real server. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";

import { screenshot } from "./browser.mjs";
import { assertNoHorizontalScrolling, assertOnlyText, eventually, Fixture, HOSTILE, PHONE, shows } from "./fixture.mjs";
import { LONG_LEASE, SHORT_TIMES } from "./server.mjs";

const fixture = new Fixture();
/** Another site with one page, whose HTML is set by the test. */
let site;
let html = "";

before(async () => {
  site = createServer((request, response) => {
    if (request.url !== "/") return response.writeHead(204).end();
    response.writeHead(200, { "content-type": "text/html; charset=utf-8" });
    return response.end(html);
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
});
after(() => site.close());

/** Styles of the other site that must not affect the embedded list. */
const STYLES = "<style>p, li, section, button { color: red !important; font-size: 40px !important } ol { display: none }</style>";

function pageWith(scripts) {
  html = `<!doctype html><meta charset="utf-8"><title>Shop</title>
    <meta name="viewport" content="width=device-width, initial-scale=1">
    ${STYLES}<h1>A shop</h1><p id="own">Text of the shop.</p>${scripts}`;
}

const script = (attributes) => `<script type="module" src="${fixture.server.url}/embed.js" ${attributes}></script>`;

/** Opens the other site. Its host is `localhost`, the server's is 127.0.0.1, so they are also different sites. */
async function visit(options) {
  const visitor = await fixture.newVisitor(options);
  return visitor.open({ url: `http://localhost:${site.address().port}` }, "", { path: "/", online: false });
}

/** The texts of a selector inside the shadow roots of the page. Evaluated in the page. */
const inside = (css) => [...document.querySelectorAll("div")]
  .flatMap((node) => [...(node.shadowRoot?.querySelectorAll(css) ?? [])]).map((node) => node.textContent);

const showsNames = (page, names) => eventually(page, inside, names, ".name");

describe("the roster", () => {
  test("appears on a page of another origin and follows joins and leaves", async () => {
    await fixture.startServer();
    pageWith(script('data-room="lobby" data-user="alice"'));
    const page = await visit();
    await showsNames(page, ["alice"]);
    const local = await fixture.open("/?user=bob");
    await shows(local, "#roster > .row:not(.leaving) .name", ["alice", "bob"]);
    await showsNames(page, ["alice", "bob"]);
    await eventually(page, inside, ["2"], ".count");
    await local.close();
    await showsNames(page, ["alice"]);
    fixture.assertNoProblems();
  });

  test("the page in docs/embed.md works unchanged", async () => {
    await fixture.startServer();
    const [, page] = /```html\n(.*?)```/s.exec(readFileSync(new URL("../../docs/embed.md", import.meta.url), "utf8"));
    html = page.replaceAll("http://localhost:8000", fixture.server.url);
    const shop = await visit();
    await shop.getByRole("button", { name: "Join" }).click();
    await shop.getByRole("textbox", { name: "Your name" }).fill("carol");
    await shop.keyboard.press("Enter");
    await showsNames(shop, ["carol"]);
    await eventually(shop, inside, ["shop"], ".room");
    await shop.getByRole("textbox", { name: "Write a message" }).waitFor();
    fixture.assertNoProblems();
  });

  test("styles of the page and of the list do not mix", async () => {
    await fixture.startServer();
    pageWith(script('data-user="alice"'));
    const page = await visit();
    await showsNames(page, ["alice"]);
    const styles = await page.evaluate(() => {
      const root = [...document.querySelectorAll("div")].find((node) => node.shadowRoot).shadowRoot;
      const { fontSize, color } = getComputedStyle(root.querySelector(".row"));
      const list = getComputedStyle(root.querySelector("ol")).display;
      return { fontSize, red: color === "rgb(255, 0, 0)", list, own: getComputedStyle(document.querySelector("#own")).fontSize };
    });
    assert.deepEqual(styles, { fontSize: "15px", red: false, list: "block", own: "40px" });
    fixture.assertNoProblems();
  });

  test("two scripts on one page show two rooms, each after its script", async () => {
    await fixture.startServer();
    const [sales, help] = ['data-room="sales" data-user="alice"', 'data-room="help" data-user="bob" data-theme="dark"'];
    pageWith(`${script(sales)}<h2>Between</h2>${script(help)}`);
    const page = await visit();
    await showsNames(page, ["alice", "bob"]);
    await eventually(page, inside, ["sales", "help"], ".room");
    const backgrounds = await page.evaluate(() => [...document.querySelectorAll("div")].map((node) =>
      Number(/\d+/.exec(getComputedStyle(node.shadowRoot.querySelector(".box")).backgroundColor)[0])));
    assert.deepEqual(backgrounds.map((red) => red > 128), [true, false]);
    const order = await page.evaluate(() => [...document.body.children].map((node) => node.tagName));
    assert.deepEqual(order, ["H1", "P", "SCRIPT", "DIV", "H2", "SCRIPT", "DIV"]);
    fixture.assertNoProblems();
  });

  test("is shown to visitors without a name, who stay invisible and are asked for one when they join", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    await fixture.server.sendHeartbeats(["alice", "bob"]);
    pageWith(script("data-chat"));
    const page = await visit(PHONE);
    await showsNames(page, ["alice", "bob"]);
    await eventually(page, inside, ["2"], ".count");
    assert.equal((await fixture.server.membersOf("lobby")).count, 2);
    const field = page.getByRole("textbox", { name: "Your name" });
    assert.equal(await field.count(), 0);
    await page.getByRole("button", { name: "Join" }).focus();
    await page.keyboard.press("Enter");
    await page.keyboard.type("x".repeat(128).replace(/x/g, "ä").slice(0, 100));
    await page.keyboard.press("Enter");
    await page.getByText("200 bytes").waitFor();
    await field.fill("carol");
    await page.keyboard.press("Enter");
    await showsNames(page, ["alice", "bob", "carol"]);
    await page.keyboard.type("Hello from carol");
    await page.keyboard.press("Enter");
    await eventually(page, inside, ["Hello from carol"], ".message-text");
    await assertNoHorizontalScrolling(page);
    fixture.assertNoProblems();
  });

  test("shows names with HTML as text, and reconnects after a restart of the server", async () => {
    await fixture.startServer();
    pageWith(script('data-user="alice"'));
    const page = await visit();
    await fixture.server.sendHeartbeats(HOSTILE);
    await eventually(page, inside, ["5"], ".count");
    // The rows appear with the next frame.
    const sorted = (css) => [...document.querySelectorAll("div")]
      .flatMap((node) => [...(node.shadowRoot?.querySelectorAll(css) ?? [])]).map((node) => node.textContent).sort();
    await eventually(page, sorted, [...HOSTILE, "alice"].sort(), ".name");
    await assertOnlyText(page, ".box");
    await fixture.restartServer({ args: SHORT_TIMES });
    await showsNames(page, ["alice"]);
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });
});

describe("the chat", () => {
  test("shows messages to everyone in the room, as text", async () => {
    await fixture.startServer();
    pageWith(script('data-room="support" data-user="alice" data-chat'));
    const alice = await visit();
    await showsNames(alice, ["alice"]);
    pageWith(script('data-room="support" data-user="bob" data-chat'));
    const bob = await visit();
    await showsNames(alice, ["alice", "bob"]);
    await bob.getByRole("textbox", { name: "Write a message" }).fill(HOSTILE[0]);
    await bob.keyboard.press("Enter");
    for (const page of [alice, bob]) await eventually(page, inside, [HOSTILE[0]], ".message-text");
    await alice.getByRole("textbox", { name: "Write a message" }).fill("Hello Bob");
    await alice.getByRole("button", { name: "Send" }).click();
    for (const page of [alice, bob]) await eventually(page, inside, [HOSTILE[0], "Hello Bob"], ".message-text");
    await eventually(alice, inside, ["Hello Bob"], ".mine .message-text");
    await assertOnlyText(alice, ".box");
    await screenshot(alice, "embed");
    fixture.assertNoProblems();
  });
});
