/**
 * presence.js against the real server, over the npm package `ws` (Node 20 has no WebSocket of its own): every promise of
 * presence.d.ts that a server has a part in.
 */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { HASTY, installed, LEASE, LONG_GRACE, Server } from "./server.mjs";

const { WebSocket } = installed("ws");

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

/** Resolves with what the event is told of, when `enough` of it. */
function next(source, event, enough = () => true) {
  return new Promise((done) => {
    const off = source.on(event, (...args) => {
      if (!enough(...args)) return;
      off();
      done(args[0]);
    });
  });
}

/** Waits until the room's members are these users. */
async function shows(room, ...expected) {
  const same = () => JSON.stringify([...room.members.keys()].sort()) === JSON.stringify(expected.sort());
  if (!same()) await next(room, "change", same);
}

const membersOf = async (room) => (await (await fetch(`${server.url}/v1/rooms/${room}/members`)).json()).members;

describe("rooms", () => {
  test("show who is there and with what state, and tell each change once", async () => {
    const alice = online("alice").join("one", { state: { mood: "curious" } });
    await shows(alice, "alice");
    const told = [];
    for (const event of ["join", "update", "leave", "count"]) alice.on(event, (news) => told.push([event, news]));
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
    assert.deepEqual(told, [
      ["count", 2], ["join", { user: "bob", state: null }],
      update({ mood: "busy" }), update(null),
      ["count", 1], ["leave", { user: "bob", reason: "left" }],
    ]);
  });

  test("share one connection, up to the server's limit, which is told", async () => {
    const client = online("many");
    const rooms = Array.from({ length: 100 }, (_, index) => client.join(`many-${index}`));
    await Promise.all(rooms.map((room) => shows(room, "many")));
    client.join("many-100");
    const { code } = await next(client, "error");
    assert.equal(code, "forbidden");
    assert.equal(client.connection.phase, "online");
  });

  test("are looked at without being seen, or with a number only, or not at all", async () => {
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

  test("of more than a thousand come in pages and are shown whole", async () => {
    const names = Array.from({ length: 1_100 }, (_, index) => `crowd ${String(index).padStart(4, "0")}`);
    const roomy = await Server.start({ args: ["--ttl", "1h", "--tick", "50ms"] });
    try {
      await roomy.beat(names);
      const sizes = [];
      const lobby = online("last", { url: roomy.url }).join("lobby");
      lobby.on("change", () => sizes.push(lobby.members.size));
      if (lobby.count !== 1_101) await next(lobby, "count", (count) => count === 1_101);
      await roomy.beat(["one more"]);
      await shows(lobby, "last", "one more", ...names);
      assert.deepEqual(sizes, [1_101, 1_102]);
    } finally {
      clients.pop().close();
      await roomy.stop();
    }
  });

  test("hold whatever names people have", async () => {
    const names = ["Zoë & <b>Ångström</b>", "明美?user=x", "محمد", "👩‍🚀#", "x".repeat(128), "a+b %41", "__proto__", "constructor"];
    const rooms = names.map((name) => online(name).join("na/mes ü?#", { state: { __proto__: null, name } }));
    await Promise.all(rooms.map((room) => shows(room, ...names)));
    for (const name of names) assert.deepEqual(rooms[0].members.get(name), { name });
  });
});

describe("a connection", () => {
  test("that breaks is taken up again, and nobody sees it; what happened meanwhile is shown", async () => {
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
    assert.deepEqual(resets, [false, 2], "resumed with what was missed, without a whole list");
    assert.deepEqual(seen.flatMap(({ joined, left }) => [...joined, ...left]), []);
  });

  test("comes back to a server that was restarted, and shows what is true there", async () => {
    let one = await Server.start({ args: HASTY });
    const alice = online("alice", { url: one.url });
    const bob = online("bob", { url: one.url });
    const room = alice.join("lobby");
    bob.join("lobby");
    await shows(room, "alice", "bob");
    const empty = [];
    room.on("change", () => room.count === 0 && empty.push("empty"));
    const down = next(alice, "down");
    const { port } = one;
    await one.stop();
    assert.equal((await down).cause.kind, "restarting");
    assert.equal(room.count, 2, "the last list stays");
    bob.close();
    one = await Server.start({ args: HASTY, port });
    try {
      await shows(room, "alice");
      assert.deepEqual(empty, []);
      // Before the server's stop, which would have a client wait for it.
      alice.close();
    } finally {
      await one.stop("SIGKILL");
    }
  });

  test("keeps its lease with heartbeats alone, where only they count", async () => {
    const strict = await Server.start({ args: [...LEASE, "--liveness", "strict"] });
    try {
      const room = online("alice", { url: strict.url }).join("lobby");
      await shows(room, "alice");
      const seen = [];
      room.on("change", (change) => seen.push(change));
      await strict.leaseIsOver();
      assert.deepEqual(seen, []);
    } finally {
      clients.pop().close();
      await strict.stop();
    }
  });

  test("stays online where no timer runs: the server's pings are answered without one", async (context) => {
    const leasing = await Server.start({ args: LEASE });
    context.after(() => leasing.stop("SIGKILL"));
    const alice = online("alice", { url: leasing.url }).join("hidden");
    await shows(alice, "alice");
    // As in a tab that was hidden for long: timers come once a minute, which here is never.
    context.mock.method(globalThis, "setTimeout", () => 0);
    const sleeper = online("sleeper", { url: leasing.url });
    sleeper.join("hidden");
    context.mock.restoreAll();
    await shows(alice, "alice", "sleeper");
    const seen = [];
    alice.on("change", (change) => seen.push(change));
    await leasing.leaseIsOver();
    assert.deepEqual(seen, []);
  });

  test("that is closed leaves at once, and can be opened again", async () => {
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

  test("that nobody accepts says so and goes on trying", async () => {
    const started = Date.now();
    const lost = online("alice", { url: "http://127.0.0.1:1" });
    const { cause, retryAt } = await next(lost, "down");
    assert.equal(cause.kind, "unreachable");
    assert.ok(retryAt >= started);
  });
});

describe("beside rooms", () => {
  test("messages reach everybody who looks, the sender too", async () => {
    const [alice, bob] = [online("alice"), online("bob")];
    const rooms = [alice.join("talk"), bob.observe("talk")];
    await Promise.all(rooms.map((room) => shows(room, "alice")));
    const heard = Promise.all(rooms.map((room) => next(room, "message")));
    rooms[0].send({ text: "hello" });
    for (const { user, data, ts } of await heard) {
      assert.deepEqual([user, data], ["alice", { text: "hello" }]);
      assert.ok(Math.abs(Date.now() - ts) < 60_000);
    }
  });

  test("watched users are told of, whatever room they are in", async () => {
    const alice = online("alice");
    await next(alice, "open");
    const watch = alice.watch(["bob", "nobody"]);
    await next(alice, "status");
    assert.deepEqual([watch.users.get("bob").online, watch.users.get("nobody").online], [false, false]);
    const bob = online("bob");
    bob.join("anywhere");
    await next(watch, "change", () => watch.users.get("bob").online);
    assert.ok(watch.users.get("bob").since > 0);
    bob.close();
    await next(watch, "change", () => !watch.users.get("bob").online);
    watch.close();
  });
});

test("the server has the members that are shown", async () => {
  const room = online("alice").join("same", { state: { deep: { list: [1, "two", null, { three: 3.5 }] } } });
  await shows(room, "alice");
  assert.deepEqual(await membersOf("same"), [...room.members].map(([user, state]) => ({ user, state })));
});
