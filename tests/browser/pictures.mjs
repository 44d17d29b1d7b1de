/** Makes the pictures of the documentation: `node pictures.mjs FOLDER`. `scripts/browser-test --pictures` runs it. */

import { once } from "node:events";
import { createServer } from "node:http";
import { join, resolve } from "node:path";

import { Browser, showsRoster, waitForPhase } from "./browser.mjs";
import { shows } from "./fixture.mjs";
import { serve, showsMembers, Workshop } from "./frameworks/build.mjs";
import { Server, sleep, until } from "./server.mjs";

const folder = resolve(process.argv[2]);
const USERS = ["Ada Lovelace", "grace.hopper", "Linus", "Margaret Hamilton"];
/** Long enough for charts with a curve. */
const DEMO_MS = 40_000;
const SHOP = (server, user) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Seed &amp; Soil</title>
  <style>body { margin: 48px 128px; background: #fffaee; color: #392a1d; font: 18px/1.6 serif; display: grid; gap: 50px;
  grid-template-columns: 270px 384px } h1 { grid-column: 1 / 3; margin: 0; font-size: 40px } p { margin: 0 }</style>
  <h1>Seed &amp; Soil</h1><p>Everything for a garden that grows by itself. Our tomatoes were sown in February; ask the
  others how theirs are doing.</p><div><script type="module" src="${server}/embed.js" data-room="shop"
  data-user="${user}" data-chat></script></div></html>`;

const browser = await Browser.start();
let server;

/** Opens a page as another visitor. */
async function open(path, base = server.url, viewport = { width: 1280, height: 800 }) {
  const visitor = await browser.newVisitor({ viewport });
  return visitor.open({ url: base }, "", { path, online: false });
}

async function picture(page, name) {
  await page.screenshot({ path: join(folder, `${name}.png`) });
  console.log(`${name}.png`);
}

const PICTURES = {
  async "online-users"() {
    await server.sendHeartbeats(USERS);
    const page = await open("/?user=me, myself");
    await showsRoster(page, [...USERS, "me, myself"]);
    await picture(page, "online-users");
  },

  async chat() {
    const pages = {};
    for (const user of ["Ada", "Grace Hopper", "Linus"]) {
      pages[user] = await open(`/chat?user=${user}`);
      await waitForPhase(pages[user], "online");
    }
    const say = async (user, ...lines) => {
      await pages[user].locator("#text").fill(lines.join("\n"));
      await pages[user].keyboard.press("Enter");
      await pages.Ada.getByText(lines[0]).waitFor();
    };
    await say("Grace Hopper", "Morning! Is Margaret in yet?");
    await say("Ada", "Not yet. She will show up on the right when she is.");
    await say("Ada", "And here, between the lines.");
    await say("Linus", "No need to ask, then.", "Good.");
    await picture(pages.Ada, "chat");
  },

  async status() {
    const page = await open("/status");
    await page.getByLabel("User id").fill("101, 102, alice");
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await shows(page, "#count", ["3"]);
    await server.sendHeartbeats(USERS.slice(0, 3));
    await shows(page, "#count", ["6"]);
    await picture(page, "status");
  },

  async login() {
    const signIn = async (user) => {
      const page = await open("/login");
      await page.getByRole("textbox", { name: "Your name" }).fill(user);
      await page.getByRole("button", { name: "Sign in" }).click();
      await page.getByRole("button", { name: "Sign out" }).waitFor();
      return page;
    };
    const page = await signIn("Ada Lovelace");
    for (const user of ["Barbara", "grace.hopper", "Linus"]) await signIn(user);
    const left = await signIn("Radia Perlman");
    await left.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("4 of 5 online").waitFor();
    await picture(page, "login");
  },

  async dashboard() {
    const page = await open("/dashboard");
    await page.getByRole("button", { name: "Add 20 demo users" }).click();
    await sleep(DEMO_MS);
    await picture(page, "dashboard");
  },

  async api() {
    const page = await open("/docs");
    await page.locator("#listMembers").waitFor();
    await page.evaluate(() => document.querySelector("#listMembers").scrollIntoView({ behavior: "instant" }));
    await picture(page, "api");
  },

  async embed() {
    const site = createServer((request, response) => {
      const { pathname, searchParams } = new URL(request.url, "http://site");
      response.writeHead(pathname === "/" ? 200 : 204, { "content-type": "text/html" });
      response.end(pathname === "/" ? SHOP(server.url, searchParams.get("user")) : undefined);
    }).listen(0, "127.0.0.1");
    await once(site, "listening");
    const pages = {};
    const [base, viewport] = [`http://localhost:${site.address().port}`, { width: 960, height: 760 }];
    for (const user of ["Ada", "Grace", "Linus"]) {
      pages[user] = await open(`/?user=${user}`, base, viewport);
      await pages[user].getByRole("textbox").waitFor();
    }
    for (const [user, text] of [
      ["Grace", "Are the tomatoes out of the greenhouse yet?"], ["Ada", "Since Monday. No frost so far."],
      ["Linus", "Mine went out too early, be careful!"], ["Ada", "Thanks, I cover them at night."],
    ]) {
      await pages[user].getByRole("textbox").fill(text);
      await pages[user].keyboard.press("Enter");
      await pages.Ada.getByText(text).waitFor();
    }
    await picture(pages.Ada, "embed");
    site.close();
  },

  /** The example of each framework, in one room. */
  async frameworks() {
    const workshop = new Workshop();
    await workshop.prepare();
    const folders = {};
    const url = server.url.replace("http", "ws");
    for (const name of ["react", "vue", "svelte"]) folders[name] = await workshop.page(name, url);
    const site = await serve(folders);
    const pages = {};
    const viewport = { width: 640, height: 400 };
    for (const name of Object.keys(folders)) pages[name] = await open(`/${name}/?user=${name}`, site.url, viewport);
    for (const [name, page] of Object.entries(pages)) {
      await showsMembers(page, Object.keys(pages));
      await page.getByLabel("Message").fill(`Hello from ${name}`);
      await page.getByRole("button").click();
      await pages.react.getByText(`Hello from ${name}`).waitFor();
    }
    for (const [name, page] of Object.entries(pages)) {
      await until(`${name} has all messages`, async () => (await page.locator("#messages li").count()) === 3);
      await picture(page, `example-${name}`);
    }
    site.close();
    workshop.remove();
  },
};

try {
  for (const make of Object.values(PICTURES)) {
    server = await Server.start({ args: ["--dev-login"] });
    await make();
    await server.stop();
  }
} finally {
  await browser.stop();
  await server?.stop("SIGKILL");
}
