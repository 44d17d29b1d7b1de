/** presence.js with a real server: what presence.d.ts promises. Uses the npm package `ws`; Node 20 has no WebSocket. */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { LONG_GRACE, LONG_LEASE, requirePackage, Server, SHORT_LEASE, SHORT_TIMES } from "./server.mjs";

const { WebSocket } = requirePackage("ws");

let server;
let clients = [];
before(async () => (server = await Server.start({ args: LONG_GRACE })));
after(() => server.stop());
afterEach(() => {
  for (const client of clients) client.close();
  clients = [];
});

function online(user, options) {
  const client = connect(options?.url ?? server.url, { user, WebSocket, ...options });
  client.on("error", ({ message }) => (client.lastError = message));
  clients.push(client);
  return client;
}

/** Resolves with the next argument of an event for which `matches` is true. */
function next(source, event, matches = () => true) {
  return new Promise((done) => {
    const off = source.on(event, (...args) => {
      if (!matches(...args)) return;
      off();
      done(args[0]);
    });
  });
}

/** Waits until the members of the room are exactly these users. */
async function shows(room, ...expected) {
  const same = () => JSON.stringify([...room.members.keys()].sort()) === JSON.stringify(expected.sort());
  if (!same()) await next(room, "change", same);
}

const membersOf = async (room) => (await (await fetch(`${server.url}/v1/rooms/${room}/members`)).json()).members;

describe("rooms", () => {
  test("show members with their states and report each change once", async () => {
    const alice = online("alice").join("one", { state: { mood: "curious" } });
    await shows(alice, "alice");
    const events = [];
    for (const event of ["join", "update", "leave", "count"]) alice.on(event, (news) => events.push([event, news]));
    const bob = online("bob").join("one");
    await shows(alice, "alice", "bob");
    await shows(bob, "alice", "bob");
    assert.deepEqual(bob.members.get("alice"), { mood: "curious" });
    assert.equal(bob.members.get("bob"), null);
    bob.setState({ mood: "busy" });
    await next(alice, "update");
    assert.deepEqual(alice.members.get("bob"), { mood: "busy" });
    bob.setState(null);
    await next(alice, "update");
    bob.leave();
    await shows(alice, "alice");
    const update = (state) => ["update", { user: "bob", state }];
    assert.deepEqual(events, [
      ["count", 2], ["join", { user: "bob", state: null }],
      update({ mood: "busy" }), update(null),
      ["count", 1], ["leave", { user: "bob", reason: "left" }],
    ]);
  });

  test("share one connection, and one room above the limit is an error", async () => {
    const client = online("many");
    const rooms = Array.from({ length: 100 }, (_, index) => client.join(`many-${index}`));
    await Promise.all(rooms.map((room) => shows(room, "many")));
    client.join("many-100");
    const { code } = await next(client, "error");
    assert.equal(code, "forbidden");
    assert.equal(client.connection.phase, "online");
  });

  test("can be observed without joining, by count only, or joined without observing", async () => {
    const observer = online("observer");
    const seen = observer.observe("stage");
    const counted = online("counter").observe("stage", { detail: "count" });
    const blind = online("blind").join("stage", { observe: false });
    await shows(seen, "blind");
    const actor = online("actor");
    actor.join("stage");
    await shows(seen, "actor", "blind");
    if (counted.count !== 2) await next(counted, "count", (count) => count === 2);
    assert.deepEqual([counted.members.size, blind.members.size, blind.ready], [0, 0, false]);
    seen.leave();
    actor.close();
    await next(counted, "count", (count) => count === 1);
    assert.deepEqual([seen.members.size, seen.ready], [0, false]);
    const again = observer.observe("stage");
    await shows(again, "blind");
  });

  test("with more than a thousand members are shown only when all pages have arrived", async () => {
    const names = Array.from({ length: 1_100 }, (_, index) => `user ${String(index).padStart(4, "0")}`);
    const large = await Server.start({ args: LONG_LEASE });
    try {
      await large.sendHeartbeats(names);
      const sizes = [];
      const lobby = online("last", { url: large.url }).join("lobby");
      lobby.on("change", () => sizes.push(lobby.members.size));
      if (lobby.count !== 1_101) await next(lobby, "count", (count) => count === 1_101);
      await large.sendHeartbeats(["one more"]);
      await shows(lobby, "last", "one more", ...names);
      assert.deepEqual(sizes, [1_101, 1_102]);
    } finally {
      clients.pop().close();
      await large.stop();
    }
  });

  test("accept all kinds of names", async () => {
    const names = ["Zoë & <b>Ångström</b>", "明美?user=x", "محمد", "👩‍🚀#", "x".repeat(128), "a+b %41", "__proto__", "constructor"];
    const rooms = names.map((name) => online(name).join("na/mes ü?#", { state: { __proto__: null, name } }));
    await Promise.all(rooms.map((room) => shows(room, ...names)));
    for (const name of names) assert.deepEqual(rooms[0].members.get(name), { name });
  });
});

describe("messages of the application", () => {
  test("reach the room without a user, and all connections of a user", async () => {
    const key = "an api key for tests";
    const other = await Server.start({ args: [...LONG_GRACE, "--api-key", key] });
    try {
      const tabs = [1, 2].map(() => online("alice", { url: other.url }));
      const rooms = tabs.map((tab) => tab.join("news"));
      await Promise.all(rooms.map((room) => shows(room, "alice")));
      const received = [...rooms, ...tabs].map((source) => next(source, "message"));
      for (const path of ["rooms/news", "users/alice"]) {
        const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
        const body = JSON.stringify({ data: { path } });
        const answer = await fetch(`${other.url}/v1/${path}/messages`, { method: "POST", headers, body });
        assert.deepEqual([answer.status, await answer.json()], [202, {}]);
      }
      const messages = (await Promise.all(received)).map(({ room, user, data }) => ({ room, user, data }));
      const [toRoom, toUser] = [["news", "rooms/news"], [undefined, "users/alice"]].map(([room, path]) => (
        { room, user: undefined, data: { path } }));
      assert.deepEqual(messages, [toRoom, toRoom, toUser, toUser]);
    } finally {
      for (const client of clients) client.close();
      await other.stop();
    }
  });
});

describe("a connection", () => {
  test("that breaks is resumed with the missed changes, invisible to others", async () => {
    const alice = online("alice");
    let socket;
    class Breakable extends WebSocket {
      constructor(...args) {
        super(...args);
        socket = this;
      }
    }
    const bob = online("bob", { WebSocket: Breakable });
    const [room, bobs] = [alice.join("broken"), bob.join("broken", { state: { from: "bob" } })];
    await shows(room, "alice", "bob");
    await shows(bobs, "alice", "bob");
    const seen = [];
    room.on("change", (change) => seen.push(change));
    const resets = [];
    bobs.on("change", ({ reset }) => resets.push(reset, bobs.count));
    const down = next(bob, "down");
    socket.terminate();
    assert.equal((await down).cause.kind, "cut");
    room.setState({ changed: "meanwhile" });
    await Promise.all([next(bob, "open"), next(bobs, "update")]);
    assert.deepEqual(bobs.members.get("alice"), { changed: "meanwhile" });
    assert.deepEqual(resets, [false, 2], "the client must resume with the missed diff, without a snapshot");
    assert.deepEqual(seen.flatMap(({ joined, left }) => [...joined, ...left]), []);
  });

  test("reconnects to a restarted server and shows its members", async () => {
    let ownServer = await Server.start({ args: SHORT_TIMES });
    const alice = online("alice", { url: ownServer.url });
    const bob = online("bob", { url: ownServer.url });
    const room = alice.join("lobby");
    bob.join("lobby");
    await shows(room, "alice", "bob");
    const empty = [];
    room.on("change", () => room.count === 0 && empty.push("empty"));
    const down = next(alice, "down");
    const { port } = ownServer;
    await ownServer.stop();
    assert.equal((await down).cause.kind, "restarting");
    assert.equal(room.count, 2, "the last members must still be shown");
    bob.close();
    ownServer = await Server.start({ args: SHORT_TIMES, port });
    try {
      await shows(room, "alice");
      assert.deepEqual(empty, []);
      // Before the server stops, so that the client does not reconnect.
      alice.close();
    } finally {
      await ownServer.stop("SIGKILL");
    }
  });

  test("keeps its lease by heartbeats alone with --liveness strict", async () => {
    const strict = await Server.start({ args: [...SHORT_LEASE, "--liveness", "strict"] });
    try {
      const room = online("alice", { url: strict.url }).join("lobby");
      await shows(room, "alice");
      const seen = [];
      room.on("change", (change) => seen.push(change));
      await strict.waitForLeaseToEnd();
      assert.deepEqual(seen, []);
    } finally {
      clients.pop().close();
      await strict.stop();
    }
  });

  test("stays online without timers, because pings are answered without them", async (context) => {
    const leasing = await Server.start({ args: SHORT_LEASE });
    context.after(() => leasing.stop("SIGKILL"));
    const alice = online("alice", { url: leasing.url }).join("hidden");
    await shows(alice, "alice");
    // Browsers run the timers of hidden tabs rarely; here they never run.
    context.mock.method(globalThis, "setTimeout", () => 0);
    const sleeper = online("sleeper", { url: leasing.url });
    sleeper.join("hidden");
    context.mock.restoreAll();
    await shows(alice, "alice", "sleeper");
    const seen = [];
    alice.on("change", (change) => seen.push(change));
    await leasing.waitForLeaseToEnd();
    assert.deepEqual(seen, []);
  });

  test("that is closed leaves at once and can be opened again", async () => {
    const alice = online("alice").join("doors");
    const bob = online("bob");
    bob.join("doors");
    await shows(alice, "alice", "bob");
    const left = next(alice, "leave");
    bob.close();
    assert.deepEqual(await left, { user: "bob", reason: "closed" });
    bob.connect();
    await shows(alice, "alice", "bob");
  });

  test("to a port without a server is reported as unreachable and tried again", async () => {
    const started = Date.now();
    const lost = online("alice", { url: "http://127.0.0.1:1" });
    const { cause, retryAt } = await next(lost, "down");
    assert.equal(cause.kind, "unreachable");
    assert.ok(retryAt >= started);
  });
});

describe("messages and watched users", () => {
  test("a message reaches all observers and the sender", async () => {
    const [alice, bob] = [online("alice"), online("bob")];
    const rooms = [alice.join("talk"), bob.observe("talk")];
    await Promise.all(rooms.map((room) => shows(room, "alice")));
    const received = Promise.all(rooms.map((room) => next(room, "message")));
    rooms[0].send({ text: "hello" });
    for (const { user, data, ts } of await received) {
      assert.deepEqual([user, data], ["alice", { text: "hello" }]);
      assert.ok(Math.abs(Date.now() - ts) < 60_000);
    }
  });

  test("the status of watched users is reported, whichever room they are in", async () => {
    const alice = online("alice");
    await next(alice, "open");
    // Not a user of another test: the server may not know yet that such a user has left.
    const watch = alice.watch(["ben", "nobody"]);
    await next(alice, "status");
    assert.deepEqual([watch.users.get("ben").online, watch.users.get("nobody").online], [false, false]);
    const ben = online("ben");
    ben.join("anywhere");
    await next(watch, "change", () => watch.users.get("ben").online);
    assert.ok(watch.users.get("ben").since > 0);
    ben.close();
    await next(watch, "change", () => !watch.users.get("ben").online);
    watch.close();
  });
});

test("the server and the client have the same members and states", async () => {
  const room = online("alice").join("same", { state: { deep: { list: [1, "two", null, { three: 3.5 }] } } });
  await shows(room, "alice");
  assert.deepEqual(await membersOf("same"), [...room.members].map(([user, state]) => ({ user, state })));
});
