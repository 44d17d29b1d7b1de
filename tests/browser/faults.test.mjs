/** Tabs that crash, lose the network or are hidden for a long time, on every page that shows online users. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect as tcp, createServer } from "node:net";
import { afterEach, describe, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { pauseClock, waitForPhase } from "./browser.mjs";
import { Fixture, HOSTILE, shows } from "./fixture.mjs";
import { DEFAULT_TIMES, freePort, requirePackage, SHORT_LEASE } from "./server.mjs";

const { WebSocket } = requirePackage("ws");
const ARGS = { args: [...DEFAULT_TIMES, "--dev-login"] };

/** How a user comes online on each page, and where the page shows the names of online users. */
const PAGES = {
  "/": { path: (name) => `/?user=${name}`, names: "#roster > .row:not(.leaving) .name" },
  "/chat": { path: (name) => `/chat?user=${name}`, names: "#roster .name" },
  "/status": {
    path: () => "/status",
    names: "#roster .name",
    async enter(page, name) {
      await page.getByLabel("User id").fill(name);
      await page.getByRole("button", { name: "Connect", exact: true }).click();
    },
  },
  "/login": {
    path: () => "/login",
    names: '.person[data-online="true"] .name',
    async enter(page, name) {
      await page.getByRole("textbox", { name: "Your name" }).fill(name);
      await page.getByRole("button", { name: "Sign in" }).click();
    },
  },
};

/** A TCP proxy between a browser and the server that can be cut and restored. */
class Network {
  #sockets = new Set();

  static async to(server) {
    const network = new Network();
    network.server = createServer((near) => {
      const far = tcp(server.port, "127.0.0.1");
      for (const [one, other] of [[near, far], [far, near]]) {
        network.#sockets.add(one);
        one.pipe(other);
        one.on("error", () => other.destroy()).on("close", () => network.#sockets.delete(one));
      }
    });
    network.port = await freePort();
    await network.restore();
    network.url = `http://127.0.0.1:${network.port}`;
    return network;
  }

  async restore() {
    await once(this.server.listen(this.port, "127.0.0.1"), "listening");
  }

  async cut() {
    const closed = this.server.listening && once(this.server.close(), "close");
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

const hide = (tab, hidden) => tab.evaluate((value) => {
  Object.defineProperty(document, "hidden", { value, configurable: true });
  document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
}, hidden);

function testFaults(path, { path: pathOf, names, enter }) {
  describe(path, { concurrency: 1 }, () => {
    const fixture = new Fixture();
    let network = null;
    afterEach(async () => {
      await network?.cut();
      network = null;
    });
    const seq = async () => (await fixture.server.membersOf("lobby")).seq;

    /** A new visitor who is online on the page. */
    async function openAs(name, { server = fixture.server, stoppable = false } = {}) {
      const visitor = await fixture.newVisitor();
      if (stoppable) await visitor.context.clock.install();
      const tab = await visitor.open(server, "", { path: pathOf(name), online: false });
      await enter?.(tab, name);
      await waitForPhase(tab, "online");
      return { visitor, tab };
    }

    test("a tab that crashes leaves", async () => {
      await fixture.startServer(ARGS);
      const [alice, bob] = [await openAs("alice"), await openAs("bob")];
      await shows(alice.tab, names, ["alice", "bob"]);
      await shows(bob.tab, names, ["alice", "bob"]);
      const crashed = once(bob.tab, "crash");
      const devtools = await bob.visitor.context.newCDPSession(bob.tab);
      devtools.send("Page.crash").catch(() => {});
      await crashed;
      await shows(alice.tab, names, ["alice"]);
      fixture.assertNoProblems();
    });

    test("after a network failure the page reconnects and shows what changed meanwhile", async () => {
      await fixture.startServer(ARGS);
      network = await Network.to(fixture.server);
      const alice = await openAs("alice", { server: network });
      const [bob, carol] = [await openAs("bob"), await openAs("carol")];
      await shows(alice.tab, names, ["alice", "bob", "carol"]);
      await alice.visitor.context.setOffline(true);
      await network.cut();
      await waitForPhase(alice.tab, "waiting");
      await bob.visitor.close();
      await openAs("dave");
      await network.restore();
      await alice.visitor.context.setOffline(false);
      await waitForPhase(alice.tab, "online");
      for (const { tab } of [alice, carol]) await shows(tab, names, ["alice", "carol", "dave"]);
      fixture.assertNoProblems({ serverWasUnreachable: true });
    });

    test("a hidden tab without timers stays online for longer than a lease, without a visible change", async () => {
      await fixture.startServer({ args: [...SHORT_LEASE, "--dev-login"] });
      const [alice, bob] = [await openAs("alice"), await openAs("bob", { stoppable: true })];
      await shows(alice.tab, names, ["alice", "bob"]);
      const before = await seq();
      await pauseClock(bob.tab);
      // Headless browsers never hide a tab, so the event is simulated.
      await hide(bob.tab, true);
      await fixture.server.waitForLeaseToEnd();
      assert.equal(await seq(), before, "the server sent a diff");
      await shows(alice.tab, names, ["alice", "bob"]);
      await bob.tab.clock.resume();
      await hide(bob.tab, false);
      await openAs("carol");
      await shows(bob.tab, names, ["alice", "bob", "carol"]);
      fixture.assertNoProblems();
    });

    test("states and messages with HTML are shown as text or not at all", async (context) => {
      await fixture.startServer(ARGS);
      const sender = connect(fixture.server.url, { user: HOSTILE[0], WebSocket });
      context.after(() => sender.close());
      const [text, user, mood, name] = HOSTILE;
      const room = sender.join("lobby", { state: { text, user, mood, name, [text]: mood, [mood]: { [user]: text } } });
      await new Promise((done) => room.on("change", done));
      const { tab } = await openAs("alice");
      for (const value of HOSTILE) assert.ok(room.send({ text: value, user: value, type: value }));
      room.setState({ mood: user });
      // When the page shows bob, it has processed everything before his join.
      await openAs("bob");
      await tab.locator(names, { hasText: /^bob$/ }).waitFor();
      assert.equal(await tab.locator("main :is(img, script)").count(), 0);
      assert.equal(await tab.locator("body").getAttribute("data-owned"), null);
      fixture.assertNoProblems();
    });
  });
}

// The pages are tested side by side, because most tests wait for a grace period or a lease to end.
describe("faults of a tab", { concurrency: true }, () => {
  for (const [path, page] of Object.entries(PAGES)) testFaults(path, page);
});
