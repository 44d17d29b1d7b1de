/** What may happen to a tab, on every page that shows who is here: it crashes, loses the network, is hidden for long. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect as tcp, createServer } from "node:net";
import { afterEach, describe, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { phase } from "./harness.mjs";
import { HOSTILE, Scene, shows } from "./scene.mjs";
import { freePort, installed, LEASE, STEADY } from "./server.mjs";

const { WebSocket } = installed("ws");
const ARGS = { args: [...STEADY, "--dev-login"] };

/** How somebody comes online on each page, and who the page shows to be. */
const PAGES = {
  "/": { path: (name) => `/?user=${name}`, here: "#roster > .row:not(.leaving) .name" },
  "/chat": { path: (name) => `/chat?user=${name}`, here: "#roster .name" },
  "/status": {
    path: () => "/status",
    here: "#roster .name",
    async enter(page, name) {
      await page.getByLabel("User id").fill(name);
      await page.getByRole("button", { name: "Connect", exact: true }).click();
    },
  },
  "/login": {
    path: () => "/login",
    here: '.person[data-online="true"] .name',
    async enter(page, name) {
      await page.getByRole("textbox", { name: "Your name" }).fill(name);
      await page.getByRole("button", { name: "Sign in" }).click();
    },
  },
};

/** The network between a browser and the server, which can be cut and mended. */
class Line {
  #sockets = new Set();

  static async to(server) {
    const line = new Line();
    line.server = createServer((near) => {
      const far = tcp(server.port, "127.0.0.1");
      for (const [one, other] of [[near, far], [far, near]]) {
        line.#sockets.add(one);
        one.pipe(other);
        one.on("error", () => other.destroy()).on("close", () => line.#sockets.delete(one));
      }
    });
    line.port = await freePort();
    await line.mend();
    line.url = `http://127.0.0.1:${line.port}`;
    return line;
  }

  async mend() {
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

function faults(path, { path: pathOf, here, enter }) {
  describe(path, { concurrency: 1 }, () => {
    const scene = new Scene();
    let line = null;
    afterEach(async () => {
      await line?.cut();
      line = null;
    });
    const seq = async () => (await scene.server.membersOf("lobby")).seq;

    /** Somebody with a browser of their own who is online on the page. */
    async function comes(name, { server = scene.server, stoppable = false } = {}) {
      const visitor = await scene.visitor();
      if (stoppable) await visitor.context.clock.install();
      const tab = await visitor.open(server, "", { path: pathOf(name), online: false });
      await enter?.(tab, name);
      await phase(tab, "online");
      return { visitor, tab };
    }

    test("a tab that crashes is gone for the others", async () => {
      await scene.start(ARGS);
      const [alice, bob] = [await comes("alice"), await comes("bob")];
      await shows(alice.tab, here, ["alice", "bob"]);
      await shows(bob.tab, here, ["alice", "bob"]);
      const crashed = once(bob.tab, "crash");
      const devtools = await bob.visitor.context.newCDPSession(bob.tab);
      devtools.send("Page.crash").catch(() => {});
      await crashed;
      await shows(alice.tab, here, ["alice"]);
      scene.assertNoProblems();
    });

    test("a network that is lost and found: back by itself, with what happened meanwhile", async () => {
      await scene.start(ARGS);
      line = await Line.to(scene.server);
      const alice = await comes("alice", { server: line });
      const [bob, carol] = [await comes("bob"), await comes("carol")];
      await shows(alice.tab, here, ["alice", "bob", "carol"]);
      await alice.visitor.context.setOffline(true);
      await line.cut();
      await phase(alice.tab, "waiting");
      await bob.visitor.leave();
      await comes("dave");
      await line.mend();
      await alice.visitor.context.setOffline(false);
      await phase(alice.tab, "online");
      for (const { tab } of [alice, carol]) await shows(tab, here, ["alice", "carol", "dave"]);
      scene.assertNoProblems({ serverWasAway: true });
    });

    test("a hidden tab in which no timer runs stays online for longer than a lease, and shows nobody anything", async () => {
      await scene.start({ args: [...LEASE, "--dev-login"] });
      const [alice, bob] = [await comes("alice"), await comes("bob", { stoppable: true })];
      await shows(alice.tab, here, ["alice", "bob"]);
      const before = await seq();
      // A clock goes forwards only: to a time that is still to come when the tab hears of it.
      await bob.tab.clock.pauseAt(Date.now() + 10_000);
      // Headless, no tab is ever hidden: the browser's part is played by hand.
      await hide(bob.tab, true);
      await scene.server.leaseIsOver();
      assert.equal(await seq(), before, "nobody was told anything");
      await shows(alice.tab, here, ["alice", "bob"]);
      await bob.tab.clock.resume();
      await hide(bob.tab, false);
      await comes("carol");
      await shows(bob.tab, here, ["alice", "bob", "carol"]);
      scene.assertNoProblems();
    });

    test("states and messages of strangers are never more than text", async (context) => {
      await scene.start(ARGS);
      const stranger = connect(scene.server.url, { user: HOSTILE[0], WebSocket });
      context.after(() => stranger.close());
      const [text, user, mood, name] = HOSTILE;
      const room = stranger.join("lobby", { state: { text, user, mood, name, [text]: mood, [mood]: { [user]: text } } });
      await new Promise((done) => room.on("change", done));
      const { tab } = await comes("alice");
      for (const said of HOSTILE) assert.ok(room.send({ text: said, user: said, type: said }));
      room.setState({ mood: user });
      // Who comes after all that is seen after it.
      await comes("bob");
      await tab.locator(here, { hasText: /^bob$/ }).waitFor();
      assert.equal(await tab.locator("main :is(img, script)").count(), 0);
      assert.equal(await tab.locator("body").getAttribute("data-owned"), null);
      scene.assertNoProblems();
    });
  });
}

// The pages side by side, each with its own browser: most of their time is waiting for a grace or a lease to be over.
describe("what may happen to a tab", { concurrency: true }, () => {
  for (const [path, page] of Object.entries(PAGES)) faults(path, page);
});
