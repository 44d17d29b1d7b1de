/**
 * presence.js word by word: what it sends and shows when the server says this or that, or nothing. The server is a
 * script here, because a real one does not misbehave on request and time has to be moved by hand.
 */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { diff, members, ScriptedServer, snapshot } from "./scripted.mjs";

let server;
let client;
let lobby;

const last = () => server.last;
const users = (room = lobby) => [...room.members.keys()];
const sent = (type) => server.sent(type);
const say = (...messages) => server.say(...messages);
const start = (options, url = "ws://here") => connect(url, { user: "a b&c", WebSocket: server.WebSocket, ...options });

/** Each test starts online, with its join under way. */
beforeEach(() => {
  server = new ScriptedServer();
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
      assert.equal(last().url, expected);
      assert.equal(last().protocol, "presence.v1");
    });
  }

  test("of a page is its own host", (context) => {
    globalThis.location = new URL("https://page.example/deep/page.html?x=1#top");
    context.after(() => delete globalThis.location);
    connect(undefined, { user: "a b&c", WebSocket: server.WebSocket });
    assert.equal(last().url, "wss://page.example/v1/connect?user=a+b%26c");
    start({}, "/behind/a/proxy");
    assert.equal(last().url, "wss://page.example/behind/a/proxy?user=a+b%26c");
  });

  test("holds the token of the moment", () => {
    const other = start({ token: "one&two" });
    assert.match(last().url, /&token=one%26two$/);
    other.token = "fresh";
    server.lose();
    mock.timers.tick(500);
    assert.match(last().url, /&token=fresh$/);
  });

  test("that cannot be one, and a user that cannot be one, are thrown back", () => {
    assert.throws(() => start({}, "/no/page/here"), TypeError);
    for (const user of [undefined, "", "a\nb", "\u{d800}"]) assert.throws(() => start({ user }), TypeError, String(user));
    assert.throws(() => start({ user: "ä".repeat(65) }), RangeError);
  });
});

describe("a room", () => {
  function check(messages, expected, resyncs = 0) {
    say(...messages);
    assert.deepEqual([users().sort(), lobby.seq, sent("resync").length], [...expected, resyncs]);
  }

  test("is joined after the welcome", () => {
    assert.deepEqual(last().sent, [{ type: "join", room: "lobby", observe: true, detail: "members" }]);
  });

  test("follows a snapshot and its diffs", () => {
    check([snapshot(4, ["a", "b"]), diff(5, { joined: ["c"], left: ["a"] })], [["b", "c"], 5]);
  });

  test("takes a diff or a snapshot twice, or late, without a change", () => {
    const twice = diff(5, { joined: ["c"], left: ["a"] });
    let changes = 0;
    lobby.on("change", () => (changes += 1));
    check([snapshot(4, ["a"]), twice, twice, snapshot(4, ["a"]), snapshot(5, ["c"])], [["c"], 5]);
    assert.equal(changes, 2);
  });

  test("asks for a snapshot over a gap", () => {
    mock.timers.tick(1_000);
    check([snapshot(4, ["a"]), diff(6, { joined: ["c"] }), diff(7)], [["a"], 4], 1);
    check([snapshot(7, ["a", "c"]), diff(8, { left: ["a"] })], [["c"], 8], 1);
  });

  test("does not take a first diff for a list", () => {
    mock.timers.tick(1_000);
    check([diff(1, { joined: ["c"] })], [[], 0], 1);
  });

  test("shows a paged snapshot when it is whole, and what came between the pages on top of it", () => {
    const page = (number, names) => snapshot(4, names, { page: number, pages: 3 });
    check([snapshot(2, ["old"]), page(1, ["a", "b"]), diff(5, { joined: ["e"], left: ["a", "c"] })], [["old"], 2]);
    check([page(2, ["c", "d"]), page(2, ["c", "d"]), page(3, ["f"]), diff(6, { left: ["d"] })], [["b", "e", "f"], 6]);
  });

  test("starts again when a page is missing or of another list", () => {
    mock.timers.tick(1_000);
    check([snapshot(4, ["a"], { pages: 3 })], [[], 0]);
    mock.timers.tick(1_000);
    check([snapshot(4, ["c"], { page: 3, pages: 3 })], [[], 0], 1);
    mock.timers.tick(1_000);
    check([snapshot(4, ["a"], { pages: 2 })], [[], 0], 1);
    mock.timers.tick(1_000);
    check([snapshot(5, ["c"], { page: 2, pages: 2 })], [[], 0], 2);
  });

  test("holds only so many diffs for a snapshot that is never whole", () => {
    say(snapshot(4, ["a"], { pages: 2 }));
    mock.timers.tick(1_000);
    say(...Array.from({ length: 65 }, (_, index) => diff(5 + index)));
    assert.equal(sent("resync").length, 1);
  });

  test("tells a new list as the difference to what was shown", () => {
    say(snapshot(4, ["a", "b"]));
    const told = [];
    for (const event of ["change", "join", "update", "leave", "count"]) lobby.on(event, (...args) => told.push([event, ...args]));
    const changed = { members: [{ user: "b", state: { busy: true } }, { user: "c" }, { user: "d" }], epoch: "e2" };
    say(snapshot(0, [], changed));
    const [c, d] = [{ user: "c", state: null }, { user: "d", state: null }];
    const b = { user: "b", state: { busy: true } };
    assert.deepEqual(told, [
      ["count", 3],
      ["change", { joined: [c, d], updated: [b], left: [{ user: "a" }], reset: true }],
      ["join", c, true], ["join", d, true], ["update", b, true], ["leave", { user: "a" }, true],
    ]);
  });

  test("is the same Map all the time, and the same room for the same name", () => {
    const before = lobby.members;
    say(snapshot(4, ["a"]), snapshot(5, ["b"]));
    assert.equal(lobby.members, before);
    assert.equal(client.join("lobby"), lobby);
  });

  test("asks again when no list comes, and for what is new at each heartbeat once something was lost", () => {
    mock.timers.tick(12_500);
    assert.equal(sent("join").length, 2);
    say(snapshot(7, ["a"]), diff(9));
    assert.equal(sent("resync").length, 1);
    say(snapshot(9, ["a"]));
    mock.timers.tick(5_000);
    assert.deepEqual(sent("join").at(-1).resume, { epoch: "e1", seq: 9 });
    assert.equal(sent("join").length, 3);
  });

  test("is empty and silent after it was left, and a new one when it is joined again", () => {
    say(snapshot(4, ["a"]));
    lobby.on("change", () => assert.fail("it was left"));
    lobby.leave();
    lobby.leave();
    say(diff(5, { joined: ["b"] }));
    assert.deepEqual([users(), lobby.count, lobby.ready, sent("leave").length, sent("unobserve").length], [[], 0, false, 1, 0]);
    const again = client.join("lobby");
    assert.notEqual(again, lobby);
    say(snapshot(5, ["b"]));
    lobby.leave();
    assert.deepEqual(users(again), ["b"]);
  });

  test("is looked at without being seen, and left alone again", () => {
    const seen = client.observe("stage", { detail: "count" });
    assert.equal(sent("observe").length, 1);
    const counts = [];
    seen.on("count", (count) => counts.push(count));
    const count = (seq, count) => ({ type: "count", room: "stage", seq, count });
    say(count(4, 7), count(5, 8), count(4, 7), { type: "diff", room: "stage", seq: 5, joined: members("x") }, count(9, 8));
    assert.deepEqual([counts, seen.count, seen.members.size, seen.ready], [[7, 8], 8, 0, true]);
    assert.throws(() => seen.setState([]), TypeError);
    seen.leave();
    assert.deepEqual(sent("unobserve"), [{ type: "unobserve", room: "stage" }]);
  });

  test("is empty when it is not looked at any more", () => {
    say(snapshot(5, ["bob"]));
    assert.deepEqual([users(), lobby.ready], [["bob"], true]);
    client.join("lobby", { observe: false });
    assert.deepEqual([users(), lobby.ready, sent("join").at(-1).observe], [[], false, false]);
  });

  test("counts from anew after a reconnect, when the server has a new life", () => {
    const seen = client.observe("stage", { detail: "count" });
    say({ type: "count", room: "stage", seq: 40, count: 7 });
    server.lose();
    mock.timers.tick(500);
    server.welcome();
    say({ type: "count", room: "stage", seq: 1, count: 2 });
    assert.equal(seen.count, 2);
  });

  test("throws back names that the server would refuse", () => {
    for (const name of ["", "a\u0000", "\n"]) assert.throws(() => client.join(name), TypeError);
    assert.throws(() => client.observe("x".repeat(129)), RangeError);
    assert.throws(() => client.watch(["ok", ""]), TypeError);
  });
});

describe("states and messages", () => {
  test("states are objects of at most 1 KiB, copied when they are given", () => {
    for (const bad of [[], "text", 7, undefined, () => {}]) assert.throws(() => lobby.setState(bad), TypeError);
    assert.throws(() => lobby.setState({ text: "x".repeat(1_020) }), RangeError);
    assert.throws(() => client.join("other", { state: "text" }), TypeError);
    const state = { mood: "fine" };
    lobby.setState(state);
    state.mood = "changed later";
    server.lose();
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(sent("join")[0].state, { mood: "fine" });
  });

  test("a state that was cleared is cleared again after a reconnect", () => {
    lobby.setState({ mood: "fine" });
    server.lose();
    lobby.setState(null);
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(last().sent.map(({ type, state }) => [type, state]), [["join", null], ["state", null]]);
  });

  test("messages go out and come in, and are not queued", () => {
    const heard = [];
    lobby.on("message", ({ user, data }) => heard.push([user, data]));
    assert.equal(lobby.send({ text: "hello" }), true);
    assert.deepEqual(sent("message"), [{ type: "message", room: "lobby", data: { text: "hello" } }]);
    say({ type: "message", room: "lobby", user: "b", data: [1], ts: 5 });
    assert.deepEqual(heard, [["b", [1]]]);
    assert.throws(() => lobby.send("x".repeat(16_000)), RangeError);
    last().bufferedAmount = 2e6;
    assert.equal(lobby.send("too much is waiting"), false);
    server.lose();
    assert.equal(lobby.send("nobody hears this"), false);
  });
});

describe("watched users", () => {
  const bob = { user: "bob", online: true, since: 5 };

  test("are told of, kept, and asked for again after a reconnect", () => {
    const watch = client.watch(["bob", "carol", "bob"]);
    assert.deepEqual(sent("watch"), [{ type: "watch", users: ["bob", "carol"] }]);
    const changes = [];
    watch.on("change", (changed) => changes.push(...changed));
    say({ type: "status", users: [bob, { user: "carol", online: false }] });
    say({ type: "status", users: [bob, { user: "stranger", online: true }] });
    assert.deepEqual([...watch.users], [["bob", { online: true, since: 5 }], ["carol", { online: false }]]);
    assert.deepEqual(changes.map(({ user }) => user), ["bob", "carol"]);
    server.lose();
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(sent("watch"), [{ type: "watch", users: ["bob", "carol"] }]);
    assert.equal(watch.users.get("bob").online, true);
  });

  test("are followed until the last watch is closed", () => {
    const [one, two] = [client.watch(["bob", "carol"]), client.watch(["bob"])];
    one.close();
    one.close();
    assert.deepEqual(sent("unwatch"), [{ type: "unwatch", users: ["carol"] }]);
    say({ type: "status", users: [bob] });
    assert.deepEqual([one.users.size, two.users.size], [0, 1]);
    two.close();
    assert.deepEqual(sent("unwatch").at(-1).users, ["bob"]);
  });

  test("a thousand of the longest names are asked for in frames that the server takes", () => {
    const names = Array.from({ length: 1_000 }, (_, index) => `${"\"".repeat(124)}${index}`.slice(-128));
    client.watch(names);
    const frames = sent("watch");
    assert.deepEqual(frames.flatMap(({ users }) => users), names);
    for (const frame of frames) assert.ok(JSON.stringify(frame).length < 16_384);
  });

  test("are an event of the connection, too", () => {
    const told = [];
    client.on("status", (users) => told.push(...users));
    say({ type: "status", users: [bob] });
    assert.deepEqual(told, [bob]);
  });
});

describe("handlers", () => {
  test("are taken away again, also while they are called", () => {
    const calls = [];
    const off = lobby.on("count", () => (calls.push("first"), off(), offOther()));
    const offOther = lobby.on("count", () => calls.push("other"));
    say(snapshot(4, ["a"]), snapshot(5, ["a", "b"]));
    assert.deepEqual(calls, ["first"]);
  });

  test("that throw are told of as uncaught, and stop nothing", () => {
    lobby.on("change", () => { throw new Error("of the page"); });
    let changes = 0;
    lobby.on("change", () => (changes += 1));
    say(snapshot(4, ["a"]), diff(5, { joined: ["b"] }));
    assert.deepEqual([users(), changes], [["a", "b"], 2]);
    assert.throws(() => mock.timers.tick(1), /of the page/);
  });
});

test("what it does not know does not make it stumble", () => {
  const unknown = ["", "[", "null", "7", "[]", "{}", '{"type":"new"}', '{"type":"new","room":"lobby"}', '{"type":"diff","room":"else","seq":1}'];
  for (const data of unknown) last().onmessage({ data });
  assert.equal(client.connection.phase, "online");
});

test("errors and the health of the node are told", () => {
  const told = [];
  client.on("error", ({ code }) => told.push(code));
  client.on("degraded", ({ degraded, since }) => told.push([degraded, since, client.degraded]));
  say({ type: "error", code: "forbidden", message: "no" }, { type: "health", degraded: true, since: 7 });
  say({ type: "health", degraded: true, since: 7 });
  server.lose();
  mock.timers.tick(500);
  server.welcome();
  assert.deepEqual(told, ["forbidden", [true, 7, true], [false, undefined, false]]);
});
