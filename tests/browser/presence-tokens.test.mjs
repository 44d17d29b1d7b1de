/** presence.js: tokens, their renewal and expiry, and the info of members, on a simulated clock. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { diff, FakeServer, snapshot } from "./fake-server.mjs";

const LIFETIME_MS = 600_000;

let server;
/** The tokens that the application issued: t1, t2, … */
let issued;
beforeEach(() => {
  server = new FakeServer();
  issued = 0;
});
afterEach(() => server.end());

const start = (options) => connect("ws://here", { WebSocket: server.WebSocket, ...options });
const fetchToken = async () => `t${++issued}`;
/** Lets promises continue. The clock of the tests stands still. */
const settle = () => new Promise((done) => setImmediate(done));
const tokensSent = () => server.sockets.map(({ protocols }) => protocols[1]);
const phaseOf = ({ connection }) => [connection.phase, connection.cause?.kind];

/** A client with a token function, online with a token that expires after ten minutes. */
async function online(token = fetchToken) {
  const client = start({ token });
  await settle();
  server.welcome({ user: "alice", expires_in_ms: LIFETIME_MS });
  return client;
}

async function tick(ms) {
  mock.timers.tick(ms);
  await settle();
}

describe("a token", () => {
  test("is sent as a subprotocol, never in the address, and needs no user", () => {
    start({ token: "a-Z_0.~" });
    assert.deepEqual(server.socket.protocols, ["presence.v1", "bearer.a-Z_0.~"]);
    assert.equal(server.socket.url, "ws://here/v1/connect");
  });

  test("with other characters than A-Za-z0-9-_.~ is a TypeError", () => {
    for (const token of ["", "a b", "a,b", "a/b", "a+b", "a=", "ä", "a\n", "\u212a", 7, {}]) {
      assert.throws(() => start({ token }), TypeError, String(token));
    }
    const client = start({ token: "fine" });
    assert.throws(() => (client.token = "a b"), TypeError);
    assert.equal(client.token, "fine");
    assert.equal(server.sockets.length, 1);
  });

  test("that was assigned is used from the next connection on", async () => {
    const client = start({ token: "one" });
    client.token = "two";
    server.close();
    await tick(500);
    assert.deepEqual(tokensSent(), ["bearer.one", "bearer.two"]);
  });
});

describe("a token function", () => {
  test("is called before each connection", async () => {
    const client = start({ token: fetchToken });
    assert.deepEqual([phaseOf(client)[0], server.sockets.length], ["connecting", 0]);
    client.connect();
    await settle();
    server.close();
    await tick(500);
    client.close();
    client.connect();
    await settle();
    assert.deepEqual(tokensSent(), ["bearer.t1", "bearer.t2", "bearer.t3"]);
  });

  test("is called again after 60 to 90 % of the lifetime, at random, and then after each renewal", async () => {
    for (const [random, share] of [[0, 0.6], [0.999999, 0.9]]) {
      mock.method(Math, "random", () => random);
      const client = await online();
      const first = issued;
      for (let renewals = 0; renewals < 3; renewals += 1) {
        // The socket answers all that heartbeats ask for.
        const wait = LIFETIME_MS * (0.6 + 0.3 * random);
        assert.ok(Math.abs(wait - LIFETIME_MS * share) < 1_000);
        const due = Date.now() + wait;
        while (Date.now() + 5_000 < due) {
          await tick(4_000);
          server.send({ type: "heartbeat_ack" });
        }
        assert.equal(server.received("auth").length, renewals);
        await tick(due - Date.now() + 1);
        assert.deepEqual(server.received("auth").at(-1), { type: "auth", token: `t${first + renewals + 1}` });
        server.send({ type: "authenticated", expires_in_ms: LIFETIME_MS });
      }
      client.close();
    }
  });

  test("is called when the page is shown after the time of the renewal: timers stand still on standby", async () => {
    await online();
    server.dispatch("visibilitychange");
    await settle();
    assert.equal(issued, 1);
    mock.timers.setTime(Date.now() + LIFETIME_MS);
    for (const event of ["visibilitychange", "pageshow"]) server.dispatch(event);
    await settle();
    assert.deepEqual(server.received("auth"), [{ type: "auth", token: "t2" }]);
  });

  test("that fails before a connection is called again with growing delays", async () => {
    const failures = [() => Promise.reject(new Error("offline")), () => { throw new Error("no"); }, async () => "a b", async () => {}];
    const client = start({ token: () => failures[issued++ % 4]() });
    const downs = [];
    client.on("down", ({ cause, retryAt }) => downs.push([cause.kind, cause.reason.split(":")[0], retryAt - Date.now()]));
    await settle();
    for (const delay of [500, 1_000, 2_000]) await tick(delay);
    assert.deepEqual(downs, [["token", "Error", 500], ["token", "Error", 1_000], ["token", "TypeError", 2_000], ["token", "TypeError", 4_000]]);
    assert.equal(server.sockets.length, 0);
    client.token = fetchToken;
    await tick(4_000);
    assert.equal(server.sockets.length, 1);
  });

  test("that fails at a renewal is called again with growing delays, on the same connection", async () => {
    let fails = false;
    const client = await online(async () => {
      issued += 1;
      if (fails) throw new Error("not now");
      return `t${issued}`;
    });
    fails = true;
    mock.timers.setTime(Date.now() + LIFETIME_MS);
    server.dispatch("pageshow");
    server.send({ type: "heartbeat_ack" });
    await settle();
    for (const [delay, calls] of [[499, 2], [1, 3], [999, 3], [1, 4]]) {
      await tick(delay);
      assert.equal(issued, calls);
    }
    fails = false;
    await tick(2_000);
    assert.deepEqual(server.received("auth"), [{ type: "auth", token: "t5" }]);
    assert.deepEqual([phaseOf(client)[0], server.sockets.length], ["online", 1]);
  });

  test("that returns the token in use at a renewal sends nothing and is called again", async () => {
    await online(async () => (issued++, "same"));
    mock.timers.setTime(Date.now() + LIFETIME_MS);
    server.dispatch("pageshow");
    await settle();
    assert.deepEqual([issued, server.received("auth")], [2, []]);
    await tick(500);
    assert.deepEqual([issued, server.received("auth")], [3, []]);
  });

  test("that never answers is given up, and a late answer is ignored", async () => {
    const answers = [];
    const client = start({ token: () => new Promise((answer) => answers.push(answer)) });
    await tick(10_000);
    assert.deepEqual(phaseOf(client), ["waiting", "timeout"]);
    await tick(500);
    answers[0]("late");
    await settle();
    assert.equal(server.sockets.length, 0);
    answers[1]("fresh");
    await settle();
    assert.deepEqual(tokensSent(), ["bearer.fresh"]);
    server.close();
    await tick(1_000);
    client.close();
    answers[2]("closed");
    await settle();
    assert.deepEqual([server.sockets.length, phaseOf(client)[0]], [1, "closed"]);
  });

  test("is not called for a lifetime longer than the longest timer", async () => {
    const client = start({ token: fetchToken });
    await settle();
    server.welcome({ expires_in_ms: 2 ** 33 });
    // Without the limit, timers of browsers and Node would end at once.
    await tick(2);
    assert.equal(issued, 1);
    client.close();
  });
});

describe("an expired token (4401)", () => {
  test("is replaced at once, and the rooms keep their members", async () => {
    const client = await online();
    const lobby = client.join("lobby");
    server.send(snapshot(7, ["a"]));
    server.close(4401, "the token has expired");
    assert.deepEqual([phaseOf(client), client.connection.retryAt], [["waiting", "expired"], Date.now()]);
    await tick(0);
    assert.deepEqual(tokensSent(), ["bearer.t1", "bearer.t2"]);
    server.welcome({ user: "alice" });
    assert.deepEqual(server.received("join")[0].resume, { epoch: "e1", seq: 7 });
    assert.deepEqual([...lobby.members.keys()], ["a"]);
  });

  test("at the handshake is replaced at once; if the next ones expired too, with growing delays", async () => {
    const client = start({ token: fetchToken });
    await settle();
    for (const delay of [0, 1_000, 2_000]) {
      server.close(4401);
      assert.equal(client.connection.retryAt - Date.now(), delay);
      await tick(delay);
    }
    assert.deepEqual(tokensSent(), [1, 2, 3, 4].map((number) => `bearer.t${number}`));
  });

  test("is never sent again, although the function still returns it", async () => {
    let token = "old";
    const client = await online(async () => token);
    server.close(4401);
    await tick(0);
    assert.deepEqual([phaseOf(client), server.sockets.length], [["waiting", "token"], 1]);
    await tick(60_000);
    assert.equal(server.sockets.length, 1);
    token = "new";
    await tick(60_000);
    assert.deepEqual(tokensSent(), ["bearer.old", "bearer.new"]);
  });

  test("that is a fixed string is a refusal, and connect() does not send it again", async () => {
    const client = start({ token: "fixed" });
    const downs = [];
    client.on("down", ({ phase }) => downs.push(phase));
    server.welcome({ expires_in_ms: 1_000 });
    server.close(4401, "the token has expired");
    const cause = { kind: "expired", code: 4401, reason: "the token has expired" };
    assert.deepEqual(client.connection, { phase: "refused", cause });
    client.connect();
    await tick(LIFETIME_MS);
    assert.deepEqual([phaseOf(client), server.sockets.length, downs], [["refused", "expired"], 1, ["refused", "refused"]]);
    client.token = "another";
    client.connect();
    assert.deepEqual(tokensSent(), ["bearer.fixed", "bearer.another"]);
  });

  test("that was replaced by another string meanwhile is not a refusal", async () => {
    const client = start({ token: "one" });
    server.welcome();
    client.token = "two";
    server.close(4401);
    await tick(0);
    assert.deepEqual(tokensSent(), ["bearer.one", "bearer.two"]);
  });
});

test("a refusal (1008) is reported with its reason, and the token function is not called again", async () => {
  const client = await online();
  server.close(1008, "revoked");
  assert.deepEqual(client.connection, { phase: "refused", cause: { kind: "refused", code: 1008, reason: "revoked" } });
  await tick(LIFETIME_MS);
  assert.deepEqual([issued, server.sockets.length], [1, 1]);
});

test("a refused renewal is reported, and not repeated on this connection", async () => {
  const client = await online();
  const errors = [];
  client.on("error", ({ code }) => errors.push(code));
  mock.timers.setTime(Date.now() + LIFETIME_MS);
  server.dispatch("pageshow");
  await settle();
  server.send({ type: "error", code: "bad_token", message: "no", type_sent: "auth" });
  for (let waits = 0; waits < 10; waits += 1) {
    await tick(3_000);
    server.send({ type: "heartbeat_ack" });
  }
  assert.deepEqual([errors, server.received("auth").length, phaseOf(client)[0]], [["bad_token"], 1, "online"]);
});

describe("permissions", () => {
  const forbidden = (type_sent, room) => ({ type: "error", code: "forbidden", message: "no", type_sent, room });

  test("a forbidden room or count is reported and never requested again, after renewals and reconnects too", async () => {
    const client = await online();
    const errors = [];
    for (const [name, detail] of [["private", "members"], ["numbers", "count"]]) {
      client.observe(name, { detail }).on("error", ({ code }) => errors.push(code));
      server.send(forbidden("observe", name));
    }
    assert.deepEqual(errors, ["forbidden", "forbidden"]);
    const requests = () => server.received("observe").length;
    assert.equal(requests(), 2);
    server.send({ type: "authenticated", expires_in_ms: LIFETIME_MS });
    await tick(20_000);
    assert.equal(requests(), 2);
    server.close();
    await tick(500);
    server.welcome();
    assert.equal(requests(), 0);
  });

  test("a renewal requests the rooms again, since a narrower token ended them: they are emptied", async () => {
    const client = await online();
    const [lobby, stage] = [client.join("lobby"), client.join("stage")];
    server.send(snapshot(7, ["a"]), { ...snapshot(3, ["b"]), room: "stage" });
    server.send({ type: "authenticated", expires_in_ms: LIFETIME_MS });
    const again = server.received("join").slice(2);
    assert.deepEqual(again.map(({ room, resume }) => [room, resume.seq]), [["lobby", 7], ["stage", 3]]);
    server.send(forbidden("join", "stage"), diff(8, { joined: ["c"] }));
    assert.deepEqual([[...lobby.members.keys()], [...stage.members.keys()]], [["a", "c"], []]);
  });

  test("forbidden watches are not requested again, those that were answered are", async () => {
    const client = await online();
    client.watch(["bob"]);
    client.watch(["carol"]);
    server.send({ type: "status", users: [{ user: "bob", online: true }] }, forbidden("watch"));
    server.send({ type: "authenticated", expires_in_ms: LIFETIME_MS });
    assert.deepEqual(server.received("watch").slice(2).flatMap(({ users }) => users), ["bob"]);
    // A narrower token: bob is known from before, and refused from now on.
    server.send(forbidden("watch"));
    server.close();
    await tick(500);
    server.welcome();
    assert.deepEqual(server.received("watch"), []);
  });
});

describe("the info of members", () => {
  const names = ({ name }) => ({ name });
  const member = (user, fields) => ({ user, ...fields });

  test("is shown beside their states, which stay what they were", async () => {
    const lobby = (await online()).join("lobby");
    const events = [];
    for (const event of ["join", "update", "leave"]) lobby.on(event, (news) => events.push([event, news]));
    const [one, two] = [names({ name: "Ann" }), names({ name: "Anna" })];
    const shown = () => [lobby.members.get("a"), lobby.info("a")];
    server.send(snapshot(1, [], { members: [member("a", { state: { x: 1 }, info: one }), member("b")] }));
    assert.deepEqual([shown(), lobby.info("b"), lobby.info("nobody")], [[{ x: 1 }, one], undefined, undefined]);
    server.send({ ...diff(2), updated: [member("a", { state: { x: 2 } })] });
    assert.deepEqual(shown(), [{ x: 2 }, one]);
    server.send({ ...diff(3), updated: [member("a", { state: { x: 2 }, info: two })] });
    assert.deepEqual(shown(), [{ x: 2 }, two]);
    server.send({ ...diff(4), updated: [member("a", { state: { x: 2 }, info: null })] });
    assert.deepEqual(shown(), [{ x: 2 }, undefined]);
    server.send({ ...diff(5), joined: [member("c", { info: one })] });
    server.send({ ...diff(6), left: [member("c", { reason: "left" })] });
    assert.equal(lobby.info("c"), undefined);
    assert.deepEqual(events, [
      ["join", { user: "a", state: { x: 1 }, info: one }],
      ["join", { user: "b", state: null }],
      ["update", { user: "a", state: { x: 2 }, info: one }],
      ["update", { user: "a", state: { x: 2 }, info: two }],
      ["update", { user: "a", state: { x: 2 } }],
      ["join", { user: "c", state: null, info: one }],
      ["leave", { user: "c", reason: "left" }],
    ]);
  });

  test("is compared with the one before after a reconnect", async () => {
    const lobby = (await online()).join("lobby");
    const info = { name: "Ann" };
    server.send(snapshot(1, [], { members: [member("a", { info }), member("b", { info })] }));
    const changes = [];
    lobby.on("change", ({ updated }) => changes.push(updated));
    server.send(snapshot(1, [], { epoch: "e2", members: [member("a", { info }), member("b")] }));
    assert.deepEqual(changes, [[{ user: "b", state: null }]]);
    lobby.leave();
    assert.equal(lobby.info("a"), undefined);
  });
});
