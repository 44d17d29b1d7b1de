/** presence.js: how it beats, notices that a connection is dead, and comes back; time is moved by hand. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { ScriptedServer, snapshot, WELCOME } from "./scripted.mjs";

let server;
let client;
let lobby;

/** Each test starts online, with its join under way, and with dice that always fall in the middle. */
beforeEach(() => {
  server = new ScriptedServer();
  client = connect("ws://here", { user: "alice", WebSocket: server.WebSocket });
  lobby = client.join("lobby");
  server.welcome();
});
afterEach(() => server.end());

const phase = () => client.connection.phase;
const kind = () => client.connection.cause?.kind;

describe("a connection", () => {
  test("beats at half the interval first, then at each, and asks for an answer when all is silent", () => {
    mock.timers.tick(2_500);
    assert.deepEqual(server.sent().slice(1), ["heartbeat"]);
    for (let beat = 0; beat < 3; beat += 1) mock.timers.tick(5_000);
    const ask = { type: "heartbeat", ack: true };
    assert.deepEqual(server.sent().filter(({ type }) => type !== "join"), ["heartbeat", "heartbeat", "heartbeat", ask]);
    server.say({ type: "heartbeat_ack" });
    mock.timers.tick(4_000);
    assert.equal(phase(), "online");
  });

  test("is given up when the answer does not come, without a leave", () => {
    mock.timers.tick(2_500);
    for (let beat = 0; beat < 3; beat += 1) mock.timers.tick(5_000);
    mock.timers.tick(4_000);
    assert.equal(server.sockets[0].closedWith, 4000);
    assert.deepEqual([phase(), kind()], ["waiting", "silent"]);
    mock.timers.tick(500);
    assert.equal(server.sockets.length, 2);
  });

  test("that is closing is sent nothing: no heartbeat, no probe, no message", () => {
    server.last.readyState = 2;
    const before = server.sent().length;
    mock.timers.tick(30_000);
    server.browserSays("offline");
    assert.equal(lobby.send("late"), false);
    assert.equal(server.sent().length, before);
  });

  test("is given up when the welcome does not come", () => {
    server.lose();
    mock.timers.tick(500);
    mock.timers.tick(10_000);
    assert.deepEqual([phase(), kind()], ["waiting", "timeout"]);
  });

  test("goes on from where it was, and shows what it knew in the meantime", () => {
    server.say(snapshot(7, ["a"]));
    server.lose();
    assert.deepEqual([[...lobby.members.keys()], lobby.ready], [["a"], true]);
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(server.sent(), [{ type: "join", room: "lobby", observe: true, detail: "members", resume: { epoch: "e1", seq: 7 } }]);
    server.say({ type: "diff", room: "lobby", seq: 8, joined: [{ user: "b" }] });
    assert.deepEqual([...lobby.members.keys()], ["a", "b"]);
  });

  test("takes a second welcome for nothing new", () => {
    server.say(WELCOME);
    assert.equal(server.sent("join").length, 1);
  });

  test("tells its phases", () => {
    const told = [];
    for (const event of ["phase", "open", "down"]) client.on(event, (connection) => told.push([event, connection.phase]));
    server.lose();
    mock.timers.tick(500);
    server.lose();
    mock.timers.tick(1_000);
    server.welcome();
    client.close();
    const lost = [["phase", "waiting"], ["down", "waiting"], ["phase", "connecting"]];
    assert.deepEqual(told, [...lost, ...lost, ["phase", "online"], ["open", "online"], ["phase", "closed"]]);
  });

  test("stays away when it is refused, until it is asked again", () => {
    server.lose(1008, "not you");
    assert.deepEqual([phase(), client.connection.cause.reason], ["refused", "not you"]);
    mock.timers.tick(600_000);
    assert.equal(server.sockets.length, 1);
    client.connect();
    client.connect();
    assert.equal(server.sockets.length, 2);
  });

  test("closes with 1000 when it is meant, and stays closed", () => {
    client.close();
    assert.equal(server.sockets[0].closedWith, 1000);
    mock.timers.tick(600_000);
    assert.deepEqual([phase(), server.sockets.length], ["closed", 1]);
    assert.equal(server.listeners.size, 0);
  });

  test("that is not open yet is closed when it is", () => {
    server.lose();
    mock.timers.tick(500);
    client.close();
    const [, socket] = server.sockets;
    assert.equal(socket.closedWith, undefined);
    socket.onopen();
    assert.equal(socket.closedWith, 1000);
  });
});

describe("the delays before a reconnect", () => {
  /** How long it waits after each of these close codes, without a welcome in between. */
  function waits(codes, random) {
    mock.method(Math, "random", () => random);
    return codes.map((code) => {
      server.lose(code);
      const wait = client.connection.retryAt - Date.now();
      mock.timers.tick(wait);
      return wait;
    });
  }

  test("grow, and end", () => {
    assert.deepEqual(waits([1006, 1006, 1006, 1006, 1006, 1006, 1006], 1), [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  });

  test("have full jitter", () => assert.deepEqual(waits([1006, 1006, 1006], 0), [0, 0, 0]));

  test("are within the lease when the server restarts", () => {
    assert.deepEqual(waits([1012, 1012], 1), [5_000, 2_000]);
  });

  test("before any welcome, too", () => {
    client = connect("ws://here", { user: "bob", WebSocket: server.WebSocket });
    assert.deepEqual(waits([1012], 1), [5_000]);
  });

  test("are long when the server is full", () => {
    assert.deepEqual([waits([1013], 0), waits([1013], 1)], [[10_000], [30_000]]);
  });

  test("start again only after a connection that outlived a lease", () => {
    assert.deepEqual(waits([1006, 1006], 0.5), [500, 1_000]);
    server.welcome();
    assert.deepEqual(waits([1006], 0.5), [2_000]);
    server.welcome();
    mock.timers.tick(10_000);
    assert.deepEqual(waits([1006], 0.5), [500]);
  });
});

describe("the browser's news", () => {
  test("back on the network: at once", () => {
    server.lose();
    server.browserSays("online");
    assert.equal(phase(), "connecting");
  });

  test("off the network, or shown again: is the server still there?", () => {
    for (const news of ["offline", "visibilitychange"]) {
      server.browserSays(news);
      assert.deepEqual(server.sent().at(-1), { type: "heartbeat", ack: true });
    }
    mock.timers.tick(4_000);
    assert.equal(kind(), "silent");
  });

  test("shown again while waiting: as planned", () => {
    server.lose();
    server.browserSays("visibilitychange");
    assert.equal(phase(), "waiting");
  });

  test("hidden: away, where that was asked for", () => {
    const away = connect("ws://here", { user: "bob", WebSocket: server.WebSocket, away: true });
    const room = away.join("lobby", { state: { mood: "fine" } });
    away.observe("stage");
    server.welcome();
    const states = () => server.sent("state").map(({ state }) => state);
    server.browserSays("visibilitychange", { hidden: true });
    server.browserSays("visibilitychange", { hidden: false });
    assert.deepEqual(states(), [{ mood: "fine", away: true }, { mood: "fine" }]);
    server.browserSays("visibilitychange", { hidden: true });
    server.lose();
    mock.timers.tick(500);
    server.welcome();
    assert.deepEqual(server.sent("join")[0].state, { mood: "fine", away: true });
    assert.throws(() => room.setState({ text: "x".repeat(1_005) }), RangeError);
  });

  test("hidden: nothing, where it was not", () => {
    server.browserSays("visibilitychange", { hidden: true });
    assert.equal(server.sent("state").length, 0);
  });
});
