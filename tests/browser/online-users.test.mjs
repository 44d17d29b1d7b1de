/** The page at `/` in a real browser, against the real server. */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { Browser, phase, roster, screenshot, seqOf, Server, showsRoster, sleep, stale } from "./harness.mjs";

/** A ttl, a grace and some ticks of SHORT_TIMES: whoever has gone is seen to have gone. */
const LEASE_IS_OVER_MS = 2_600;
/** The narrowest phone that is still around. */
const SMALL_PHONE = { viewport: { width: 320, height: 568 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const DARK = { colorScheme: "dark" };

let browser;
let server;
let visitors = [];

before(async () => (browser = await Browser.start()));
after(() => browser.stop());
afterEach(async () => {
  await Promise.all(visitors.map((visitor) => visitor.leave()));
  visitors = [];
  await server?.stop("SIGKILL");
  server = undefined;
});

async function visitor(options) {
  const one = await browser.visitor(options);
  visitors.push(one);
  return one;
}

/** A visitor with one tab, online under `name`. */
async function online(name, options) {
  const one = await visitor(options);
  return { one, page: await one.open(server, name) };
}

async function assertNothingSticksOut(page) {
  const [needed, there] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(needed <= there, `the page is ${needed} px wide, the window ${there}`);
}

function assertNoProblems(options) {
  for (const one of visitors) assert.deepEqual(one.problems(options), []);
}

describe("who is here", () => {
  test("two people see each other appear and disappear", async () => {
    server = await Server.start();
    const { page: alice } = await online("alice");
    await showsRoster(alice, ["alice"]);
    const { page: bob } = await online("bob");
    await showsRoster(alice, ["alice", "bob"]);
    await showsRoster(bob, ["alice", "bob"]);
    assert.equal(await alice.locator("#count").innerText(), "2");
    assert.equal(await alice.locator(".row.me .name").innerText(), "alice");
    assert.equal(await bob.locator(".row.me .name").innerText(), "bob");
    await bob.close();
    await showsRoster(alice, ["alice"]);
    assert.equal(await alice.locator("#count").innerText(), "1");
    assert.match(await alice.locator("#activity").innerText(), /bob/);
    assertNoProblems();
  });

  test("a name is asked for, checked, remembered and can be changed", async () => {
    server = await Server.start();
    const { page: observer } = await online("observer");
    const newcomer = await visitor();
    const page = await newcomer.open(server, "", { path: "/", online: false });
    const input = page.getByLabel("Your name");
    await input.waitFor();
    assert.ok(await input.evaluate((node) => node === document.activeElement), "the field has the focus");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await input.waitFor(); // there is no way around a name: browsers close a dialog at the second Escape, it opens again
    await input.fill("   ");
    await page.keyboard.press("Enter");
    assert.match(await page.locator("#name-error").innerText(), /type a name/);
    await input.fill("x".repeat(129));
    await page.keyboard.press("Enter");
    assert.match(await page.locator("#name-error").innerText(), /129 bytes/);
    await screenshot(page, "name-dialog");
    await input.fill("  carol ");
    await page.keyboard.press("Enter");
    await showsRoster(observer, ["carol", "observer"]);
    await page.reload();
    await phase(page, "online");
    assert.equal(await page.locator("#me-name").innerText(), "carol");

    await page.getByRole("button", { name: /Change name/ }).click();
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#change-name").evaluate((node) => node === document.activeElement), "focus comes back");
    await page.getByRole("button", { name: /Change name/ }).click();
    await input.fill("carla");
    await page.getByRole("button", { name: "Change name", exact: true }).click();
    await showsRoster(observer, ["carla", "observer"]);
    await showsRoster(page, ["carla", "observer"]);
    assertNoProblems();
  });

  test("a second tab under another name keeps both through a reload", async () => {
    server = await Server.start();
    const one = await visitor();
    const first = await one.open(server, "first", { path: "/", online: false });
    await first.getByLabel("Your name").fill("first");
    await first.keyboard.press("Enter");
    await phase(first, "online");
    const [second] = await Promise.all([one.context.waitForEvent("page"), first.getByRole("link", { name: /second tab/ }).click()]);
    await second.getByLabel("Your name").fill("second");
    await second.keyboard.press("Enter");
    await showsRoster(first, ["first", "second"]);
    await Promise.all([first.reload(), second.reload()]);
    await showsRoster(first, ["first", "second"]);
    assert.equal(await first.locator("#me-name").innerText(), "first");
    assert.equal(await second.locator("#me-name").innerText(), "second");
    assertNoProblems();
  });

  test("a reload shows nobody anything", async () => {
    server = await Server.start();
    const { page: observer } = await online("observer");
    const { page: alice } = await online("alice");
    await showsRoster(observer, ["alice", "observer"]);
    const before = await seqOf(observer);
    await alice.reload();
    await phase(alice, "online");
    await showsRoster(alice, ["alice", "observer"]);
    await sleep(LEASE_IS_OVER_MS);
    await showsRoster(observer, ["alice", "observer"]);
    assert.equal(await seqOf(observer), before);
    assertNoProblems();
  });

  test("the same name in two tabs is one person, until the last tab is closed", async () => {
    server = await Server.start();
    const { page: observer } = await online("observer");
    const { one, page: first } = await online("alice");
    const second = await one.open(server, "alice");
    await showsRoster(second, ["alice", "observer"]);
    const before = await seqOf(observer);
    await first.close();
    await sleep(LEASE_IS_OVER_MS);
    assert.deepEqual(await roster(observer), ["alice", "observer"]);
    assert.equal(await seqOf(observer), before);
    await second.close();
    await showsRoster(observer, ["observer"]);
    assertNoProblems();
  });

  test("names are text, whatever is in them", async () => {
    server = await Server.start();
    const hostile = [
      `<img src=x onerror="document.body.dataset.owned='yes'">`,
      `<script>document.body.dataset.owned='yes'</script>`,
      `"><svg/onload=alert(1)>`,
      "${7*7}{{7*7}}",
    ];
    const { page } = await online(hostile[0]);
    for (const name of hostile.slice(1)) await online(name);
    await page.locator("#roster > .row").nth(hostile.length - 1).waitFor();
    assert.deepEqual((await roster(page)).sort(), [...hostile].sort());
    assert.equal(await page.locator("#roster img, #roster script, #roster svg, #activity img, #activity svg").count(), 0);
    assert.equal(await page.locator("body").getAttribute("data-owned"), null);
    assertNoProblems();
  });

  test("names of other scripts, of emoji and of 128 bytes fit", async () => {
    server = await Server.start();
    const names = ["Zoë Ångström", "明美", "محمد", "👩‍🚀 Ada", "x".repeat(128), "user 2", "user 10"];
    await server.beat(names);
    const { page } = await online("Äneas", PHONE);
    await page.locator("#roster > .row").nth(names.length).waitFor();
    const shown = await roster(page);
    assert.deepEqual([...shown].sort(), [...names, "Äneas"].sort());
    assert.ok(shown.indexOf("user 2") < shown.indexOf("user 10"), "numbers are sorted as numbers");
    await assertNothingSticksOut(page);
    assertNoProblems();
  });
});

describe("when something is wrong", () => {
  test("a server that restarts: reconnecting, then the right list again", async () => {
    server = await Server.start();
    const { page: alice } = await online("alice");
    const { page: bob } = await online("bob");
    await showsRoster(alice, ["alice", "bob"]);
    const { port } = server;
    await server.stop("SIGTERM");
    await Promise.all([stale(alice), stale(bob)]);
    assert.match(await alice.locator("#connection-text").innerText(), /^Reconnecting/);
    await bob.close();
    server = await Server.start({ port });
    await phase(alice, "online");
    await showsRoster(alice, ["alice"]);
    const { page: carol } = await online("carol");
    await showsRoster(alice, ["alice", "carol"]);
    await showsRoster(carol, ["alice", "carol"]);
    assert.ok(await alice.locator("#notice").isHidden());
    assertNoProblems({ serverWasAway: true });
  });

  test("a server that is gone: the page says what is wrong, dims the list and keeps trying", async () => {
    server = await Server.start();
    const { page } = await online("alice");
    const { page: phone } = await online("phone", { ...PHONE, ...DARK });
    const { page: small } = await online("small", SMALL_PHONE);
    await showsRoster(page, ["alice", "phone", "small"]);
    const { port } = server;
    await server.stop("SIGKILL");
    for (const one of [page, phone, small]) {
      await one.getByRole("heading", { name: "The server cannot be reached" }).waitFor();
      assert.match(await one.locator("#notice-text").innerText(), new RegExp(`127\\.0\\.0\\.1:${port}`));
      assert.equal(await one.locator("body").getAttribute("data-stale"), "true");
      assert.match(await one.locator("#stale").innerText(), /^as of /);
      assert.equal(await one.locator("#count-label").innerText(), "online when last seen");
    }
    assert.deepEqual(await roster(page), ["alice", "phone", "small"], "the last list stays");
    await assertNothingSticksOut(small);
    await sleep(700);
    await screenshot(page, "server-gone");
    await screenshot(small, "server-gone-small-phone");
    await screenshot(phone, "server-gone-phone-dark");
    server = await Server.start({ port });
    // It comes back by itself; the button only makes it come sooner, and may be gone before it is clicked.
    await page.locator("#retry").click({ timeout: 1_000 }).catch(() => {});
    for (const one of [page, phone, small]) await phase(one, "online");
    await showsRoster(page, ["alice", "phone", "small"]);
    assert.equal(await page.locator("#count-label").innerText(), "online right now");
    assertNoProblems({ serverWasAway: true });
  });

  test("a refusal is told with its reason, and asked again only by hand", async () => {
    server = await Server.start();
    const one = await visitor();
    let refuse = true;
    let attempts = 0;
    await one.context.routeWebSocket(/\/v1\/connect/, (socket) => {
      attempts += 1;
      if (refuse) socket.close({ code: 1008, reason: "no more than 5 connections each" });
      else socket.connectToServer();
    });
    const page = await one.open(server, "alice", { online: false });
    await page.getByRole("heading", { name: "The server refused the connection" }).waitFor();
    assert.equal(await page.locator("#notice-text").innerText(), "no more than 5 connections each");
    assert.equal(await page.locator("#connection-text").innerText(), "Offline");
    await sleep(2_000);
    assert.equal(attempts, 1);
    refuse = false;
    await page.getByRole("button", { name: "Try now" }).click();
    await phase(page, "online");
    await showsRoster(page, ["alice"]);
    assertNoProblems();
  });

  test("a browser that loses the network and finds it again is online afterwards", async () => {
    server = await Server.start();
    const { one, page } = await online("alice");
    const { page: bob } = await online("bob");
    await one.context.setOffline(true);
    await sleep(500);
    await one.context.setOffline(false);
    await bob.close();
    await showsRoster(page, ["alice"]);
    await phase(page, "online");
    assertNoProblems({ serverWasAway: true });
  });

  test("a server that hangs is noticed, though its connections stay open", async () => {
    server = await Server.start();
    const { page } = await online("alice");
    await showsRoster(page, ["alice"]);
    server.signal("SIGSTOP");
    await page.getByRole("heading", { name: "The connection went silent" }).waitFor();
    server.signal("SIGCONT");
    await phase(page, "online");
    await showsRoster(page, ["alice"]);
    assertNoProblems({ serverWasAway: true });
  });
});

describe("how it looks", () => {
  const FIRST = ["Ada", "grace", "Linus", "Margaret", "ken", "Barbara", "Edsger", "Radia", "tony", "Frances", "Niklaus", "Jean", "dennis",
    "Shafi", "Leslie", "Adele", "Yukihiro", "Katherine", "Guido", "Hedy", "Zoë"];
  const LAST = ["Lovelace", "hopper", "Torvalds", "Hamilton", "Thompson", "liskov", "Dijkstra", "Perlman", "Hoare", "allen", "Wirth",
    "Bartik", "Ritchie", "goldwasser", "Lamport", "Goldberg", "Matsumoto"];
  const STYLES = [(first, last) => `${first} ${last}`, (first, last) => `${first}.${last}`.toLowerCase(), (first) => first];

  /** Different names that look like those of people. */
  function crowd(size) {
    const nameOf = (_, index) => {
      const name = STYLES[index % 3](FIRST[index % FIRST.length], LAST[index % LAST.length]);
      return index < FIRST.length ? name : `${name} ${index}`;
    };
    return Array.from({ length: size }, nameOf);
  }

  const LONG_LEASE = ["--ttl", "60s", "--grace", "10s", "--tick", "50ms"];

  for (const size of [1, 5, 300, 5000]) {
    test(`with ${size} online, on a phone and a desk, in light and dark`, { timeout: 120_000 }, async () => {
      server = await Server.start({ args: LONG_LEASE });
      await server.beat(crowd(size - 1));
      const looks = { desk: {}, "desk-dark": DARK, phone: PHONE, "phone-dark": { ...PHONE, ...DARK } };
      for (const [look, options] of Object.entries(looks)) {
        const { page } = await online("me, myself", { ...options, reducedMotion: "reduce" });
        await page.waitForFunction((count) => document.getElementById("count").textContent === count, size.toLocaleString("en-US"));
        assert.ok(await page.locator("#roster > .row").count() <= 300);
        await assertNothingSticksOut(page);
        if (size === 5000) assert.match(await page.locator("#more").innerText(), /^and 4,700 more/);
        await screenshot(page, `online-${size}-${look}`);
      }
      assertNoProblems();
    });
  }

  test("a long list can be searched and stays smooth while people come and go", async () => {
    server = await Server.start({ args: LONG_LEASE });
    await server.beat(crowd(3000));
    const { page } = await online("zz me");
    await page.waitForFunction(() => document.getElementById("count").textContent === "3,001");
    assert.equal(await page.locator("#more").innerText(), "and 2,701 more, you among them");
    const longest = page.evaluate(() => new Promise((done) => {
      let last = performance.now();
      let worst = 0;
      const until = last + 2_000;
      requestAnimationFrame(function frame(now) {
        worst = Math.max(worst, now - last);
        last = now;
        if (now < until) requestAnimationFrame(frame);
        else done(worst);
      });
    }));
    for (let round = 0; round < 20; round += 1) await server.beat([`Aa ${round}`, `Mm ${round}`, `Zz ${round}`]);
    const worst = await longest;
    assert.ok(worst < 500, `the longest frame took ${worst} ms`);
    await page.getByLabel("Find a name").fill("ZZ 7");
    await showsRoster(page, ["Zz 7"]);
    await page.getByLabel("Find a name").fill("nobody at all");
    await page.getByText("Nobody here is called").waitFor();
    assertNoProblems();
  });
});
