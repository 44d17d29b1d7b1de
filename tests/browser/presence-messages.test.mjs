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
    ["ws://here", "ws://here/v1/connect?user=a%20b%26c"],
    ["http://here:1/", "ws://here:1/v1/connect?user=a%20b%26c"],
    ["https://here/some/where", "wss://here/some/where?user=a%20b%26c"],
    ["wss://here/x?key=1", "wss://here/x?user=a%20b%26c&key=1"],
    ["wss://here?key=1", "wss://here/v1/connect?user=a%20b%26c&key=1"],
    // The server takes the first one.
    ["ws://here/?user=b", "ws://here/v1/connect?user=a%20b%26c&user=b"],
  ];
  for (const [url, expected] of cases) {
    test(`of ${url}`, () => {
      start({}, url);
      assert.equal(socket().url, expected);
      assert.deepEqual(socket().protocols, ["presence.v1"]);
    });
  }

  test("defaults to the host of the page", (context) => {
    globalThis.location = new URL("https://page.example/deep/page.html?x=1#top");
    context.after(() => delete globalThis.location);
    connect(undefined, { user: "a b&c", WebSocket: server.WebSocket });
    assert.equal(socket().url, "wss://page.example/v1/connect?user=a%20b%26c");
    start({}, "/behind/a/proxy");
    assert.equal(socket().url, "wss://page.example/behind/a/proxy?user=a%20b%26c");
  });

  test("has no user if the server knows the user, and then the client has the one of the welcome", () => {
    const other = start({ user: undefined });
    assert.deepEqual([socket().url, other.user], ["ws://here/v1/connect", undefined]);
    server.welcome({ user: "alice" });
    assert.equal(other.user, "alice");
  });

  test("and the user must be valid", () => {
    assert.throws(() => start({}, "/no/page/here"), TypeError);
    for (const user of [null, "", " ", " a", "a\u00a0", "a\nb", "\u{d800}"]) assert.throws(() => start({ user }), TypeError, String(user));
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

  test("that several parts of a page share is left with the last of them", () => {
    receive(snapshot(4, ["a"]));
    const [again, seen] = [client.join("lobby"), client.observe("lobby")];
    assert.deepEqual([again, seen], [lobby, lobby]);
    again.leave();
    seen.leave();
    assert.deepEqual([sent("leave").length, users(), lobby.ready, lobby.send("still here")], [0, ["a"], true, true]);
    lobby.leave();
    assert.deepEqual([sent("leave").length, users(), lobby.send("gone")], [1, [], false]);
    lobby.leave();
    client.join("lobby").leave();
    assert.equal(sent("leave").length, 2);
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
    assert.equal(seen.send("hello"), false, "only members can send");
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

  test("has the normalized name with which the server answers", () => {
    const room = client.join("Jose\u0301");
    assert.equal(room, client.join("Jos\u00e9"));
    receive({ ...snapshot(4, ["a"]), room: "Jos\u00e9" });
    const watch = client.watch(["Jose\u0301", "Jos\u00e9"]);
    receive({ type: "status", users: [{ user: "Jos\u00e9", online: true }] });
    assert.deepEqual([room.name, users(room), [...watch.users.keys()]], ["Jos\u00e9", ["a"], ["Jos\u00e9"]]);
    assert.equal(start({ user: "Jose\u0301" }).user, "Jos\u00e9");
  });

  test("throws for names that the server would refuse", () => {
    for (const name of ["", "a\u0000", "\n"]) assert.throws(() => client.join(name), TypeError);
    assert.throws(() => client.observe("x".repeat(129)), RangeError);
    assert.throws(() => client.watch(["ok", ""]), TypeError);
  });
});

describe("the snapshot of a room", () => {
  const member = (user, fields = {}) => ({ user, state: null, ...fields });
  /** A diff in which a member changed. */
  const update = (seq, ...updated) => ({ ...diff(seq), updated });

  test("has the members with their states and infos, and is the same object until they change", () => {
    assert.deepEqual(lobby.snapshot(), { members: [], count: 0, ready: false });
    receive(snapshot(4, [], { members: [{ user: "a", state: { mood: "fine" }, info: { name: "Ann" } }, { user: "b" }] }));
    const first = lobby.snapshot();
    const ann = member("a", { state: { mood: "fine" }, info: { name: "Ann" } });
    assert.deepEqual(first, { members: [ann, member("b")], count: 2, ready: true });
    receive(snapshot(4, ["a"]), { type: "message", room: "lobby", user: "a", data: 1, ts: 1 });
    assert.equal(lobby.snapshot(), first);
    receive(diff(5, { joined: ["c"], left: ["b"] }));
    assert.deepEqual(lobby.snapshot(), { members: [ann, member("c")], count: 2, ready: true });
    assert.deepEqual(first.members, [ann, member("b")]);
  });

  test("keeps the object of each member that does not change, in a diff and in a new snapshot of the server", () => {
    receive(snapshot(4, ["a", "b"]));
    const [a, b] = lobby.snapshot().members;
    receive(update(5, member("b", { state: { busy: true } })));
    const [sameA, changedB] = lobby.snapshot().members;
    assert.equal(sameA, a);
    assert.deepEqual([b.state, changedB.state], [null, { busy: true }]);
    receive(snapshot(9, [], { epoch: "e2", members: [{ user: "a" }, { user: "b", state: { busy: true } }] }));
    assert.deepEqual(lobby.snapshot().members.map((each, at) => each === [a, changedB][at]), [true, true]);
  });

  test("is up to date in the handlers of all events", () => {
    const seen = [];
    for (const event of ["change", "count", "join", "leave"]) lobby.on(event, () => seen.push(lobby.snapshot().count));
    receive(snapshot(4, ["a"]), diff(5, { joined: ["b"], left: ["a"] }), diff(6, { left: ["b"] }));
    assert.deepEqual(seen, [1, 1, 1, 1, 1, 1, 0, 0, 0]);
  });

  test("has the count alone with `detail: count`, and is empty after a leave and a refusal", () => {
    const stadium = client.observe("stadium", { detail: "count" });
    receive({ type: "count", room: "stadium", seq: 1, count: 7 }, snapshot(4, ["a"]));
    assert.deepEqual(stadium.snapshot(), { members: [], count: 7, ready: true });
    stadium.leave();
    receive({ type: "error", code: "forbidden", message: "no", type_sent: "join", room: "lobby" });
    for (const room of [stadium, lobby]) assert.deepEqual(room.snapshot(), { members: [], count: 0, ready: false });
  });
});

describe("states and messages", () => {
  test("states are objects of at most 1 KiB and are copied", () => {
    for (const bad of [[], "text", 7, undefined, () => {}]) assert.throws(() => lobby.setState(bad), TypeError);
    assert.throws(() => lobby.setState({ text: "x".repeat(1_020) }), RangeError);
    assert.throws(() => client.join("other", { state: "text" }), TypeError);
    const nested = (levels) => JSON.parse(`${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`);
    for (const set of [(value) => lobby.setState(value), (value) => lobby.send(value)]) {
      set(nested(7));
      assert.throws(() => set(nested(8)), RangeError);
    }
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
    for (const bad of [() => {}, Symbol("bad")]) assert.throws(() => lobby.send(bad), TypeError);
    socket().bufferedAmount = 2e6;
    assert.equal(lobby.send("the buffer is full"), false);
    server.close();
    assert.equal(lobby.send("not sent"), false);
  });
});

describe("a message of the application", () => {
  test("to a room has no user, and one to this user is an event of the connection", () => {
    const [ofRoom, ofUser] = [[], []];
    lobby.on("message", (message) => ofRoom.push(message));
    client.on("message", (message) => ofUser.push(message));
    const toRoom = { type: "message", room: "lobby", data: { n: 1 }, ts: 5 };
    const toUser = { type: "message", data: { n: 2 }, ts: 6 };
    receive(toRoom, toUser, { ...toRoom, room: "not joined" });
    assert.deepEqual([ofRoom, ofUser], [[toRoom], [toUser]]);
    assert.equal(ofRoom[0].user, undefined);
  });

  test("to this user arrives without any room", () => {
    lobby.leave();
    const received = [];
    client.on("message", ({ data }) => received.push(data));
    receive({ type: "message", data: null, ts: 5 });
    assert.deepEqual(received, [null]);
  });
});

describe("a refused message", () => {
  const refusal = (type_sent, room = "lobby") => ({ type: "error", code: "forbidden", message: "no", type_sent, room });

  /** The messages of each connection from now on that are not heartbeats, for three minutes with a reconnect. */
  function sentLater() {
    const seen = socket().received.length;
    mock.timers.tick(90_000);
    receive({ type: "heartbeat_ack" });
    const before = socket().received.slice(seen);
    server.close();
    mock.timers.tick(500);
    server.welcome();
    for (let beat = 0; beat < 18; beat += 1) {
      mock.timers.tick(5_000);
      receive({ type: "heartbeat_ack" });
    }
    return [...before, ...socket().received].filter((message) => message !== "heartbeat" && message.type !== "heartbeat");
  }

  for (const type of ["join", "observe"]) {
    test(`${type}: is never repeated, is reported, and can be called again`, () => {
      const errors = [];
      const room = type === "join" ? lobby : (lobby.leave(), client.observe("lobby"));
      client.on("error", ({ type_sent }) => errors.push(type_sent));
      room.on("error", ({ room, code }) => errors.push(room, code));
      receive(refusal(type));
      assert.deepEqual(errors, [type, "lobby", "forbidden"]);
      room.setState({ mood: "fine" });
      assert.equal(room.send("hello"), false, "the room is not joined");
      assert.deepEqual(sentLater(), []);
      client[type]("lobby");
      assert.equal(sent(type).length, 1);
      receive(snapshot(4, ["a"]));
      assert.deepEqual(users(room), ["a"]);
    });
  }

  test("join, after a reconnect: the room is empty, as its events say", () => {
    receive(snapshot(4, ["a", "b"]));
    const left = [];
    lobby.on("leave", ({ user }, reset) => left.push(user, reset));
    server.close();
    mock.timers.tick(500);
    server.welcome();
    receive(refusal("join"));
    assert.deepEqual([left, users(), lobby.count, lobby.ready], [["a", true, "b", true], [], 0, false]);
    lobby.leave();
    assert.equal(sent("leave").length, 0);
  });

  test("state: is forgotten, and the room stays joined", () => {
    receive(snapshot(4, ["a b&c"]));
    lobby.setState({ mood: "refused" });
    receive(refusal("state"));
    const [join, ...others] = sentLater();
    assert.deepEqual([join.type, join.state, others], ["join", undefined, []]);
  });

  test("watch: the users without a status are not watched again", () => {
    receive(snapshot(4, ["a b&c"]));
    const watch = client.watch(["bob", "carol"]);
    receive({ type: "status", users: [{ user: "bob", online: true }] }, { ...refusal("watch"), room: undefined });
    const watched = sentLater().filter(({ type }) => type === "watch");
    assert.deepEqual([watched, watch.users.size], [[{ type: "watch", users: ["bob"] }], 1]);
  });

  test("is not repeated if an older server does not say what it refused", () => {
    receive({ type: "error", code: "bad_field", message: "no" });
    mock.timers.tick(90_000);
    assert.equal(sent("join").length, 1);
  });

  test("of another room changes nothing", () => {
    receive(refusal("join", "other"), { ...refusal("message") });
    mock.timers.tick(12_500);
    assert.equal(sent("join").length, 2, "a join without an answer is repeated");
    assert.equal(lobby.send("hello"), true);
  });
});

describe("texts that are cut inside an emoji", () => {
  const cut = "abc\ud83d";
  const whole = "abc\ufffd";

  test("are sent well-formed, in states, messages and keys", () => {
    client.join("other", { state: { [cut]: [cut, "\udc00\ud83d", "👩‍🚀", "\\ud83d \\\\ud83d \u0001"] } });
    lobby.setState({ name: cut });
    assert.equal(lobby.send({ text: cut }), true);
    const intact = ["\ufffd\ufffd", "👩‍🚀", "\\ud83d \\\\ud83d \u0001"];
    assert.deepEqual(sent("join").at(-1).state, { [whole]: [whole, ...intact] });
    assert.deepEqual(sent("state").at(-1).state, { name: whole });
    assert.deepEqual(sent("message").at(-1).data, { text: whole });
  });

  test("count with the bytes that are sent", () => {
    lobby.setState({ text: "\ud83d".repeat(337) });
    assert.throws(() => lobby.setState({ text: "\ud83d".repeat(338) }), RangeError);
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
