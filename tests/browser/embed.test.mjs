/** embed.js on a page of another origin, in a real browser, against the real server. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";

import { screenshot } from "./harness.mjs";
import { assertNothingSticksOut, assertOnlyText, eventually, HOSTILE, PHONE, Scene, shows } from "./scene.mjs";
import { HASTY } from "./server.mjs";

const scene = new Scene();
/** Somebody else's site: rude styles, and one page whose body the test says. */
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

const STYLES = "<style>p, li, section, button { color: red !important; font-size: 40px !important } ol { display: none }</style>";

function pageWith(scripts) {
  html = `<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Shop</title>
    ${STYLES}<h1>A shop</h1><p id="own">Our own words.</p>${scripts}`;
}

const script = (attributes) => `<script type="module" src="${scene.server.url}/embed.js" ${attributes}></script>`;

/** Opens the other site; `localhost` is not the server's host, so it is another origin in every respect. */
async function visit(options) {
  const visitor = await scene.visitor(options);
  return visitor.open({ url: `http://localhost:${site.address().port}` }, "", { path: "/", online: false });
}

/** Texts of a selector inside the shadow roots of the page. */
const inside = (css) => [...document.querySelectorAll("div")].flatMap((node) => [...(node.shadowRoot?.querySelectorAll(css) ?? [])])
  .map((node) => node.textContent);

const roster = (page, names) => eventually(page, inside, names, ".name");

describe("the roster", () => {
  test("appears on a page of another origin and follows who comes and goes", async () => {
    await scene.start();
    pageWith(script('data-room="lobby" data-user="alice"'));
    const page = await visit();
    await roster(page, ["alice"]);
    const local = await scene.open("/?user=bob");
    await shows(local, "#roster > .row:not(.leaving) .name", ["alice", "bob"]);
    await roster(page, ["alice", "bob"]);
    await eventually(page, inside, ["2"], ".count");
    await local.close();
    await roster(page, ["alice"]);
    scene.assertNoProblems();
  });

  test("the page in docs/embed.md works as it stands there", async () => {
    await scene.start();
    const [, page] = /```html\n(.*?)```/s.exec(readFileSync(new URL("../../docs/embed.md", import.meta.url), "utf8"));
    html = page.replaceAll("http://localhost:8000", scene.server.url);
    const shop = await visit();
    await shop.getByRole("textbox", { name: "Your name" }).fill("carol");
    await shop.keyboard.press("Enter");
    await roster(shop, ["carol"]);
    await eventually(shop, inside, ["shop"], ".room");
    await shop.getByRole("textbox", { name: "Say something" }).waitFor();
    scene.assertNoProblems();
  });

  test("neither page changes the other's look", async () => {
    await scene.start();
    pageWith(script('data-user="alice"'));
    const page = await visit();
    await roster(page, ["alice"]);
    const looks = await page.evaluate(() => {
      const root = [...document.querySelectorAll("div")].find((node) => node.shadowRoot).shadowRoot;
      const { fontSize, color } = getComputedStyle(root.querySelector(".row"));
      const list = getComputedStyle(root.querySelector("ol")).display;
      return { fontSize, red: color === "rgb(255, 0, 0)", list, own: getComputedStyle(document.querySelector("#own")).fontSize };
    });
    assert.deepEqual(looks, { fontSize: "15px", red: false, list: "block", own: "40px" });
    scene.assertNoProblems();
  });

  test("two on one page: two rooms, each where its script stands", async () => {
    await scene.start();
    pageWith(`${script('data-room="sales" data-user="alice"')}<h2>Between</h2>${script('data-room="help" data-user="bob" data-theme="dark"')}`);
    const page = await visit();
    await roster(page, ["alice", "bob"]);
    await eventually(page, inside, ["sales", "help"], ".room");
    const lights = await page.evaluate(() => [...document.querySelectorAll("div")].map((node) =>
      Number(/\d+/.exec(getComputedStyle(node.shadowRoot.querySelector(".box")).backgroundColor)[0])));
    assert.deepEqual(lights.map((light) => light > 128), [true, false]);
    const order = await page.evaluate(() => [...document.body.children].map((node) => node.tagName));
    assert.deepEqual(order, ["H1", "P", "SCRIPT", "DIV", "H2", "SCRIPT", "DIV"]);
    scene.assertNoProblems();
  });

  test("asks for a name where the page knows none, by keyboard", async () => {
    await scene.start();
    pageWith(script(""));
    const page = await visit(PHONE);
    const field = page.getByRole("textbox", { name: "Your name" });
    await field.focus();
    await page.keyboard.type("x".repeat(128).replace(/x/g, "ä").slice(0, 100));
    await page.keyboard.press("Enter");
    await page.getByText("200 bytes").waitFor();
    await field.fill("carol");
    await page.keyboard.press("Enter");
    await roster(page, ["carol"]);
    await assertNothingSticksOut(page);
    scene.assertNoProblems();
  });

  test("names are text, and a server that restarts is found again", async () => {
    await scene.start();
    pageWith(script('data-user="alice"'));
    const page = await visit();
    await scene.server.beat(HOSTILE);
    await eventually(page, inside, ["5"], ".count");
    const names = await page.evaluate(inside, ".name");
    assert.deepEqual(names.sort(), [...HOSTILE, "alice"].sort());
    await assertOnlyText(page, ".box");
    await scene.restart({ args: HASTY });
    await roster(page, ["alice"]);
    scene.assertNoProblems({ serverWasAway: true });
  });
});

describe("the chat", () => {
  test("is heard by everybody in the room, as text", async () => {
    await scene.start();
    pageWith(script('data-room="support" data-user="alice" data-chat'));
    const alice = await visit();
    await roster(alice, ["alice"]);
    pageWith(script('data-room="support" data-user="bob" data-chat'));
    const bob = await visit();
    await roster(alice, ["alice", "bob"]);
    await bob.getByRole("textbox", { name: "Say something" }).fill(HOSTILE[0]);
    await bob.keyboard.press("Enter");
    for (const page of [alice, bob]) await eventually(page, inside, [HOSTILE[0]], ".said");
    await alice.getByRole("textbox", { name: "Say something" }).fill("Hello Bob");
    await alice.getByRole("button", { name: "Send" }).click();
    for (const page of [alice, bob]) await eventually(page, inside, [HOSTILE[0], "Hello Bob"], ".said");
    await eventually(alice, inside, ["Hello Bob"], ".mine .said");
    await assertOnlyText(alice, ".box");
    await screenshot(alice, "embed");
    scene.assertNoProblems();
  });
});
