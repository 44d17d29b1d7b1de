/** What the bindings for frameworks share: when rooms are joined, observed and left, message by message. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { COUNT, createStore, JOIN, OBSERVE } from "../../src/web/client/store.js";
import { diff, FakeServer, snapshot } from "./fake-server.mjs";

let server;
let store;
let changes;

const users = (name = "lobby") => store.room(name).members.map(({ user }) => user);
const changed = () => (changes += 1);
/** The requests for rooms since the last call: `join lobby members`. */
const requests = () => server.socket.received.splice(0).filter(({ room }) => room)
  .map(({ type, room, detail }) => [type, room, detail].filter(Boolean).join(" "));
/** Later than all that a released room or a closed connection waits for. */
const settled = () => new Promise((done) => setImmediate(done));

beforeEach(() => {
  server = new FakeServer();
  changes = 0;
  store = createStore("ws://here", { user: "alice", WebSocket: server.WebSocket });
});
afterEach(() => server.end());

/** Connects. Requests so far are not counted. */
function start() {
  const close = store.open();
  server.welcome();
  requests();
  return close;
}

describe("the connection", () => {
  test("is opened once, and stays if it is closed and opened again at once", async () => {
    const close = store.open();
    close();
    const [again, other] = [store.open(), store.open()];
    await settled();
    again();
    again();
    await settled();
    assert.deepEqual([server.sockets.length, server.socket.closedWith], [1, undefined]);
    server.welcome();
    other();
    await settled();
    assert.equal(server.socket.closedWith, 1000);
    assert.equal(store.connection().phase, "closed");
    store.open();
    assert.equal(server.sockets.length, 2);
  });

  test("is shown with its phase, the user and the health, as an object that is replaced", () => {
    const before = store.connection();
    store.subscribe(changed);
    start();
    const online = store.connection();
    server.send({ type: "health", degraded: true, since: 7 });
    assert.deepEqual([before, online, store.connection()].map(({ phase, user, degraded }) => [phase, user, degraded]), [
      ["connecting", undefined, false], ["online", "alice", false], ["online", "alice", true],
    ]);
    assert.equal(changes, 3);
  });

  test("requests the rooms that were used before, and those that were used before it was closed", async () => {
    store.use("lobby", JOIN, changed, { mood: "fine" });
    const close = store.open();
    server.welcome();
    const [{ state }] = server.received("join");
    assert.deepEqual([state, requests()], [{ mood: "fine" }, ["join lobby members"]]);
    close();
    await settled();
    start();
    assert.deepEqual(server.sockets.length, 2);
    server.send(snapshot(1, ["bob"]));
    assert.deepEqual(users(), ["bob"]);
  });

  test("that cannot be opened is reported, and can be opened later", async () => {
    const end = store.use(" bad", JOIN, changed);
    assert.throws(() => store.open(), /not a name/);
    end();
    await settled();
    assert.equal(store.presence(), undefined);
    const close = store.open();
    assert.equal(store.connection().phase, "connecting");
    close();
    await settled();
    assert.deepEqual([store.connection().phase, store.presence()], ["closed", undefined]);
  });

  test("uses a new token at once if the last one was refused, but not a new function", () => {
    store.setToken("first");
    store.open();
    server.close(1008);
    store.setToken(() => "later");
    assert.deepEqual([server.sockets.length, store.connection().phase], [1, "refused"]);
    store.setToken("second");
    assert.deepEqual(server.sockets.map(({ protocols }) => protocols[1]), ["bearer.first", "bearer.second"]);
  });
});

describe("a room", () => {
  beforeEach(() => start());

  test("is requested as its uses require: the count, then the members, then joined, and observed again", async () => {
    store.use("lobby", COUNT, changed);
    server.send({ type: "count", room: "lobby", seq: 1, count: 3 });
    assert.deepEqual([requests(), store.room("lobby").count], [["observe lobby count"], 3]);
    store.use("lobby", OBSERVE, changed);
    // Until the members arrive.
    assert.equal(store.room("lobby").count, 3);
    server.send(snapshot(1, ["bob"]));
    assert.deepEqual([requests(), users()], [["observe lobby members"], ["bob"]]);
    const end = store.use("lobby", JOIN, changed);
    assert.deepEqual(requests(), ["join lobby members"]);
    end();
    await settled();
    assert.deepEqual([requests(), users()], [["leave lobby", "observe lobby members"], ["bob"]]);
    server.send(snapshot(1, ["bob", "carol"], { epoch: "e2" }));
    assert.deepEqual(users(), ["bob", "carol"]);
  });

  test("keeps its members for those who want only the count, until it is left", async () => {
    store.use("lobby", COUNT, changed);
    const end = store.use("lobby", OBSERVE, changed);
    requests();
    end();
    await settled();
    store.use("lobby", COUNT, changed);
    assert.deepEqual(requests(), []);
  });

  test("is left after its last use, and then empty", async () => {
    const ends = [store.use("lobby", JOIN, changed), store.use("lobby", JOIN, changed)];
    server.send(snapshot(1, ["alice"]));
    ends[0]();
    ends[0]();
    await settled();
    assert.deepEqual(requests(), ["join lobby members"]);
    ends[1]();
    await settled();
    assert.deepEqual([requests(), users()], [["leave lobby"], []]);
    server.send(snapshot(2, ["alice"]));
    assert.deepEqual([users(), changes], [[], 2]);
  });

  test("that another part of the page takes over is not left", async () => {
    const end = store.use("lobby", JOIN, changed);
    end();
    store.use("lobby", JOIN, changed);
    await settled();
    assert.deepEqual(requests(), ["join lobby members"]);
  });

  test("is shown as an object that is replaced, once per message of the server", () => {
    store.use("lobby", OBSERVE, changed);
    server.send(snapshot(1, ["bob"]));
    const first = store.room("lobby");
    server.send(diff(2, { joined: ["carol"] }));
    assert.deepEqual([first.count, store.room("lobby").count, changes], [1, 2, 2]);
    assert.equal(store.room("lobby").members[0], first.members[0]);
    assert.equal(store.room("lobby"), store.room("lobby"));
  });

  test("has its last 100 messages, and the same members meanwhile", () => {
    store.use("lobby", OBSERVE, changed);
    server.send(snapshot(1, ["bob"]));
    const before = store.room("lobby");
    for (let data = 0; data < 120; data += 1) server.send({ type: "message", room: "lobby", user: "bob", data, ts: 1 });
    const messages = store.messages("lobby").map(({ data }) => data);
    assert.deepEqual([messages.length, messages[0], messages.at(-1)], [100, 20, 119]);
    assert.equal(store.room("lobby"), before);
    assert.deepEqual(store.messages("other"), []);
  });

  test("that was refused shows the error, and is requested again by the next use", () => {
    store.use("lobby", JOIN, changed);
    server.send({ type: "error", code: "forbidden", message: "no", type_sent: "join", room: "lobby" });
    assert.deepEqual([store.room("lobby").error.code, store.send("lobby", 1)], ["forbidden", false]);
    requests();
    store.use("lobby", OBSERVE, changed);
    assert.deepEqual(requests(), ["join lobby members"]);
    server.send(snapshot(1, ["alice"]));
    assert.deepEqual([store.room("lobby").error, store.send("lobby", 1)], [undefined, true]);
  });

  test("with a name or a state that is not valid throws, and is not used", async () => {
    assert.throws(() => store.use(" bad", JOIN, changed), /not a name/);
    assert.throws(() => store.use("lobby", JOIN, changed, ["no object"]), TypeError);
    await settled();
    assert.deepEqual(requests(), []);
    store.use("lobby", JOIN, changed);
    assert.equal(server.received("join")[0].state, undefined);
  });

  test("gets a state only if it changed, or if the server refused the last one", () => {
    store.use("lobby", JOIN, changed, { mood: "fine" });
    const states = () => server.received("state").map(({ state }) => state);
    store.setState("lobby", { mood: "fine" });
    assert.deepEqual(states(), []);
    store.setState("lobby", { mood: "busy" });
    store.use("lobby", JOIN, changed, { mood: "sad" });
    server.send({ type: "error", code: "rate_limited", message: "no", type_sent: "state", room: "lobby" });
    store.setState("lobby", { mood: "sad" });
    assert.deepEqual(states(), [{ mood: "busy" }, { mood: "sad" }, { mood: "sad" }]);
    store.setState("unused", { mood: "lost" });
    assert.deepEqual(store.room("unused").members, []);
  });
});
