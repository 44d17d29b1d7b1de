/**
 * presence.js against the real server behind a proxy that drops, duplicates, delays and cuts: once the proxy behaves, the
 * roster is the server's. CHAOS_SEED runs one schedule again, CHAOS_RUNS more of them.
 */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { connect } from "../../src/web/client/presence.js";
import { dice, Proxy } from "./proxy.mjs";
import { HASTY, installed, Server, sleep, until } from "./server.mjs";

const { WebSocket } = installed("ws");
const seeds = process.env.CHAOS_SEED
  ? [Number(process.env.CHAOS_SEED)]
  : Array.from({ length: Number(process.env.CHAOS_RUNS ?? 40) }, (_, index) => 1_000 + index);

/** Schedules that run at once: most of their time is waiting. */
const AT_ONCE = 10;
const ACTORS = 6;
const STEPS = 60;

let server;
before(async () => (server = await Server.start({ args: [...HASTY, "--workers", "2"] })));
after(() => server.stop());

async function rosterOf(room) {
  const { members } = await (await fetch(`${server.url}/v1/rooms/${room}/members`)).json();
  return Object.fromEntries(members.map(({ user, state = null }) => [user, state]));
}

const mirrorOf = (room) => Object.fromEntries([...room.members].sort(([a], [b]) => (a < b ? -1 : 1)));

/** A roster that is told by the events alone, and whatever is wrong with them. */
function bookkeeper(room) {
  const shadow = new Map();
  const wrong = [];
  room.on("join", ({ user, state }) => (shadow.has(user) ? wrong.push(`${user} joined twice`) : shadow.set(user, state)));
  room.on("update", ({ user, state }) => (shadow.has(user) ? shadow.set(user, state) : wrong.push(`${user} updated, not there`)));
  room.on("leave", ({ user }) => shadow.delete(user) || wrong.push(`${user} left, not there`));
  room.on("change", () => {
    if (room.count !== room.members.size) wrong.push(`count ${room.count}, members ${room.members.size}`);
    if (room.count === 0) wrong.push("an empty roster was shown");
  });
  return { shadow, wrong };
}

async function schedule(seed) {
  const random = dice(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const name = `room-${seed}`;
  const proxy = await Proxy.start(server.url, { random, drop: 0.15, duplicate: 0.15, delay: 0.15, cut: 0.02 });
  const client = connect(proxy.url, { user: `client-${seed}`, WebSocket });
  const room = client.join(name, { state: { seed } });
  const books = bookkeeper(room);
  const actors = Array.from({ length: ACTORS }, (_, index) => connect(server.url, { user: `actor-${index}-${seed}`, WebSocket }));
  const joined = new Map();
  const acts = [
    (actor) => joined.set(actor, actor.join(name)),
    (actor) => joined.get(actor)?.setState({ step: Math.floor(random() * 1_000) }),
    (actor) => {
      joined.get(actor)?.leave();
      joined.delete(actor);
    },
  ];
  const started = Date.now();
  try {
    for (let step = 0; step < STEPS; step += 1) {
      pick(acts)(pick(actors));
      await sleep(random() * 60);
    }
    proxy.calm();
    const calm = Date.now();
    // The loss of the very last message is noticed with the next one.
    actors[0].join(name, { state: { last: seed } });
    const agree = async () => {
      const [expected, mirror] = [await rosterOf(name), mirrorOf(room)];
      return expected[actors[0].user] && JSON.stringify(mirror) === JSON.stringify(expected);
    };
    await until(async () => `they agree: the server has ${JSON.stringify(await rosterOf(name))}, the client ${JSON.stringify(mirrorOf(room))}`, agree);
    assert.deepEqual(Object.fromEntries(books.shadow), Object.fromEntries(room.members), "the events tell the same");
    assert.deepEqual(books.wrong, []);
    return { ...proxy.done, chaosMs: calm - started, recoveredMs: Date.now() - calm };
  } finally {
    for (const one of [client, ...actors]) one.close();
    await proxy.stop();
  }
}

describe("behind a proxy that mistreats messages", () => {
  for (let from = 0; from < seeds.length; from += AT_ONCE) {
    const some = seeds.slice(from, from + AT_ONCE);
    test(`the roster is the server's again: seeds ${some[0]} to ${some.at(-1)}`, async (context) => {
      const runs = await Promise.all(some.map((seed) => schedule(seed).catch((error) => {
        error.message = `CHAOS_SEED=${seed}: ${error.message}`;
        throw error;
      })));
      const total = (key) => runs.reduce((sum, run) => sum + run[key], 0);
      for (const harm of ["dropped", "duplicated", "delayed", "cut"]) assert.ok(total(harm) > 0, `nothing was ${harm}`);
      const summary = Object.keys(runs[0]).slice(0, 5).map((key) => `${total(key)} ${key}`).join(", ");
      context.diagnostic(`${summary}; recovered within ${runs.map((run) => run.recoveredMs).sort((a, b) => a - b).join(" ")} ms`);
    });
  }

  test("a lost message is made good by the first one that follows it", async () => {
    const steady = await Server.start();
    const proxy = await Proxy.start(steady.url, { random: () => 0.5 });
    const client = connect(proxy.url, { user: "mirror", WebSocket });
    const others = ["bob", "carol"].map((user) => connect(steady.url, { user, WebSocket }));
    try {
      const room = client.join("single");
      await until("a list", () => room.ready);
      const changes = [];
      room.on("change", (change) => changes.push(change));
      proxy.chances = { drop: 1, of: /"type":"diff"/ };
      others[0].join("single");
      await until("something is lost", () => proxy.done.dropped > 0);
      proxy.calm();
      others[1].join("single");
      await until("the loss is noticed", () => changes.length > 0);
      const joined = ["bob", "carol"].map((user) => ({ user, state: null }));
      assert.deepEqual(changes, [{ joined, updated: [], left: [], reset: true }]);
    } finally {
      for (const one of [client, ...others]) one.close();
      await proxy.stop();
      await steady.stop();
    }
  });
});
