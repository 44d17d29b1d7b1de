/** presence.js: heartbeats, detecting dead connections and reconnecting, on a simulated clock. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { FakeServer, snapshot, WELCOME } from "./fake-server.mjs";

let server;
let client;
let lobby;

/** Each test starts online with a join sent. Random numbers are 0.5. */
beforeEach(() => {
  server = new FakeServer();
  client = connect("ws://here", { user: "alice", WebSocket: server.WebSocket });
  lobby = client.join("lobby");
  server.welcome();
});
afterEach(() => server.end());

const phase = () => client.connection.phase;
const kind = () => client.connection.cause?.kind;

describe("a connection", () => {
  test("sends heartbeats, the first after half an interval, and a probe if the server is silent", () => {
    mock.timers.tick(2_500);
    assert.deepEqual(server.received().slice(1), ["heartbeat"]);
    for (let beat = 0; beat < 3; beat += 1) mock.timers.tick(5_000);
    const probe = { type: "heartbeat", ack: true };
    assert.deepEqual(server.received().filter(({ type }) => type !== "join"), ["heartbeat", "heartbeat", "heartbeat", probe]);
    server.send({ type: "heartbeat_ack" });
    mock.timers.tick(4_000);
    assert.equal(phase(), "online");
  });

  test("is given up without a leave if the probe is not answered", () => {
    mock.timers.tick(2_500);
    for (let beat = 0; beat < 3; beat += 1) mock.timers.tick(5_000);
    mock.timers.tick(4_000);
    assert.equal(server.sockets[0].closedWith, 4000);
    assert.deepEqual([phase(), kind()], ["waiting", "silent"]);
    mock.timers.tick(500);
    assert.equal(server.sockets.length, 2);
  });

  test("sends nothing while it is closing: no heartbeat, no probe, no message", () => {
    server.socket.readyState = 2;
    const before = server.received().length;
    mock.timers.tick(30_000);
    server.dispatch("offline");
    assert.equal(lobby.send("late"), false);
    assert.equal(server.received().length, before);
  });

  test("is given up if the welcome does not arrive", () => {
    server.close();
    mock.timers.tick(500);
    mock.timers.tick(10_000);
    assert.deepEqual([phase(), kind()], ["waiting", "timeout"]);
  });

  test("resumes after a reconnect, and shows the last members until then", () => {
    server.send(snapshot(7, ["a"]));
    server.close();
    assert.deepEqual([[...lobby.members.keys()], lobby.ready], [["a"], true]);
    mock.timers.tick(500);
    server.welcome();
    const resume = { epoch: "e1", seq: 7 };
    assert.deepEqual(server.received(), [{ type: "join", room: "lobby", observe: true, detail: "members", resume }]);
    server.send({ type: "diff", room: "lobby", seq: 8, joined: [{ user: "b" }] });
    assert.deepEqual([...lobby.members.keys()], ["a", "b"]);
  });

  test("ignores a second welcome", () => {
    server.send(WELCOME);
    assert.equal(server.received("join").length, 1);
  });

  test("reports its phases", () => {
    const events = [];
    for (const event of ["phase", "open", "down"]) client.on(event, ({ phase }) => events.push([event, phase]));
    server.close();
    mock.timers.tick(500);
    server.close();
    mock.timers.tick(1_000);
    server.welcome();
    client.close();
    const lost = [["phase", "waiting"], ["down", "waiting"], ["phase", "connecting"]];
    assert.deepEqual(events, [...lost, ...lost, ["phase", "online"], ["open", "online"], ["phase", "closed"]]);
  });

  test("does not reconnect after a refusal, until connect() is called", () => {
    server.close(1008, "not you");
    assert.deepEqual([phase(), client.connection.cause.reason], ["refused", "not you"]);
    mock.timers.tick(600_000);
    assert.equal(server.sockets.length, 1);
    client.connect();
    client.connect();
    assert.equal(server.sockets.length, 2);
  });

  test("close() sends 1000, and the connection stays closed", () => {
    client.close();
    assert.equal(server.sockets[0].closedWith, 1000);
    mock.timers.tick(600_000);
    assert.deepEqual([phase(), server.sockets.length], ["closed", 1]);
    assert.equal(server.listeners.size, 0);
  });

  test("close() before the socket is open closes it as soon as it is open", () => {
    server.close();
    mock.timers.tick(500);
    client.close();
    const [, socket] = server.sockets;
    assert.equal(socket.closedWith, undefined);
    socket.onopen();
    assert.equal(socket.closedWith, 1000);
  });
});

describe("the delays before a reconnect", () => {
  /** The delays after each of these close codes, without a welcome in between. */
  function waits(codes, random) {
    mock.method(Math, "random", () => random);
    return codes.map((code) => {
      server.close(code);
      const wait = client.connection.retryAt - Date.now();
      mock.timers.tick(wait);
      return wait;
    });
  }

  test("grow up to a limit", () => {
    const delays = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
    assert.deepEqual(waits(delays.map(() => 1006), 1), delays);
  });

  test("are random, starting at zero", () => assert.deepEqual(waits([1006, 1006, 1006], 0), [0, 0, 0]));

  test("are shorter than the lease if the server restarts", () => {
    assert.deepEqual(waits([1012, 1012], 1), [5_000, 2_000]);
  });

  test("are the same before the first welcome", () => {
    client = connect("ws://here", { user: "bob", WebSocket: server.WebSocket });
    assert.deepEqual(waits([1012], 1), [5_000]);
  });

  test("are long if the server is full", () => {
    assert.deepEqual([waits([1013], 0), waits([1013], 1)], [[10_000], [30_000]]);
  });

  test("start again after a connection that was longer than a lease", () => {
    assert.deepEqual(waits([1006, 1006], 0.5), [500, 1_000]);
    server.welcome();
    assert.deepEqual(waits([1006], 0.5), [2_000]);
    server.welcome();
    mock.timers.tick(10_000);
    assert.deepEqual(waits([1006], 0.5), [500]);
  });
});

describe("browser events", () => {
  test("online: reconnects at once", () => {
    server.close();
    server.dispatch("online");
    assert.equal(phase(), "connecting");
  });

  test("offline, shown again, or back from the cache of the browser: sends a probe", () => {
    for (const event of ["offline", "visibilitychange", "pageshow", "resume"]) {
      server.dispatch(event);
      assert.deepEqual(server.received().at(-1), { type: "heartbeat", ack: true });
    }
    mock.timers.tick(4_000);
    assert.equal(kind(), "silent");
  });

  test("shown again, or loaded completely, while waiting: keeps waiting", () => {
    server.close(1013);
    server.dispatch("visibilitychange");
    // Each page sends it after it has loaded.
    server.dispatch("pageshow", {}, { persisted: false });
    assert.equal(phase(), "waiting");
  });

  test("back from the cache after the time of the next attempt: reconnects at once", () => {
    for (const event of ["visibilitychange", "pageshow", "resume"]) {
      server.close();
      // A frozen page runs no timers.
      mock.timers.setTime(Date.now() + 60_000);
      assert.equal(phase(), "waiting");
      server.dispatch(event);
      assert.equal(phase(), "connecting", event);
      server.welcome();
    }
  });

  test("into the back/forward cache: ends the connection; back: connects at once", () => {
    const hide = (persisted) => server.dispatch("pagehide", {}, { persisted });
    hide(false);
    assert.equal(phase(), "online");
    hide(true);
    assert.equal(server.sockets[0].closedWith, 4000);
    assert.deepEqual([phase(), kind()], ["waiting", "hidden"]);
    // Until the page is frozen, its timers run and it receives events.
    server.dispatch("visibilitychange", { hidden: true });
    mock.timers.tick(60_000);
    // Browsers may send these first.
    server.dispatch("visibilitychange", { hidden: true });
    server.dispatch("visibilitychange", { hidden: false });
    assert.equal(server.sockets.length, 1);
    server.dispatch("pageshow", {}, { persisted: true });
    assert.equal(phase(), "connecting");
    server.dispatch("pageshow", {}, { persisted: true });
    server.welcome();
    assert.deepEqual([phase(), server.sockets.length], ["online", 2]);
  });

  test("into the back/forward cache while it connects or waits: connects only when it is back", () => {
    for (const lose of [() => server.close(), () => server.close(1013), () => server.close() ?? client.connect()]) {
      lose();
      const sockets = server.sockets.length;
      server.dispatch("pagehide", {}, { persisted: true });
      server.dispatch("visibilitychange", { hidden: true });
      server.dispatch("online");
      mock.timers.tick(60_000);
      assert.deepEqual([phase(), kind(), server.sockets.length], ["waiting", "hidden", sockets]);
      server.dispatch("pageshow", {}, { persisted: true });
      assert.equal(phase(), "connecting");
      server.welcome();
    }
  });

  test("into the back/forward cache after a refusal or a close: stays refused or closed", () => {
    server.close(1008, "removed");
    server.dispatch("pagehide", {}, { persisted: true });
    server.dispatch("pageshow", {}, { persisted: true });
    assert.equal(phase(), "refused");
    client.connect();
    client.close();
    server.dispatch("pagehide", {}, { persisted: true });
    server.dispatch("pageshow", {}, { persisted: true });
    assert.equal(phase(), "closed");
  });

  test("hidden, with the option `away`: shows the user as away", () => {
    const away = connect("ws://here", { user: "bob", WebSocket: server.WebSocket, away: true });
    const room = away.join("lobby", { state: { mood: "fine" } });
    away.observe("stage");
    server.welcome();
    const states = () => server.received("state").map(({ state }) => state);
    server.dispatch("visibilitychange", { hidden: true });
    server.dispatch("visibilitychange", { hidden: false });
    assert.deepEqual(states(), [{ mood: "fine", away: true }, { mood: "fine" }]);
    server.dispatch("visibilitychange", { hidden: true });
    server.close();
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(server.received("join")[0].state, { mood: "fine", away: true });
    assert.throws(() => room.setState({ text: "x".repeat(1_005) }), RangeError);
  });

  test("hidden, without the option `away`: sends no state", () => {
    server.dispatch("visibilitychange", { hidden: true });
    assert.equal(server.received("state").length, 0);
  });
});
