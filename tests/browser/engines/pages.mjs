/** The pages of the server. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { assertNoHorizontalScrolling, eventually, shows } from "../fixture.mjs";
import { DEFAULT_TIMES, LONG_GRACE, LONG_LEASE, SHORT_TIMES, until } from "../server.mjs";
import { reconnectSoon } from "./suite.mjs";

const ROSTER = "#roster > .row:not(.leaving) .name";
const USERS = ["Ada Lovelace", "grace.hopper"];
const phaseOf = () => document.body.dataset.phase ?? null;

/** Page → its path, and what brings it to its main content. */
const PAGES = {
  online: ["/?user=me", (tab) => shows(tab, ROSTER, [...USERS, "me"])],
  chat: ["/chat?user=me", async (tab) => {
    await shows(tab, "#roster .name", [...USERS, "me"]);
    await tab.click("#text");
    await tab.type("Hello to all");
    await tab.press("Enter");
    await shows(tab, "#log .message-text", ["Hello to all"]);
    await eventually(tab, () => document.querySelector("#text").value, "");
  }],
  status: ["/status", async (tab) => {
    await shows(tab, "#roster .name", USERS);
    await tab.click("#user");
    await tab.type(", 7");
    await tab.press("Enter");
    await shows(tab, "#connections .name", ["123", "7"]);
    await shows(tab, "#connections .connection-state", ["connected", "connected"]);
    await eventually(tab, () => document.querySelectorAll(".log-line").length >= 4, true);
  }],
  login: ["/login", async (tab) => {
    await tab.click("#user");
    await tab.type("me");
    await tab.press("Enter");
    await shows(tab, ".person .name", ["me"]);
    await eventually(tab, () => document.querySelector(".person").dataset.online, "true");
  }],
  dashboard: ["/dashboard", async (tab) => {
    await eventually(tab, () => document.querySelectorAll("#charts .chart").length > 2, true);
    await eventually(tab, () => document.querySelectorAll("#problems tr").length > 2, true);
    await eventually(tab, phaseOf, "online");
  }],
  debug: ["/debug", async (tab) => {
    await eventually(tab, () => document.querySelectorAll("#fields input").length > 0, true);
    await tab.click("#toggle");
    await eventually(tab, phaseOf, "online");
    await tab.click("#send-form button[type=submit]");
    // The page itself sends heartbeats.
    const sent = () => [...document.querySelectorAll(".frame-out .frame-text")].map((frame) => frame.textContent);
    await until("a frame is sent", async () => (await tab.evaluate(sent)).some((text) => text !== "heartbeat"));
    const received = () => [...document.querySelectorAll("#frames .frame-in")].map((frame) => frame.textContent);
    await until("a snapshot arrives", async () => /"snapshot"/.test(await tab.evaluate(received)));
  }],
  "not-found": ["/no/such/page", (tab) => shows(tab, "h1", ["There is nothing here"])],
};

function createCertificate(folder) {
  const [certificate, key] = ["certificate", "key"].map((name) => join(folder, name));
  const options = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
    "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate];
  execFileSync("openssl", options, { stdio: "ignore" });
  return ["--tls-cert", certificate, "--tls-key", key];
}

export function pageScenarios(suite) {
  for (const [name, [path, show]] of Object.entries(PAGES)) {
    test(`the page ${path} works without an error in the console`, async () => {
      await suite.startServer([...LONG_LEASE, "--dev-login"]);
      await suite.server.sendHeartbeats(USERS);
      const tab = await suite.openPage(path);
      await show(tab);
      await assertNoHorizontalScrolling(tab);
      await tab.screenshot(`${suite.engine.name}-${name}`);
      // Browsers report the status of the page itself.
      suite.assertNoProblems({ networkErrors: name === "not-found" });
    });
  }

  test("the chat is left when its user goes to another page, and joined again with the Back button", async () => {
    await suite.startServer(DEFAULT_TIMES);
    const events = await suite.observe("lobby");
    const [alice, bob] = [await suite.openPage("/chat?user=alice"), await suite.openPage("/chat?user=bob")];
    for (const tab of [alice, bob]) await shows(tab, "#roster .name", ["alice", "bob"]);
    await bob.evaluate(reconnectSoon);
    await bob.goto(`${suite.server.url}/no/such/page`);
    await shows(alice, "#roster .name", ["alice"]);
    await bob.back();
    for (const tab of [alice, bob]) await shows(tab, "#roster .name", ["alice", "bob"]);
    const ofBob = (await suite.settled(events, "lobby")).filter(([, user]) => user === "bob");
    assert.deepEqual(ofBob, [["join", "bob"], ["leave", "bob", "timeout"], ["join", "bob"]]);
    suite.assertNoProblems({ networkErrors: true });
  });

  test("pages say that the server is gone, and continue when it is back", async () => {
    await suite.startServer(SHORT_TIMES);
    const tabs = [await suite.openPage("/?user=me"), await suite.openPage("/chat?user=me")];
    for (const tab of tabs) await eventually(tab, phaseOf, "online");
    await suite.server.stop("SIGKILL");
    for (const tab of tabs) {
      await shows(tab, "#notice-title", ["The server cannot be reached"]);
      await eventually(tab, () => document.querySelector("#notice").hidden, false);
    }
    await tabs[0].screenshot(`${suite.engine.name}-problem`);
    await suite.startAgain(SHORT_TIMES);
    for (const tab of tabs) {
      await eventually(tab, phaseOf, "online");
      await shows(tab, "#roster > :not(.leaving) .name", ["me"]);
      await eventually(tab, () => document.querySelector("#notice").hidden, true);
    }
    suite.assertNoProblems({ networkErrors: true });
  });

  test("a page over TLS connects with wss", async (context) => {
    const folder = mkdtempSync(join(tmpdir(), "rollcall-tls-"));
    context.after(() => rmSync(folder, { recursive: true }));
    await suite.startServer([...LONG_GRACE, ...createCertificate(folder)]);
    assert.match(suite.server.url, /^https:/);
    const tab = await suite.openPage("/?user=me");
    await shows(tab, ROSTER, ["me"]);
    suite.assertNoProblems();
  });
}
