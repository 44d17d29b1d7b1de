/** The pages and embed.js behind a proxy that serves them below a prefix and removes it. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request } from "node:http";
import { connect } from "node:net";
import { after, before, test } from "node:test";

import { waitForPhase } from "./browser.mjs";
import { eventually, Fixture, shows } from "./fixture.mjs";
import { DEFAULT_TIMES } from "./server.mjs";

const PREFIX = "/below/here";
const fixture = new Fixture();
let proxy;

before(async () => {
  proxy = createServer((incoming, response) => {
    if (incoming.url === "/") return response.writeHead(200, { "content-type": "text/html" }).end(
      `<!doctype html><title>Shop</title><link rel="icon" href="data:,"><script type="module" src="${PREFIX}/embed.js" data-user="eve"></script>`);
    if (!incoming.url.startsWith(`${PREFIX}/`)) return response.writeHead(418).end();
    const { method, headers } = incoming;
    const onward = request({ port: fixture.server.port, host: "127.0.0.1", method, headers, path: incoming.url.slice(PREFIX.length) },
      (answer) => answer.pipe(response.writeHead(answer.statusCode, answer.headers)));
    onward.on("error", () => response.destroy());
    return incoming.pipe(onward);
  });
  proxy.on("upgrade", ({ method, url, rawHeaders }, near, head) => {
    const far = connect(fixture.server.port, "127.0.0.1");
    for (const [one, other] of [[near, far], [far, near]]) one.on("error", () => other.destroy()).pipe(other);
    const lines = rawHeaders.map((text, index) => (index % 2 ? `${text}\r\n` : `${text}: `));
    far.write(`${method} ${url.slice(PREFIX.length)} HTTP/1.1\r\n${lines.join("")}\r\n`);
    far.write(head);
  });
  await once(proxy.listen(0, "127.0.0.1"), "listening");
  proxy.url = `http://127.0.0.1:${proxy.address().port}`;
});
after(() => proxy.close());

test("the pages and embed.js work below a prefix that a proxy removes", async () => {
  await fixture.startServer({ args: [...DEFAULT_TIMES, "--dev-login"] });
  const visitor = await fixture.newVisitor();
  const outside = [];
  visitor.context.on("response", (response) => response.status() >= 400 && outside.push(response.url()));
  const open = (path) => visitor.open(proxy, "", { path, online: false });
  const online = await open(`${PREFIX}/?user=alice`);
  await shows(online, "#roster .name", ["alice"]);
  const embed = await open("/");
  await eventually(embed, () => [...document.querySelectorAll("div")].flatMap((node) =>
    [...(node.shadowRoot?.querySelectorAll(".name") ?? [])]).map((node) => node.textContent), ["alice", "eve"]);
  const page = await open(`${PREFIX}/dashboard`);
  await waitForPhase(page, "online");
  for (const link of ["Status", "Chat", "Login", "Online"]) {
    await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: link }).click();
    await page.locator("nav [aria-current=page]", { hasText: link }).waitFor();
    if (link === "Chat") {
      await page.getByLabel("Your name").fill("carol");
      await page.keyboard.press("Enter");
    }
    if (link === "Status") await page.getByRole("button", { name: "Connect", exact: true }).click();
    await waitForPhase(page, "online");
  }
  assert.ok(page.url().startsWith(proxy.url + PREFIX));
  assert.deepEqual(outside, []);
  fixture.assertNoProblems();
});
