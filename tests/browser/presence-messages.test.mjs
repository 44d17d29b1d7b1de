/**
 * presence.js, message by message: what it sends and shows for each message of a fake server. A real server would not
 * send wrong messages, and its clock cannot be controlled.
 */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { diff, members, FakeServer, snapshot } from "./fake-server.mjs";

let server;
let client;
let lobby;

const socket = () => server.socket;
const users = (room = lobby) => [...room.members.keys()];
const sent = (type) => server.received(type);
const receive = (...messages) => server.send(...messages);
const start = (options, url = "ws://here") => connect(url, { user: "a b&c", WebSocket: server.WebSocket, ...options });

/** Each test starts online with a join sent. */
beforeEach(() => {
  server = new FakeServer();
  client = start();
  lobby = client.join("lobby");
  server.welcome();
});
afterEach(() => server.end());

describe("the address", () => {
  const cases = [
    ["ws://here", "ws://here/v1/connect?user=a+b%26c"],
    ["http://here:1/", "ws://here:1/v1/connect?user=a+b%26c"],
    ["https://here/some/where", "wss://here/some/where?user=a+b%26c"],
    ["wss://here/x?key=1", "wss://here/x?key=1&user=a+b%26c"],
  ];
  for (const [url, expected] of cases) {
    test(`of ${url}`, () => {
      start({}, url);
      assert.equal(socket().url, expected);
      assert.equal(socket().protocol, "presence.v1");
    });
  }

  test("defaults to the host of the page", (context) => {
    globalThis.location = new URL("https://page.example/deep/page.html?x=1#top");
    context.after(() => delete globalThis.location);
    connect(undefined, { user: "a b&c", WebSocket: server.WebSocket });
    assert.equal(socket().url, "wss://page.example/v1/connect?user=a+b%26c");
    start({}, "/behind/a/proxy");
    assert.equal(socket().url, "wss://page.example/behind/a/proxy?user=a+b%26c");
  });

  test("contains the present token", () => {
    const other = start({ token: "one&two" });
    assert.match(socket().url, /&token=one%26two$/);
    other.token = "fresh";
    server.close();
    mock.timers.tick(500);
    assert.match(socket().url, /&token=fresh$/);
  });

  test("and the user must be valid", () => {
    assert.throws(() => start({}, "/no/page/here"), TypeError);
    for (const user of [undefined, "", "a\nb", "\u{d800}"]) assert.throws(() => start({ user }), TypeError, String(user));
    assert.throws(() => start({ user: "ä".repeat(65) }), RangeError);
  });
});

describe("a room", () => {
  function check(messages, expected, resyncs = 0) {
    receive(...messages);
    assert.deepEqual([users().sort(), lobby.seq, sent("resync").length], [...expected, resyncs]);
  }

  test("is joined after the welcome", () => {
    assert.deepEqual(socket().received, [{ type: "join", room: "lobby", observe: true, detail: "members" }]);
  });

  test("applies a snapshot and its diffs", () => {
    check([snapshot(4, ["a", "b"]), diff(5, { joined: ["c"], left: ["a"] })], [["b", "c"], 5]);
  });

  test("ignores repeated and late diffs and snapshots", () => {
    const twice = diff(5, { joined: ["c"], left: ["a"] });
    let changes = 0;
    lobby.on("change", () => (changes += 1));
    check([snapshot(4, ["a"]), twice, twice, snapshot(4, ["a"]), snapshot(5, ["c"])], [["c"], 5]);
    assert.equal(changes, 2);
  });

  test("requests a snapshot after a gap in the sequence", () => {
    mock.timers.tick(1_000);
    check([snapshot(4, ["a"]), diff(6, { joined: ["c"] }), diff(7)], [["a"], 4], 1);
    check([snapshot(7, ["a", "c"]), diff(8, { left: ["a"] })], [["c"], 8], 1);
  });

  test("requests a snapshot if a diff arrives first", () => {
    mock.timers.tick(1_000);
    check([diff(1, { joined: ["c"] })], [[], 0], 1);
  });

  test("shows a snapshot when all pages have arrived, with the diffs between them applied", () => {
    const page = (number, names) => snapshot(4, names, { page: number, pages: 3 });
    check([snapshot(2, ["old"]), page(1, ["a", "b"]), diff(5, { joined: ["e"], left: ["a", "c"] })], [["old"], 2]);
    check([page(2, ["c", "d"]), page(2, ["c", "d"]), page(3, ["f"]), diff(6, { left: ["d"] })], [["b", "e", "f"], 6]);
  });

  test("starts again if a page is missing or belongs to another snapshot", () => {
    mock.timers.tick(1_000);
    check([snapshot(4, ["a"], { pages: 3 })], [[], 0]);
    mock.timers.tick(1_000);
    check([snapshot(4, ["c"], { page: 3, pages: 3 })], [[], 0], 1);
    mock.timers.tick(1_000);
    check([snapshot(4, ["a"], { pages: 2 })], [[], 0], 1);
    mock.timers.tick(1_000);
    check([snapshot(5, ["c"], { page: 2, pages: 2 })], [[], 0], 2);
  });

  test("limits the diffs that wait for a snapshot", () => {
    receive(snapshot(4, ["a"], { pages: 2 }));
    mock.timers.tick(1_000);
    receive(...Array.from({ length: 65 }, (_, index) => diff(5 + index)));
    assert.equal(sent("resync").length, 1);
  });

  test("reports a new snapshot as the difference to the members shown", () => {
    receive(snapshot(4, ["a", "b"]));
    const events = [];
    for (const event of ["change", "join", "update", "leave", "count"]) {
      lobby.on(event, (...args) => events.push([event, ...args]));
    }
    const changed = { members: [{ user: "b", state: { busy: true } }, { user: "c" }, { user: "d" }], epoch: "e2" };
    receive(snapshot(0, [], changed));
    const [c, d] = [{ user: "c", state: null }, { user: "d", state: null }];
    const b = { user: "b", state: { busy: true } };
    assert.deepEqual(events, [
      ["count", 3],
      ["change", { joined: [c, d], updated: [b], left: [{ user: "a" }], reset: true }],
      ["join", c, true], ["join", d, true], ["update", b, true], ["leave", { user: "a" }, true],
    ]);
  });

  test("keeps its Map and its object", () => {
    const before = lobby.members;
    receive(snapshot(4, ["a"]), snapshot(5, ["b"]));
    assert.equal(lobby.members, before);
    assert.equal(client.join("lobby"), lobby);
  });

  test("repeats its request without an answer, and after a loss at each heartbeat", () => {
    mock.timers.tick(12_500);
    assert.equal(sent("join").length, 2);
    receive(snapshot(7, ["a"]), diff(9));
    assert.equal(sent("resync").length, 1);
    receive(snapshot(9, ["a"]));
    mock.timers.tick(5_000);
    assert.deepEqual(sent("join").at(-1).resume, { epoch: "e1", seq: 9 });
    assert.equal(sent("join").length, 3);
  });

  test("is empty and silent after leave(), and joining again returns a new object", () => {
    receive(snapshot(4, ["a"]));
    lobby.on("change", () => assert.fail("event after leave()"));
    lobby.leave();
    lobby.leave();
    receive(diff(5, { joined: ["b"] }));
    assert.deepEqual([users(), lobby.count, lobby.ready, sent("leave").length, sent("unobserve").length], [[], 0, false, 1, 0]);
    const again = client.join("lobby");
    assert.notEqual(again, lobby);
    receive(snapshot(5, ["b"]));
    lobby.leave();
    assert.deepEqual(users(again), ["b"]);
  });

  test("can be observed without joining, and no longer be observed", () => {
    const seen = client.observe("stage", { detail: "count" });
    assert.equal(sent("observe").length, 1);
    const counts = [];
    seen.on("count", (count) => counts.push(count));
    const count = (seq, count) => ({ type: "count", room: "stage", seq, count });
    receive(count(4, 7), count(5, 8), count(4, 7), { type: "diff", room: "stage", seq: 5, joined: members("x") }, count(9, 8));
    assert.deepEqual([counts, seen.count, seen.members.size, seen.ready], [[7, 8], 8, 0, true]);
    assert.throws(() => seen.setState([]), TypeError);
    seen.leave();
    assert.deepEqual(sent("unobserve"), [{ type: "unobserve", room: "stage" }]);
  });

  test("is empty when it is joined again without observing", () => {
    receive(snapshot(5, ["bob"]));
    assert.deepEqual([users(), lobby.ready], [["bob"], true]);
    client.join("lobby", { observe: false });
    assert.deepEqual([users(), lobby.ready, sent("join").at(-1).observe], [[], false, false]);
  });

  test("accepts a lower sequence number of counts after the server restarted", () => {
    const seen = client.observe("stage", { detail: "count" });
    receive({ type: "count", room: "stage", seq: 40, count: 7 });
    server.close();
    mock.timers.tick(500);
    server.welcome();
    receive({ type: "count", room: "stage", seq: 1, count: 2 });
    assert.equal(seen.count, 2);
  });

  test("throws for names that the server would refuse", () => {
    for (const name of ["", "a\u0000", "\n"]) assert.throws(() => client.join(name), TypeError);
    assert.throws(() => client.observe("x".repeat(129)), RangeError);
    assert.throws(() => client.watch(["ok", ""]), TypeError);
  });
});

describe("states and messages", () => {
  test("states are objects of at most 1 KiB and are copied", () => {
    for (const bad of [[], "text", 7, undefined, () => {}]) assert.throws(() => lobby.setState(bad), TypeError);
    assert.throws(() => lobby.setState({ text: "x".repeat(1_020) }), RangeError);
    assert.throws(() => client.join("other", { state: "text" }), TypeError);
    const state = { mood: "fine" };
    lobby.setState(state);
    state.mood = "changed later";
    server.close();
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(sent("join")[0].state, { mood: "fine" });
  });

  test("a cleared state is cleared again after a reconnect", () => {
    lobby.setState({ mood: "fine" });
    server.close();
    lobby.setState(null);
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(socket().received.map(({ type, state }) => [type, state]), [["join", null], ["state", null]]);
  });

  test("messages are sent and received, and not queued", () => {
    const received = [];
    lobby.on("message", ({ user, data }) => received.push([user, data]));
    assert.equal(lobby.send({ text: "hello" }), true);
    assert.deepEqual(sent("message"), [{ type: "message", room: "lobby", data: { text: "hello" } }]);
    receive({ type: "message", room: "lobby", user: "b", data: [1], ts: 5 });
    assert.deepEqual(received, [["b", [1]]]);
    assert.throws(() => lobby.send("x".repeat(16_000)), RangeError);
    socket().bufferedAmount = 2e6;
    assert.equal(lobby.send("the buffer is full"), false);
    server.close();
    assert.equal(lobby.send("not sent"), false);
  });
});

describe("watched users", () => {
  const bob = { user: "bob", online: true, since: 5 };

  test("are reported, kept, and watched again after a reconnect", () => {
    const watch = client.watch(["bob", "carol", "bob"]);
    assert.deepEqual(sent("watch"), [{ type: "watch", users: ["bob", "carol"] }]);
    const changes = [];
    watch.on("change", (changed) => changes.push(...changed));
    receive({ type: "status", users: [bob, { user: "carol", online: false }] });
    receive({ type: "status", users: [bob, { user: "stranger", online: true }] });
    assert.deepEqual([...watch.users], [["bob", { online: true, since: 5 }], ["carol", { online: false }]]);
    assert.deepEqual(changes.map(({ user }) => user), ["bob", "carol"]);
    server.close();
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(sent("watch"), [{ type: "watch", users: ["bob", "carol"] }]);
    assert.equal(watch.users.get("bob").online, true);
  });

  test("stay watched until the last watch of them is closed", () => {
    const [one, two] = [client.watch(["bob", "carol"]), client.watch(["bob"])];
    one.close();
    one.close();
    assert.deepEqual(sent("unwatch"), [{ type: "unwatch", users: ["carol"] }]);
    receive({ type: "status", users: [bob] });
    assert.deepEqual([one.users.size, two.users.size], [0, 1]);
    two.close();
    assert.deepEqual(sent("unwatch").at(-1).users, ["bob"]);
  });

  test("are sent in frames of a size that the server accepts", () => {
    const names = Array.from({ length: 1_000 }, (_, index) => `${"\"".repeat(124)}${index}`.slice(-128));
    client.watch(names);
    const frames = sent("watch");
    assert.deepEqual(frames.flatMap(({ users }) => users), names);
    for (const frame of frames) assert.ok(JSON.stringify(frame).length < 16_384);
  });

  test("are also an event of the connection", () => {
    const reported = [];
    client.on("status", (users) => reported.push(...users));
    receive({ type: "status", users: [bob] });
    assert.deepEqual(reported, [bob]);
  });
});

describe("handlers", () => {
  test("can be removed, also while handlers are called", () => {
    const calls = [];
    const off = lobby.on("count", () => (calls.push("first"), off(), offOther()));
    const offOther = lobby.on("count", () => calls.push("other"));
    receive(snapshot(4, ["a"]), snapshot(5, ["a", "b"]));
    assert.deepEqual(calls, ["first"]);
  });

  test("that throw are reported as uncaught errors and stop nothing", () => {
    lobby.on("change", () => { throw new Error("of the page"); });
    let changes = 0;
    lobby.on("change", () => (changes += 1));
    receive(snapshot(4, ["a"]), diff(5, { joined: ["b"] }));
    assert.deepEqual([users(), changes], [["a", "b"], 2]);
    assert.throws(() => mock.timers.tick(1), /of the page/);
  });
});

test("unknown messages are ignored", () => {
  const unknown = ["", "[", "null", "7", "[]", "{}", '{"type":"new"}', '{"type":"new","room":"lobby"}', '{"type":"diff","room":"else","seq":1}'];
  for (const data of unknown) socket().onmessage({ data });
  assert.equal(client.connection.phase, "online");
});

test("errors and the health of the node are events", () => {
  const reported = [];
  client.on("error", ({ code }) => reported.push(code));
  client.on("degraded", ({ degraded, since }) => reported.push([degraded, since, client.degraded]));
  receive({ type: "error", code: "forbidden", message: "no" }, { type: "health", degraded: true, since: 7 });
  receive({ type: "health", degraded: true, since: 7 });
  server.close();
  mock.timers.tick(500);
  server.welcome();
  assert.deepEqual(reported, ["forbidden", [true, 7, true], [false, undefined, false]]);
});
