/** The page `/` in a browser, with a real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { pauseClock, rosterNames, screenshot, seqOf, showsRoster, waitForPhase, waitForStale } from "./browser.mjs";
import {
  assertNoHorizontalScrolling, assertOnlyText, DARK, eventually, Fixture, HOSTILE, PHONE, shows, SMALL_PHONE,
} from "./fixture.mjs";
import { LONG_GRACE, LONG_LEASE, SHORT_TIMES, until } from "./server.mjs";

const fixture = new Fixture();

/** A visitor with one tab, online under `name`. */
async function online(name, options) {
  const visitor = await fixture.newVisitor(options);
  return { visitor, page: await visitor.open(fixture.server, name) };
}

/** Waits until the page shows the expected names, after another user joins. By then the page also shows earlier changes. */
async function showsAfterJoin(page, newcomer, expected) {
  await online(newcomer);
  await showsRoster(page, expected);
}

describe("users online", () => {
  test("two users see each other join and leave", async () => {
    await fixture.startServer();
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
    fixture.assertNoProblems();
  });

  test("the page asks for a name, checks it, remembers it and lets the user change it", async () => {
    await fixture.startServer();
    const { page: observer } = await online("observer");
    const visitor = await fixture.newVisitor();
    const page = await visitor.open(fixture.server, "", { path: "/", online: false });
    const input = page.getByLabel("Your name");
    await input.waitFor();
    assert.ok(await input.evaluate((node) => node === document.activeElement), "the input must have the focus");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await input.waitFor(); // browsers close a dialog at the second Escape; the page opens it again
    await input.fill("   ");
    await page.keyboard.press("Enter");
    assert.match(await page.locator("#name-error").innerText(), /Enter a name/);
    await input.fill("x".repeat(129));
    await page.keyboard.press("Enter");
    assert.match(await page.locator("#name-error").innerText(), /129 bytes/);
    await screenshot(page, "name-dialog");
    await input.fill("  carol ");
    await page.keyboard.press("Enter");
    await showsRoster(observer, ["carol", "observer"]);
    await page.reload();
    await waitForPhase(page, "online");
    assert.equal(await page.locator("#me-name").innerText(), "carol");

    await page.getByRole("button", { name: /Change name/ }).click();
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#change-name").evaluate((node) => node === document.activeElement), "the button must have the focus again");
    await page.getByRole("button", { name: /Change name/ }).click();
    await input.fill("carla");
    await page.getByRole("button", { name: "Change name", exact: true }).click();
    await showsRoster(observer, ["carla", "observer"]);
    await showsRoster(page, ["carla", "observer"]);
    fixture.assertNoProblems();
  });

  test("two tabs with two names both keep their name after a reload", async () => {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    const first = await visitor.open(fixture.server, "first", { path: "/", online: false });
    await first.getByLabel("Your name").fill("first");
    await first.keyboard.press("Enter");
    await waitForPhase(first, "online");
    const opened = visitor.context.waitForEvent("page");
    await first.getByRole("link", { name: /second tab/ }).click();
    const second = await opened;
    await second.getByLabel("Your name").fill("second");
    await second.keyboard.press("Enter");
    await showsRoster(first, ["first", "second"]);
    await Promise.all([first.reload(), second.reload()]);
    await showsRoster(first, ["first", "second"]);
    assert.equal(await first.locator("#me-name").innerText(), "first");
    assert.equal(await second.locator("#me-name").innerText(), "second");
    fixture.assertNoProblems();
  });

  test("a reload is invisible to others", async () => {
    await fixture.startServer({ args: LONG_GRACE });
    const { page: observer } = await online("observer");
    const { page: alice } = await online("alice");
    await showsRoster(observer, ["alice", "observer"]);
    const before = await seqOf(observer);
    await alice.reload();
    await waitForPhase(alice, "online");
    await showsRoster(alice, ["alice", "observer"]);
    await fixture.server.waitForGraceToEnd();
    await showsAfterJoin(observer, "newcomer", ["alice", "newcomer", "observer"]);
    assert.equal(await seqOf(observer), before + 1);
    fixture.assertNoProblems();
  });

  test("two tabs with the same name are one user, until the last tab is closed", async () => {
    await fixture.startServer();
    const { page: observer } = await online("observer");
    const { visitor, page: first } = await online("alice");
    const second = await visitor.open(fixture.server, "alice");
    for (const page of [second, observer]) await showsRoster(page, ["alice", "observer"]);
    const before = await seqOf(observer);
    await first.close();
    await fixture.server.waitForGraceToEnd();
    await showsAfterJoin(observer, "newcomer", ["alice", "newcomer", "observer"]);
    assert.equal(await seqOf(observer), before + 1);
    await second.close();
    await showsRoster(observer, ["newcomer", "observer"]);
    fixture.assertNoProblems();
  });

  test("names with HTML are shown as text", async () => {
    await fixture.startServer();
    const { page } = await online(HOSTILE[0]);
    for (const name of HOSTILE.slice(1)) await online(name);
    await page.locator("#roster > .row").nth(HOSTILE.length - 1).waitFor();
    assert.deepEqual((await rosterNames(page)).sort(), [...HOSTILE].sort());
    for (const list of ["#roster", "#activity"]) await assertOnlyText(page, list);
    fixture.assertNoProblems();
  });

  test("names in other scripts, with emoji or of 128 bytes fit", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    const names = ["Zoë Ångström", "明美", "محمد", "👩‍🚀 Ada", "x".repeat(128), "user 2", "user 10"];
    await fixture.server.sendHeartbeats(names);
    const { page } = await online("Äneas", PHONE);
    await page.locator("#roster > .row").nth(names.length).waitFor();
    const shown = await rosterNames(page);
    assert.deepEqual([...shown].sort(), [...names, "Äneas"].sort());
    assert.ok(shown.indexOf("user 2") < shown.indexOf("user 10"), "numbers must be sorted by value");
    await assertNoHorizontalScrolling(page);
    fixture.assertNoProblems();
  });
});

describe("problems", () => {
  test("after a restart of the server the page shows the new list", async () => {
    await fixture.startServer({ args: SHORT_TIMES });
    const { page: alice } = await online("alice");
    const { page: bob } = await online("bob");
    await showsRoster(alice, ["alice", "bob"]);
    const { port } = fixture.server;
    await fixture.server.stop("SIGTERM");
    await Promise.all([waitForStale(alice), waitForStale(bob)]);
    assert.match(await alice.locator("#connection-text").innerText(), /^Reconnecting/);
    await bob.close();
    await fixture.startServer({ args: SHORT_TIMES, port });
    await waitForPhase(alice, "online");
    await showsRoster(alice, ["alice"]);
    const { page: carol } = await online("carol");
    await showsRoster(alice, ["alice", "carol"]);
    await showsRoster(carol, ["alice", "carol"]);
    await alice.locator("#notice").waitFor({ state: "hidden" });
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });

  test("if the server refuses the handshake, the page shows the reason", async () => {
    await fixture.startServer({ args: ["--pages", "all", "--pusher-app", "1:app-key:app-secret"] });
    const page = await fixture.open("/?user=alice");
    await page.getByRole("heading", { name: "The server refused the connection" }).waitFor();
    assert.match(await page.locator("#notice-text").innerText(), /^this server serves only clients of --pusher-app/);
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });

  test("if the server is unreachable, the page says so, dims the list and keeps trying", async () => {
    await fixture.startServer();
    const { page } = await online("alice");
    const { page: phone } = await online("phone", { ...PHONE, ...DARK });
    const { page: small } = await online("small", SMALL_PHONE);
    await showsRoster(page, ["alice", "phone", "small"]);
    const { port } = fixture.server;
    await fixture.server.stop("SIGKILL");
    for (const one of [page, phone, small]) {
      await one.getByRole("heading", { name: "The server cannot be reached" }).waitFor();
      assert.match(await one.locator("#notice-text").innerText(), new RegExp(`127\\.0\\.0\\.1:${port}`));
      assert.equal(await one.locator("body").getAttribute("data-stale"), "true");
      assert.match(await one.locator("#stale").innerText(), /^as of /);
      assert.equal(await one.locator("#count-label").innerText(), "online when last seen");
    }
    assert.deepEqual(await rosterNames(page), ["alice", "phone", "small"], "the last list must still be shown");
    await assertNoHorizontalScrolling(small);
    await screenshot(page, "server-gone");
    await screenshot(small, "server-gone-small-phone");
    await screenshot(phone, "server-gone-phone-dark");
    await fixture.startServer({ port });
    // The page also reconnects without the button, which may have disappeared before it is clicked.
    await page.locator("#retry").click({ timeout: 1_000 }).catch(() => {});
    for (const one of [page, phone, small]) await waitForPhase(one, "online");
    await showsRoster(page, ["alice", "phone", "small"]);
    assert.equal(await page.locator("#count-label").innerText(), "online right now");
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });

  test("a refusal is shown with its reason, and only the button tries again", async () => {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    await visitor.context.clock.install();
    let refuse = true;
    let attempts = 0;
    await visitor.context.routeWebSocket(/\/v1\/connect/, (socket) => {
      attempts += 1;
      if (refuse) socket.close({ code: 1008, reason: "the limit is 5 connections per user" });
      else socket.connectToServer();
    });
    const page = await visitor.open(fixture.server, "alice", { online: false });
    await page.getByRole("heading", { name: "The server refused the connection" }).waitFor();
    assert.equal(await page.locator("#notice-text").innerText(), "the limit is 5 connections per user");
    assert.equal(await page.locator("#connection-text").innerText(), "Offline");
    await page.clock.runFor(600_000);
    assert.equal(attempts, 1);
    refuse = false;
    await page.getByRole("button", { name: "Try now" }).click();
    await waitForPhase(page, "online");
    await showsRoster(page, ["alice"]);
    fixture.assertNoProblems();
  });

  test("a browser whose network fails and comes back is online afterwards", async () => {
    await fixture.startServer();
    const { visitor, page } = await online("alice");
    const { page: bob } = await online("bob");
    await visitor.context.setOffline(true);
    await visitor.context.setOffline(false);
    await bob.close();
    await showsRoster(page, ["alice"]);
    await waitForPhase(page, "online");
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });

  test("a server that hangs is detected although its connections stay open", async () => {
    await fixture.startServer();
    const visitor = await fixture.newVisitor();
    await visitor.context.clock.install();
    const page = await visitor.open(fixture.server, "alice");
    await showsRoster(page, ["alice"]);
    fixture.server.signal("SIGSTOP");
    // With a running clock, the page would say something else after ten seconds.
    await pauseClock(page);
    await until("the page shows that the connection is silent", async () => {
      await page.clock.runFor(1_000);
      return page.getByRole("heading", { name: "The connection went silent" }).isVisible();
    });
    fixture.server.signal("SIGCONT");
    await page.clock.resume();
    await waitForPhase(page, "online");
    await showsRoster(page, ["alice"]);
    fixture.assertNoProblems({ serverWasUnreachable: true });
  });
});

describe("layout", () => {
  const FIRST = ["Ada", "grace", "Linus", "Margaret", "ken", "Barbara", "Edsger", "Radia", "tony", "Frances", "Niklaus",
    "Jean", "dennis", "Shafi", "Leslie", "Adele", "Yukihiro", "Katherine", "Guido", "Hedy", "Zoë"];
  const LAST = ["Lovelace", "hopper", "Torvalds", "Hamilton", "Thompson", "liskov", "Dijkstra", "Perlman", "Hoare",
    "allen", "Wirth", "Bartik", "Ritchie", "goldwasser", "Lamport", "Goldberg", "Matsumoto"];
  const STYLES = [(first, last) => `${first} ${last}`, (first, last) => `${first}.${last}`.toLowerCase(), (first) => first];

  /** Realistic names, all different. */
  function userNames(size) {
    const nameOf = (_, index) => {
      const name = STYLES[index % 3](FIRST[index % FIRST.length], LAST[index % LAST.length]);
      return index < FIRST.length ? name : `${name} ${index}`;
    };
    return Array.from({ length: size }, nameOf);
  }

  for (const size of [1, 5, 300, 5000]) {
    test(`with ${size} users, on a phone and a desktop, light and dark`, async () => {
      await fixture.startServer({ args: LONG_LEASE });
      await fixture.server.sendHeartbeats(userNames(size - 1));
      const screens = { desktop: {}, "desktop-dark": DARK, phone: PHONE, "phone-dark": { ...PHONE, ...DARK } };
      for (const [screen, options] of Object.entries(screens)) {
        const { page } = await online("me, myself", { ...options, reducedMotion: "reduce" });
        const shown = (count) => document.getElementById("count").textContent === count;
        await page.waitForFunction(shown, size.toLocaleString("en-US"));
        assert.ok(await page.locator("#roster > .row").count() <= 300);
        await assertNoHorizontalScrolling(page);
        // This line is drawn with the next frame.
        const more = () => document.getElementById("more").textContent.slice(0, 14);
        if (size === 5000) await eventually(page, more, "and 4,700 more");
        await screenshot(page, `online-${size}-${screen}`);
      }
      fixture.assertNoProblems();
    });
  }

  test("a long list can be filtered, and a change redraws only a few of its rows", async () => {
    await fixture.startServer({ args: LONG_LEASE });
    await fixture.server.sendHeartbeats(userNames(3000));
    const { page } = await online("zz me");
    await page.waitForFunction(() => document.getElementById("count").textContent === "3,001");
    await shows(page, "#more", ["and 2,701 more, including you"]);
    await page.evaluate(() => {
      window.rowsDrawn = 0;
      new MutationObserver((changes) => changes.forEach(({ addedNodes }) => (window.rowsDrawn += addedNodes.length)))
        .observe(document.getElementById("roster"), { childList: true });
    });
    const devtools = await page.context().newCDPSession(page);
    await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
    const cpuSeconds = async () => {
      const { metrics } = await devtools.send("Performance.getMetrics");
      return metrics.find(({ name }) => name === "TaskDuration").value;
    };
    // The CPU time of the page itself does not depend on other processes.
    const before = await cpuSeconds();
    for (let round = 0; round < 20; round += 1) await fixture.server.sendHeartbeats([`Aa ${round}`, `Mm ${round}`, `Zz ${round}`]);
    await page.waitForFunction(() => document.getElementById("count").textContent === "3,061");
    // 20 of the 60 newcomers are among the 300 rows. The last row can be drawn a moment after it is counted.
    await page.waitForFunction(() => window.rowsDrawn >= 20);
    const drawn = await page.evaluate(() => window.rowsDrawn);
    assert.ok(drawn < 100, `${drawn} rows were drawn`);
    const spent = (await cpuSeconds()) - before;
    assert.ok(spent / 20 < 0.5, `each change cost the page ${spent / 20} s of CPU`);
    await page.getByLabel("Find a name").fill("ZZ 7");
    await showsRoster(page, ["Zz 7"]);
    await page.getByLabel("Find a name").fill("nobody at all");
    await page.getByText("No name contains").waitFor();
    fixture.assertNoProblems();
  });
});
