/**
 * presence.js and a real server with a proxy between them that drops, duplicates and delays messages and cuts
 * connections. When the proxy stops doing so, the client has the roster of the server.
 *
 * LOSSY_PROXY_SEED repeats the run with one random seed, LOSSY_PROXY_RUNS sets the number of runs.
 */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { LossyProxy, seededRandom } from "./lossy-proxy.mjs";
import { requirePackage, Server, SHORT_TIMES, sleep, until } from "./server.mjs";

const { WebSocket } = requirePackage("ws");
const seeds = process.env.LOSSY_PROXY_SEED
  ? [Number(process.env.LOSSY_PROXY_SEED)]
  : Array.from({ length: Number(process.env.LOSSY_PROXY_RUNS ?? 40) }, (_, index) => 1_000 + index);

/** Runs at the same time, which mostly wait. */
const RUNS_AT_ONCE = 10;
const USERS = 6;
const STEPS = 60;

let server;
before(async () => (server = await Server.start({ args: [...SHORT_TIMES, "--workers", "2"] })));
after(() => server.stop());

async function rosterOf(room) {
  const { members } = await (await fetch(`${server.url}/v1/rooms/${room}/members`)).json();
  return Object.fromEntries(members.map(({ user, state = null }) => [user, state]));
}

const mirrorOf = (room) => Object.fromEntries([...room.members].sort(([a], [b]) => (a < b ? -1 : 1)));

/** Builds a roster from the events of a room alone, and collects contradictions. */
function mirrorEvents(room) {
  const roster = new Map();
  const errors = [];
  room.on("join", ({ user, state }) => (roster.has(user) ? errors.push(`${user} joined twice`) : roster.set(user, state)));
  room.on("update", ({ user, state }) => {
    if (roster.has(user)) roster.set(user, state);
    else errors.push(`${user} was updated but is not in the room`);
  });
  room.on("leave", ({ user }) => roster.delete(user) || errors.push(`${user} left but is not in the room`));
  room.on("change", () => {
    if (room.count !== room.members.size) errors.push(`count ${room.count}, members ${room.members.size}`);
    if (room.count === 0) errors.push("the roster was empty");
  });
  return { roster, errors };
}

async function runOnce(seed) {
  const random = seededRandom(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const name = `room-${seed}`;
  const proxy = await LossyProxy.start(server.url, { random, drop: 0.15, duplicate: 0.15, delay: 0.15, cut: 0.02 });
  const client = connect(proxy.url, { user: `client-${seed}`, WebSocket });
  const room = client.join(name, { state: { seed } });
  const events = mirrorEvents(room);
  const createUser = (_, index) => connect(server.url, { user: `user-${index}-${seed}`, WebSocket });
  const users = Array.from({ length: USERS }, createUser);
  const joined = new Map();
  const actions = [
    (user) => joined.set(user, user.join(name)),
    (user) => joined.get(user)?.setState({ step: Math.floor(random() * 1_000) }),
    (user) => {
      joined.get(user)?.leave();
      joined.delete(user);
    },
  ];
  const started = Date.now();
  try {
    for (let step = 0; step < STEPS; step += 1) {
      pick(actions)(pick(users));
      await sleep(random() * 60);
    }
    proxy.passAll();
    const passing = Date.now();
    // If the very last message was lost, the next one reveals it.
    users[0].join(name, { state: { last: seed } });
    const agree = async () => {
      const [expected, mirror] = [await rosterOf(name), mirrorOf(room)];
      return expected[users[0].user] && JSON.stringify(mirror) === JSON.stringify(expected);
    };
    const rosters = async () => `server ${JSON.stringify(await rosterOf(name))}, client ${JSON.stringify(mirrorOf(room))}`;
    await until(rosters, agree);
    assert.deepEqual(Object.fromEntries(events.roster), Object.fromEntries(room.members), "the roster built from events differs");
    assert.deepEqual(events.errors, []);
    return { ...proxy.counts, lossyMs: passing - started, recoveredMs: Date.now() - passing };
  } finally {
    for (const one of [client, ...users]) one.close();
    await proxy.stop();
  }
}

describe("behind a lossy proxy", () => {
  const faults = { dropped: 0, duplicated: 0, delayed: 0, cut: 0 };
  for (let from = 0; from < seeds.length; from += RUNS_AT_ONCE) {
    const some = seeds.slice(from, from + RUNS_AT_ONCE);
    test(`the client ends with the roster of the server: seeds ${some[0]} to ${some.at(-1)}`, async (context) => {
      const runs = await Promise.all(some.map((seed) => runOnce(seed).catch((error) => {
        error.message = `LOSSY_PROXY_SEED=${seed}: ${error.message}`;
        throw error;
      })));
      const total = (key) => runs.reduce((sum, run) => sum + run[key], 0);
      for (const fault of Object.keys(faults)) faults[fault] += total(fault);
      const summary = Object.keys(runs[0]).slice(0, 5).map((key) => `${total(key)} ${key}`).join(", ");
      context.diagnostic(`${summary}; recovered within ${runs.map((run) => run.recoveredMs).sort((a, b) => a - b).join(" ")} ms`);
    });
  }

  // Faults depend on time as well: of ten runs, one in a hundred has no connection that is cut.
  test("all faults occurred", { skip: seeds.length < 40 && "too few runs" }, () => {
    for (const [fault, count] of Object.entries(faults)) assert.ok(count > 0, `no message was ${fault}`);
  });

  test("the first message after a lost one repairs the roster", async () => {
    const ownServer = await Server.start();
    const proxy = await LossyProxy.start(ownServer.url, { random: () => 0.5 });
    const client = connect(proxy.url, { user: "mirror", WebSocket });
    const others = ["bob", "carol"].map((user) => connect(ownServer.url, { user, WebSocket }));
    try {
      const room = client.join("single");
      await until("a roster", () => room.ready);
      const changes = [];
      room.on("change", (change) => changes.push(change));
      proxy.chances = { drop: 1, matching: /"type":"diff"/ };
      others[0].join("single");
      await until("a message is lost", () => proxy.counts.dropped > 0);
      proxy.passAll();
      others[1].join("single");
      await until("the loss is detected", () => changes.length > 0);
      const joined = ["bob", "carol"].map((user) => ({ user, state: null }));
      assert.deepEqual(changes, [{ joined, updated: [], left: [], reset: true }]);
    } finally {
      for (const one of [client, ...others]) one.close();
      await proxy.stop();
      await ownServer.stop();
    }
  });
});
