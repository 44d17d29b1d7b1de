/**
 * Tokens and cookies in a browser, with a real server: token functions, renewal, expiry on standby, refusals, embed.js
 * with a token endpoint, and pages of other sites that try to use the cookies of a visitor.
 */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, afterEach, before, describe, test } from "node:test";

import { Browser } from "./browser.mjs";
import { eventually } from "./fixture.mjs";
import { LONG_GRACE, Server, until } from "./server.mjs";
import { seconds, sign as signWith } from "./token.mjs";

const SECRET = "the secret of the application of these tests";
const TOKENS = ["--jwt-secret", SECRET];
const BLANK = "<!doctype html><title>blank</title><link rel=icon href=data:,>";
/** Chromium itself reports handshakes and requests that were refused. */
const REFUSED = /WebSocket connection to|Failed to load resource|blocked by CORS policy/;

let browser;
let server;
let visitors = [];
let sites = [];

before(async () => (browser = await Browser.start()));
after(() => browser.stop());
afterEach(async () => {
  await Promise.all(visitors.map((visitor) => visitor.close()));
  for (const site of sites) site.server.close();
  await server?.stop("SIGKILL");
  [visitors, sites, server] = [[], [], undefined];
});

const sign = (claims, secret = SECRET) => signWith(claims, secret);

/**
 * An application with sessions: the cookie `sid` is the user. `/token` issues tokens, `/auth` answers rollcall, and other
 * paths are pages. Counts what was asked, and records the cookies of each request.
 */
class Site {
  claims = {};
  lifetime = 600;
  secret = SECRET;
  page = BLANK;
  tokens = 0;
  questions = 0;
  cookies = [];

  static async start() {
    const site = new Site();
    site.server = createServer((request, response) => site.#answer(request, response)).listen(0, "127.0.0.1");
    sites.push(site);
    await once(site.server, "listening");
    site.url = `http://127.0.0.1:${site.server.address().port}`;
    return site;
  }

  #answer({ url, headers }, response) {
    const user = /sid=(\w+)/.exec(headers.cookie ?? "")?.[1];
    this.cookies.push(headers.cookie);
    const json = (status, value) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
    if (url === "/token") {
      this.tokens += 1;
      if (!user) return json(401, {});
      const claims = { sub: user, exp: seconds() + this.lifetime, jti: String(this.tokens), ...this.claims };
      return json(200, { token: sign(claims, this.secret) });
    }
    if (url === "/auth") {
      this.questions += 1;
      return user ? json(200, { user }) : json(403, { reason: "sign in first" });
    }
    response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(this.page);
  }

  /** Opens its page as a visitor who is signed in. */
  async visit(user) {
    const visitor = await browser.newVisitor();
    visitors.push(visitor);
    if (user) await visitor.context.addCookies([{ name: "sid", value: user, url: this.url, httpOnly: true }]);
    const page = await visitor.open(this, "", { path: "/", online: false });
    return Object.assign(page, { visitor });
  }
}

const startServer = async (...flags) => (server = await Server.start({ args: [...LONG_GRACE, ...flags] }));

/** Has the page join `room` with a token function, as window.presence and window.room. Records what happens. */
async function join(page, room = "lobby") {
  await page.evaluate(async ([url, room]) => {
    const { connect } = await import(`${url}/presence.js`);
    window.token ??= async () => (await (await fetch("/token")).json()).token;
    window.presence = connect(url, { token: () => window.token() });
    window.events = [];
    window.presence.on("down", ({ phase, cause }) => window.events.push([phase, cause.kind, cause.code, cause.reason]));
    window.room = window.presence.join(room);
    for (const type of ["join", "leave"]) window.room.on(type, ({ user }) => window.events.push([type, user]));
  }, [server.url, room]);
}

const phase = () => window.presence.connection.phase;
const members = () => [...window.room.members.keys()].sort();
const events = (page) => page.evaluate(() => window.events);

describe("a page with a token function", () => {
  test("is who the token says, and shows the info of members beside their states", async () => {
    await startServer(...TOKENS);
    const site = await Site.start();
    site.claims = { info: { name: "Alice A." } };
    const alice = await site.visit("alice");
    await join(alice);
    await eventually(alice, members, ["alice"]);
    site.claims = {};
    const bob = await site.visit("bob");
    await join(bob);
    await eventually(bob, members, ["alice", "bob"]);
    await alice.evaluate(() => window.room.setState({ mood: "fine" }));
    const seen = () => [window.room.members.get("alice"), window.room.info("alice"), window.room.info("bob") ?? "none"];
    await eventually(bob, seen, [{ mood: "fine" }, { name: "Alice A." }, "none"]);
    assert.equal(await bob.evaluate(() => window.presence.user), "bob");
    for (const { visitor } of [alice, bob]) assert.deepEqual(visitor.problems(), []);
  });

  test("renews its token before it expires, again and again, on the same connection", async () => {
    // Pages without CPU for seconds renew their tokens late.
    await startServer(...TOKENS, "--jwt-leeway", "300s");
    const site = await Site.start();
    site.lifetime = 4;
    const page = await site.visit("alice");
    await join(page);
    await eventually(page, members, ["alice"]);
    const since = await page.evaluate(() => window.presence.connection.since);
    await until(() => `${site.tokens} tokens`, () => site.tokens >= 5);
    assert.equal(await page.evaluate(() => window.presence.connection.since), since);
    assert.deepEqual(await events(page), [["join", "alice"]]);
    assert.deepEqual(page.visitor.problems(), []);
  });

  test("whose token expired on standby (4401) connects with a new one, and nobody sees a leave", async () => {
    await startServer(...TOKENS, "--jwt-leeway", "0s");
    const site = await Site.start();
    const observer = await site.visit("observer");
    await join(observer);
    await eventually(observer, members, ["observer"]);
    // The server must have received the token before it expires.
    site.lifetime = 10;
    const page = await site.visit("alice");
    // No timer is due on standby. Pings are answered by the browser.
    await page.evaluate(() => {
      window.wake = ((setTimeout) => () => (window.setTimeout = setTimeout))(window.setTimeout);
      window.setTimeout = () => 0;
    });
    await join(page);
    await eventually(page, members, ["alice", "observer"]);
    await page.evaluate(() => window.wake());
    assert.equal(site.tokens, 2);
    site.lifetime = 600;
    await eventually(page, () => window.events.map(([what, kind, code]) => [what, kind, code ?? 0]).at(-1), ["waiting", "expired", 4401]);
    await eventually(page, phase, "online");
    assert.equal(site.tokens, 3);
    await observer.evaluate(() => window.room.setState({ asked: true }));
    await eventually(page, () => window.room.members.get("observer")?.asked, true);
    assert.deepEqual(await events(observer), [["join", "observer"], ["join", "alice"]]);
    for (const { visitor } of [observer, page]) assert.deepEqual(visitor.problems(), []);
  });

  test("is told why its token is refused (1008), and asks for no other", async () => {
    await startServer(...TOKENS);
    const site = await Site.start();
    site.secret = "a secret that rollcall does not know, with 32 bytes";
    const page = await site.visit("alice");
    await join(page);
    await eventually(page, phase, "refused");
    const [[, kind, code, reason]] = await events(page);
    assert.deepEqual([kind, code, reason.length > 0], ["refused", 1008, true]);
    assert.equal(site.tokens, 1);
    assert.equal((await server.membersOf("lobby").catch(() => ({}))).count ?? 0, 0);
  });

  test("and a fixed token that has expired is refused and not sent again", async () => {
    await startServer(...TOKENS, "--jwt-leeway", "0s");
    const site = await Site.start();
    const page = await site.visit();
    const connection = await page.evaluate(async ([url, token]) => {
      let sockets = 0;
      class Counting extends WebSocket {
        constructor(...args) {
          super(...args);
          sockets += 1;
        }
      }
      const { connect } = await import(`${url}/presence.js`);
      const presence = connect(url, { token, WebSocket: Counting });
      await new Promise((done) => presence.on("down", done));
      presence.connect();
      return [presence.connection.phase, presence.connection.cause.kind, sockets];
    }, [server.url, sign({ sub: "alice", exp: seconds() - 100 })]);
    assert.deepEqual(connection, ["refused", "expired", 1]);
  });

  test("with characters that no token has is told so: a TypeError, no attempt", async () => {
    await startServer(...TOKENS);
    const site = await Site.start();
    const page = await site.visit();
    const errors = await page.evaluate(async (url) => {
      const { connect } = await import(`${url}/presence.js`);
      const errors = [];
      for (const token of ["a b", "a,b", "a/b", "a=", "ü", ""]) {
        try {
          connect(url, { token });
        } catch (error) {
          errors.push(error.constructor.name);
        }
      }
      const presence = connect(url, { token: async () => "a, b" });
      errors.push(await new Promise((done) => presence.on("down", ({ cause }) => done(`${cause.kind} ${cause.reason}`))));
      presence.close();
      return errors;
    }, server.url);
    assert.deepEqual(errors, [...Array(6).fill("TypeError"), "token TypeError: not a token"]);
    assert.deepEqual(page.visitor.problems(), []);
  });
});

describe("embed.js with data-token-url", () => {
  const inside = (css) => [...document.querySelectorAll("div")]
    .flatMap((node) => [...(node.shadowRoot?.querySelectorAll(css) ?? [])]).map((node) => node.textContent);
  const script = (url, attributes) => `${BLANK}<body><script type="module" src="${url}/embed.js" ${attributes}></script>`;

  test("joins as the user of the session", async () => {
    await startServer(...TOKENS);
    const site = await Site.start();
    site.page = script(server.url, 'data-token-url="/token"');
    const page = await site.visit("alice");
    await eventually(page, inside, ["alice"], ".name");
    assert.equal(site.tokens, 1);
    assert.deepEqual(page.visitor.problems(), []);
  });

  test("sends no cookies to a token endpoint of another origin", async () => {
    await startServer(...TOKENS);
    const [site, other] = [await Site.start(), await Site.start()];
    site.page = script(server.url, `data-token-url="${other.url}/token"`);
    const page = await site.visit("alice");
    await until("the endpoint is asked", () => other.tokens > 0);
    assert.deepEqual(other.cookies.filter(Boolean), []);
    await eventually(page, inside, [], ".name");
  });
});

describe("embed.js without a token on a server with tokens", () => {
  const inside = (css) => [...document.querySelectorAll("div")]
    .flatMap((node) => [...(node.shadowRoot?.querySelectorAll(css) ?? [])]).map((node) => node.textContent);

  /** A page with the element, for visitors, and a page on which alice is present. */
  async function pages(...flags) {
    await startServer(...TOKENS, ...flags);
    const [site, members] = [await Site.start(), await Site.start()];
    site.page = `${BLANK}<body><script type="module" src="${server.url}/embed.js" data-chat></script>`;
    members.page = site.page.replace("data-chat", 'data-token-url="/token"');
    const alice = await members.visit("alice");
    await eventually(alice, inside, ["alice"], ".name");
    return site.visit();
  }

  test("shows the list that visitors may observe, and no way to join", async () => {
    const page = await pages("--anonymous", "observe:lobby");
    await eventually(page, inside, ["alice"], ".name");
    await eventually(page, inside, ["1"], ".count");
    await eventually(page, inside, [], "button");
    await eventually(page, inside, [""], ".state");
  });

  test("shows the number that visitors may see", async () => {
    const page = await pages("--anonymous", "count:lobby");
    await eventually(page, inside, ["1"], ".count");
    assert.deepEqual(await page.evaluate(inside, ".name"), []);
  });

  test("says that visitors are refused", async () => {
    const page = await pages();
    await eventually(page, inside, ["refused: a token is required: see docs/authentication.md"], ".state");
    assert.deepEqual(await page.evaluate(inside, "button"), []);
  });
});

describe("a page of another site (cross-site WebSocket hijacking)", () => {
  /** The application, and an attacker on another port of the same host: browsers send him the same cookies. */
  async function start(...flags) {
    const [site, attacker] = [await Site.start(), await Site.start()];
    const callback = ["--auth-url", `${site.url}/auth`, "--auth-cookie", "sid"];
    await startServer(...callback, ...flags.map((flag) => flag.replace("SITE", site.url)));
    return [site, attacker];
  }

  /** What happens to a WebSocket of the page: `message` or a close code. */
  const attempt = (page) => page.evaluate((url) => new Promise((done) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/v1/connect?room=lobby`, "presence.v1");
    socket.onmessage = ({ data }) => done(JSON.parse(data).user);
    socket.onclose = ({ code }) => done(code);
  }), server.url);

  /** Opens the attacker's page in the browser of a visitor who is signed in, and proves that his cookie is sent. */
  async function lure(attacker, site) {
    const page = await attacker.visit("alice");
    site.cookies = [];
    await page.evaluate((url) => fetch(url, { credentials: "include", mode: "no-cors" }), site.url);
    assert.deepEqual(site.cookies, ["sid=alice"]);
    return page;
  }

  test("cannot connect with the cookies of a visitor, unlike the pages of --origin", async () => {
    const [site, attacker] = await start("--origin", "SITE");
    assert.equal(await attempt(await site.visit("alice")), "alice");
    assert.equal(site.questions, 1);
    const page = await lure(attacker, site);
    assert.equal(await attempt(page), 1006, "the handshake is answered with 403");
    const posted = await page.evaluate((url) => fetch(`${url}/heartbeat`, {
      method: "POST", credentials: "include", body: new URLSearchParams({ user_id: "alice" }),
    }).then(({ status }) => status, () => "blocked"), server.url);
    assert.ok(posted === "blocked" || posted === 403, String(posted));
    assert.equal(site.questions, 1, "the application is not even asked");
    assert.deepEqual(page.visitor.problems().filter((text) => !REFUSED.test(text)), []);
  });

  test("cannot connect with them either if no --origin is given", async () => {
    const [site, attacker] = await start();
    const page = await lure(attacker, site);
    assert.equal(await attempt(page), 1008);
    assert.equal(site.questions, 0);
  });
});
