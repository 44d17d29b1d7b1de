/** presence-client.js without a browser and without a server: the mirror, and what it does when the server misbehaves. */

import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, mock, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

/** Browsers go by the content type, Node by the ending: under this name it is a module here too. */
const directory = mkdtempSync(join(tmpdir(), "presence-client-"));
const module = join(directory, "presence-client.mjs");
copyFileSync(fileURLToPath(new URL("../../src/web/presence-client.js", import.meta.url)), module);
const { PresenceClient, reconnectDelay, Room } = await import(pathToFileURL(module));
rmSync(directory, { recursive: true });

const members = (...users) => users.map((user) => ({ user }));
const snapshot = (seq, users, more = {}) =>
  ({ type: "snapshot", room: "lobby", epoch: "e1", seq, count: users.length, members: members(...users), page: 1, pages: 1, ...more });
const diff = (seq, { joined = [], left = [] }) =>
  ({ type: "diff", room: "lobby", seq, joined: members(...joined), left: members(...left) });

describe("a room", () => {
  function check(messages, expected) {
    const room = new Room("lobby");
    const accepted = messages.map((message) => room.apply(message));
    assert.deepEqual({ users: [...room.members.keys()].sort(), seq: room.seq, accepted: accepted.every(Boolean) }, expected);
  }

  test("follows a snapshot and its diffs", () => {
    check([snapshot(4, ["a", "b"]), diff(5, { joined: ["c"], left: ["a"] })], { users: ["b", "c"], seq: 5, accepted: true });
  });

  test("takes a diff twice without a change", () => {
    const twice = diff(5, { joined: ["c"], left: ["a"] });
    check([snapshot(4, ["a"]), twice, twice], { users: ["c"], seq: 5, accepted: true });
  });

  test("does not follow over a gap, and not without a snapshot", () => {
    check([snapshot(4, ["a"]), diff(6, { joined: ["c"] })], { users: ["a"], seq: 4, accepted: false });
    check([diff(1, { joined: ["c"] })], { users: [], seq: 0, accepted: false });
  });

  test("puts the diffs that came between the pages on top of the last page", () => {
    const page = (number, users) => snapshot(4, users, { page: number, pages: 2 });
    check([page(1, ["a", "b"]), diff(5, { joined: ["e"], left: ["a", "c"] }), page(2, ["c", "d"]), diff(6, { left: ["d"] })],
      { users: ["b", "e"], seq: 6, accepted: true });
  });

  test("refuses a page that does not belong to the one before", () => {
    check([snapshot(4, ["a"], { pages: 3 }), snapshot(4, ["c"], { page: 3, pages: 3 })], { users: [], seq: 0, accepted: false });
    check([snapshot(4, ["a"], { pages: 2 }), snapshot(5, ["c"], { page: 2, pages: 2 })], { users: [], seq: 0, accepted: false });
  });

  test("reports a new snapshot as the difference to what was shown", () => {
    const room = new Room("lobby");
    room.apply(snapshot(4, ["a", "b"]));
    let change;
    room.addEventListener("change", ({ detail }) => (change = detail));
    room.apply(snapshot(0, ["b", "c"], { epoch: "e2" }));
    assert.deepEqual(change, { joined: members("c"), updated: members("b"), left: members("a"), reset: true });
  });
});

test("the delays before a reconnect are jittered, grow and end", () => {
  const longest = (kind, attempt, ttl) => reconnectDelay(kind, attempt, ttl, () => 1);
  assert.deepEqual([0, 1, 2, 9, 99].map((attempt) => longest("cut", attempt)), [1_000, 2_000, 4_000, 30_000, 30_000]);
  assert.equal(reconnectDelay("cut", 9, 10_000, () => 0), 0);
  assert.deepEqual([longest("restarting", 0, 10_000), longest("restarting", 0, 2_000)], [5_000, 1_000]);
  assert.deepEqual([reconnectDelay("busy", 0, 10_000, () => 0), longest("busy", 0)], [10_000, 30_000]);
});

describe("a connection", () => {
  let sockets;
  let client;
  let lobby;

  class FakeSocket {
    sent = [];

    constructor(url, protocol) {
      Object.assign(this, { url, protocol });
      sockets.push(this);
    }

    send(text) {
      this.sent.push(text === "heartbeat" ? text : JSON.parse(text));
    }

    close(code) {
      this.closedWith = code;
    }

    welcome() {
      this.onopen();
      this.onmessage({ data: JSON.stringify({ type: "welcome", heartbeat_ms: 5_000, ttl_ms: 10_000 }) });
    }

    say(message) {
      this.onmessage({ data: JSON.stringify(message) });
    }
  }

  const last = () => sockets.at(-1);

  /** Each test starts online, with its join under way. */
  beforeEach(() => {
    mock.timers.reset();
    mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
    mock.restoreAll();
    mock.method(Math, "random", () => 0.5);
    sockets = [];
    client = new PresenceClient({ user: "a b&c", url: "ws://here/v1/connect", WebSocket: FakeSocket });
    lobby = client.join("lobby");
    client.connect();
    last().welcome();
  });

  test("asks with the name encoded and joins after the welcome", () => {
    assert.equal(last().url, "ws://here/v1/connect?user=a%20b%26c");
    assert.equal(last().protocol, "presence.v1");
    assert.deepEqual(last().sent, [{ type: "join", room: "lobby" }]);
  });

  test("beats at half the interval first, then at each, and asks for an ack when all is silent", () => {
    mock.timers.tick(2_500);
    assert.deepEqual(last().sent.slice(1), ["heartbeat"]);
    for (let beat = 0; beat < 3; beat += 1) mock.timers.tick(5_000);
    assert.deepEqual(last().sent.slice(1), ["heartbeat", "heartbeat", "heartbeat", { type: "heartbeat", ack: true }]);
    last().say({ type: "heartbeat_ack" });
    mock.timers.tick(4_000);
    assert.equal(client.status.phase, "online");
  });

  test("is given up when the ack does not come, without a leave", () => {
    mock.timers.tick(2_500);
    for (let beat = 0; beat < 3; beat += 1) mock.timers.tick(5_000);
    mock.timers.tick(4_000);
    assert.equal(sockets[0].closedWith, 4000);
    assert.deepEqual([client.status.phase, client.status.cause.kind], ["waiting", "silent"]);
    mock.timers.tick(500);
    assert.equal(sockets.length, 2);
  });

  test("is given up when the welcome does not come", () => {
    last().onclose({ code: 1006 });
    mock.timers.tick(500);
    mock.timers.tick(10_000);
    assert.deepEqual([client.status.phase, client.status.cause.kind], ["waiting", "timeout"]);
  });

  test("goes on from where it was", () => {
    last().say(snapshot(7, ["a"]));
    last().onclose({ code: 1006 });
    mock.timers.tick(500);
    last().welcome();
    assert.deepEqual(last().sent, [{ type: "join", room: "lobby", resume: { epoch: "e1", seq: 7 } }]);
    last().say(diff(8, { joined: ["b"] }));
    assert.deepEqual([...lobby.members.keys()], ["a", "b"]);
  });

  test("asks once for a snapshot over a gap, and again when none comes", () => {
    last().say(snapshot(7, ["a"]));
    for (const seq of [9, 10, 11]) last().say(diff(seq, { joined: [`u${seq}`] }));
    const resyncs = () => last().sent.filter(({ type }) => type === "resync").length;
    assert.equal(resyncs(), 1);
    mock.timers.tick(5_000);
    last().say(diff(12, {}));
    assert.equal(resyncs(), 2);
    last().say(snapshot(12, ["a", "u9"]));
    assert.deepEqual([...lobby.members.keys()], ["a", "u9"]);
  });

  test("stays away when it is refused, until it is asked again", () => {
    last().onclose({ code: 1008, reason: "not you" });
    assert.deepEqual([client.status.phase, client.status.cause.reason], ["refused", "not you"]);
    mock.timers.tick(600_000);
    assert.equal(sockets.length, 1);
    client.connect();
    assert.equal(sockets.length, 2);
  });

  test("starts the back-off again only after a stable connection", () => {
    const lose = () => {
      last().onclose({ code: 1006 });
      const wait = client.status.retryAt - Date.now();
      mock.timers.tick(wait);
      return wait;
    };
    const waits = [lose(), lose(), lose()];
    last().welcome();
    waits.push(lose());
    last().welcome();
    mock.timers.tick(10_000);
    waits.push(lose());
    assert.deepEqual(waits, [500, 1_000, 2_000, 4_000, 500]);
  });

  test("closes with 1000 when it is meant, and stays closed", () => {
    client.close();
    assert.equal(sockets[0].closedWith, 1000);
    mock.timers.tick(600_000);
    assert.deepEqual([client.status.phase, sockets.length], ["closed", 1]);
  });

  test("does not stumble over what it does not know", () => {
    for (const data of ["", "[", "null", "7", "[]", '{"type":"new"}', '{"type":"diff","room":"elsewhere","seq":1}']) {
      last().onmessage({ data });
    }
    assert.equal(client.status.phase, "online");
  });
});
