/** The page at `/` in a real browser, against the real server. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { phase, roster, screenshot, seqOf, showsRoster, stale } from "./harness.mjs";
import { assertNothingSticksOut, assertOnlyText, DARK, HOSTILE, PHONE, Scene, SMALL_PHONE } from "./scene.mjs";
import { HASTY, LONG_GRACE, until } from "./server.mjs";

const scene = new Scene();

/** A visitor with one tab, online under `name`. */
async function online(name, options) {
  const one = await scene.visitor(options);
  return { one, page: await one.open(scene.server, name) };
}

/** Waits until the page has been told what the server knows by now; whoever was to be seen to go has been seen by then. */
async function isTold(page, newcomer, expected) {
  await online(newcomer);
  await showsRoster(page, expected);
}

describe("who is here", () => {
  test("two people see each other appear and disappear", async () => {
    await scene.start();
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
    scene.assertNoProblems();
  });

  test("a name is asked for, checked, remembered and can be changed", async () => {
    await scene.start();
    const { page: observer } = await online("observer");
    const newcomer = await scene.visitor();
    const page = await newcomer.open(scene.server, "", { path: "/", online: false });
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
    scene.assertNoProblems();
  });

  test("a second tab under another name keeps both through a reload", async () => {
    await scene.start();
    const one = await scene.visitor();
    const first = await one.open(scene.server, "first", { path: "/", online: false });
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
    scene.assertNoProblems();
  });

  test("a reload shows nobody anything", async () => {
    await scene.start({ args: LONG_GRACE });
    const { page: observer } = await online("observer");
    const { page: alice } = await online("alice");
    await showsRoster(observer, ["alice", "observer"]);
    const before = Number(await seqOf(observer));
    await alice.reload();
    await phase(alice, "online");
    await showsRoster(alice, ["alice", "observer"]);
    await scene.server.graceIsOver();
    await isTold(observer, "newcomer", ["alice", "newcomer", "observer"]);
    assert.equal(Number(await seqOf(observer)), before + 1);
    scene.assertNoProblems();
  });

  test("the same name in two tabs is one person, until the last tab is closed", async () => {
    await scene.start();
    const { page: observer } = await online("observer");
    const { one, page: first } = await online("alice");
    const second = await one.open(scene.server, "alice");
    await showsRoster(second, ["alice", "observer"]);
    const before = Number(await seqOf(observer));
    await first.close();
    await scene.server.graceIsOver();
    await isTold(observer, "newcomer", ["alice", "newcomer", "observer"]);
    assert.equal(Number(await seqOf(observer)), before + 1);
    await second.close();
    await showsRoster(observer, ["newcomer", "observer"]);
    scene.assertNoProblems();
  });

  test("names are text, whatever is in them", async () => {
    await scene.start();
    const { page } = await online(HOSTILE[0]);
    for (const name of HOSTILE.slice(1)) await online(name);
    await page.locator("#roster > .row").nth(HOSTILE.length - 1).waitFor();
    assert.deepEqual((await roster(page)).sort(), [...HOSTILE].sort());
    for (const list of ["#roster", "#activity"]) await assertOnlyText(page, list);
    scene.assertNoProblems();
  });

  test("names of other scripts, of emoji and of 128 bytes fit", async () => {
    await scene.start();
    const names = ["Zoë Ångström", "明美", "محمد", "👩‍🚀 Ada", "x".repeat(128), "user 2", "user 10"];
    await scene.server.beat(names);
    const { page } = await online("Äneas", PHONE);
    await page.locator("#roster > .row").nth(names.length).waitFor();
    const shown = await roster(page);
    assert.deepEqual([...shown].sort(), [...names, "Äneas"].sort());
    assert.ok(shown.indexOf("user 2") < shown.indexOf("user 10"), "numbers are sorted as numbers");
    await assertNothingSticksOut(page);
    scene.assertNoProblems();
  });
});

describe("when something is wrong", () => {
  test("a server that restarts: reconnecting, then the right list again", async () => {
    await scene.start({ args: HASTY });
    const { page: alice } = await online("alice");
    const { page: bob } = await online("bob");
    await showsRoster(alice, ["alice", "bob"]);
    const { port } = scene.server;
    await scene.server.stop("SIGTERM");
    await Promise.all([stale(alice), stale(bob)]);
    assert.match(await alice.locator("#connection-text").innerText(), /^Reconnecting/);
    await bob.close();
    await scene.start({ args: HASTY, port });
    await phase(alice, "online");
    await showsRoster(alice, ["alice"]);
    const { page: carol } = await online("carol");
    await showsRoster(alice, ["alice", "carol"]);
    await showsRoster(carol, ["alice", "carol"]);
    assert.ok(await alice.locator("#notice").isHidden());
    scene.assertNoProblems({ serverWasAway: true });
  });

  test("a server that is gone: the page says what is wrong, dims the list and keeps trying", async () => {
    await scene.start();
    const { page } = await online("alice");
    const { page: phone } = await online("phone", { ...PHONE, ...DARK });
    const { page: small } = await online("small", SMALL_PHONE);
    await showsRoster(page, ["alice", "phone", "small"]);
    const { port } = scene.server;
    await scene.server.stop("SIGKILL");
    for (const one of [page, phone, small]) {
      await one.getByRole("heading", { name: "The server cannot be reached" }).waitFor();
      assert.match(await one.locator("#notice-text").innerText(), new RegExp(`127\\.0\\.0\\.1:${port}`));
      assert.equal(await one.locator("body").getAttribute("data-stale"), "true");
      assert.match(await one.locator("#stale").innerText(), /^as of /);
      assert.equal(await one.locator("#count-label").innerText(), "online when last seen");
    }
    assert.deepEqual(await roster(page), ["alice", "phone", "small"], "the last list stays");
    await assertNothingSticksOut(small);
    await screenshot(page, "server-gone");
    await screenshot(small, "server-gone-small-phone");
    await screenshot(phone, "server-gone-phone-dark");
    await scene.start({ port });
    // It comes back by itself; the button only makes it come sooner, and may be gone before it is clicked.
    await page.locator("#retry").click({ timeout: 1_000 }).catch(() => {});
    for (const one of [page, phone, small]) await phase(one, "online");
    await showsRoster(page, ["alice", "phone", "small"]);
    assert.equal(await page.locator("#count-label").innerText(), "online right now");
    scene.assertNoProblems({ serverWasAway: true });
  });

  test("a refusal is told with its reason, and asked again only by hand", async () => {
    await scene.start();
    const one = await scene.visitor();
    await one.context.clock.install();
    let refuse = true;
    let attempts = 0;
    await one.context.routeWebSocket(/\/v1\/connect/, (socket) => {
      attempts += 1;
      if (refuse) socket.close({ code: 1008, reason: "no more than 5 connections each" });
      else socket.connectToServer();
    });
    const page = await one.open(scene.server, "alice", { online: false });
    await page.getByRole("heading", { name: "The server refused the connection" }).waitFor();
    assert.equal(await page.locator("#notice-text").innerText(), "no more than 5 connections each");
    assert.equal(await page.locator("#connection-text").innerText(), "Offline");
    await page.clock.runFor(600_000);
    assert.equal(attempts, 1);
    refuse = false;
    await page.getByRole("button", { name: "Try now" }).click();
    await phase(page, "online");
    await showsRoster(page, ["alice"]);
    scene.assertNoProblems();
  });

  test("a browser that loses the network and finds it again is online afterwards", async () => {
    await scene.start();
    const { one, page } = await online("alice");
    const { page: bob } = await online("bob");
    await one.context.setOffline(true);
    await one.context.setOffline(false);
    await bob.close();
    await showsRoster(page, ["alice"]);
    await phase(page, "online");
    scene.assertNoProblems({ serverWasAway: true });
  });

  test("a server that hangs is noticed, though its connections stay open", async () => {
    await scene.start();
    const one = await scene.visitor();
    await one.context.clock.install();
    const page = await one.open(scene.server, "alice");
    await showsRoster(page, ["alice"]);
    scene.server.signal("SIGSTOP");
    await until("the page notices", async () => {
      await page.clock.runFor(1_000);
      return page.getByRole("heading", { name: "The connection went silent" }).isVisible();
    });
    scene.server.signal("SIGCONT");
    await page.clock.resume();
    await phase(page, "online");
    await showsRoster(page, ["alice"]);
    scene.assertNoProblems({ serverWasAway: true });
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

  const LONG_LEASE = ["--ttl", "1h", "--grace", "10s", "--tick", "50ms"];

  for (const size of [1, 5, 300, 5000]) {
    test(`with ${size} online, on a phone and a desk, in light and dark`, async () => {
      await scene.start({ args: LONG_LEASE });
      await scene.server.beat(crowd(size - 1));
      const looks = { desk: {}, "desk-dark": DARK, phone: PHONE, "phone-dark": { ...PHONE, ...DARK } };
      for (const [look, options] of Object.entries(looks)) {
        const { page } = await online("me, myself", { ...options, reducedMotion: "reduce" });
        await page.waitForFunction((count) => document.getElementById("count").textContent === count, size.toLocaleString("en-US"));
        assert.ok(await page.locator("#roster > .row").count() <= 300);
        await assertNothingSticksOut(page);
        if (size === 5000) assert.match(await page.locator("#more").innerText(), /^and 4,700 more/);
        await screenshot(page, `online-${size}-${look}`);
      }
      scene.assertNoProblems();
    });
  }

  test("a long list can be searched, and is not drawn anew while people come and go", async () => {
    await scene.start({ args: LONG_LEASE });
    await scene.server.beat(crowd(3000));
    const { page } = await online("zz me");
    await page.waitForFunction(() => document.getElementById("count").textContent === "3,001");
    assert.equal(await page.locator("#more").innerText(), "and 2,701 more, you among them");
    await page.evaluate(() => {
      window.rowsDrawn = 0;
      new MutationObserver((changes) => changes.forEach(({ addedNodes }) => (window.rowsDrawn += addedNodes.length)))
        .observe(document.getElementById("roster"), { childList: true });
    });
    const devtools = await page.context().newCDPSession(page);
    await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
    const cpuSeconds = async () => (await devtools.send("Performance.getMetrics")).metrics.find(({ name }) => name === "TaskDuration").value;
    const before = await cpuSeconds();
    for (let round = 0; round < 20; round += 1) await scene.server.beat([`Aa ${round}`, `Mm ${round}`, `Zz ${round}`]);
    await page.waitForFunction(() => document.getElementById("count").textContent === "3,061");
    // Of 60 newcomers 20 belong among the 300 rows, the last of which may be drawn a moment after it is counted. What of the CPU the
    // others on this machine take is not in the page's own time.
    await page.waitForFunction(() => window.rowsDrawn >= 20);
    const drawn = await page.evaluate(() => window.rowsDrawn);
    assert.ok(drawn < 100, `${drawn} rows were drawn`);
    const spent = (await cpuSeconds()) - before;
    assert.ok(spent / 20 < 0.5, `each change cost the page ${spent / 20} s of CPU`);
    await page.getByLabel("Find a name").fill("ZZ 7");
    await showsRoster(page, ["Zz 7"]);
    await page.getByLabel("Find a name").fill("nobody at all");
    await page.getByText("Nobody here is called").waitFor();
    scene.assertNoProblems();
  });
});
