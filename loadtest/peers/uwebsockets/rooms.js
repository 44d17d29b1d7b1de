// Rooms: who is in (live), what observers were told (announced), and the tick that tells them the difference. Observers are
// the subscribers of a room's two topics: uWebSockets keeps them, publishes to them and forgets them when they close.
'use strict';

const TICK_MS = 100;
const TIDY_MS = 30_000;
const PAGE_MEMBERS = 1000;
/** Distinguishes the epochs of two runs of this server. */
const RUN = Date.now().toString(36);

class Rooms {
  constructor(app) {
    this.app = app;
    this.byName = new Map();
    this.changed = new Set();
    this.opened = 0;
    setInterval(() => this.tick(), TICK_MS);
    setInterval(() => this.forgetTheEmpty(), TIDY_MS);
  }

  open(name) {
    let room = this.byName.get(name);
    if (!room) {
      room = new Room(name, `${RUN}-${++this.opened}`);
      this.byName.set(name, room);
    }
    return room;
  }

  enter(room, user) {
    const connections = room.members.get(user) ?? 0;
    room.members.set(user, connections + 1);
    if (connections === 0) this.mark(room, user, '');
  }

  exit(room, user, reason) {
    const connections = room.members.get(user) - 1;
    if (connections > 0) {
      room.members.set(user, connections);
    } else {
      room.members.delete(user);
      this.mark(room, user, reason);
    }
  }

  /** The session is told everybody, or how many, at the next tick and subscribed from then on. */
  observe(room, session, topic) {
    room.newcomers.set(session, topic);
    this.changed.add(room);
  }

  mark(room, user, reason) {
    room.reasons.set(user, reason);
    this.changed.add(room);
  }

  tick() {
    for (const room of this.changed) room.settle(this.app);
    this.changed.clear();
  }

  forgetTheEmpty() {
    for (const room of this.byName.values()) {
      if (!this.changed.has(room) && room.isEmpty(this.app)) this.byName.delete(room.name);
    }
  }
}

class Room {
  constructor(name, epoch) {
    this.name = name;
    this.epoch = epoch;
    this.seq = 0;
    this.topics = { members: `members/${name}`, count: `count/${name}` };
    /** User → connections in the room. */
    this.members = new Map();
    this.announced = new Set();
    /** User → why they left; of those who came or went since the last tick. */
    this.reasons = new Map();
    /** Session → topic. */
    this.newcomers = new Map();
    /** The announced, sorted; null until somebody asks again. */
    this.sorted = null;
  }

  /** Tells observers the net change since the last tick, and newcomers the result. */
  settle(app) {
    const joined = [];
    const left = [];
    for (const [user, reason] of this.reasons) {
      const isIn = this.members.has(user);
      if (isIn === this.announced.has(user)) continue;
      if (isIn) {
        this.announced.add(user);
        joined.push({ user });
      } else {
        this.announced.delete(user);
        left.push({ user, reason });
      }
    }
    this.reasons.clear();
    if (joined.length > 0 || left.length > 0) this.publish(app, joined, left);
    if (this.newcomers.size > 0) this.welcomeNewcomers();
  }

  publish(app, joined, left) {
    this.seq += 1;
    this.sorted = null;
    if (app.numSubscribers(this.topics.members) > 0) {
      const diff = { type: 'diff', room: this.name, seq: this.seq, count: this.announced.size };
      if (joined.length > 0) diff.joined = joined;
      if (left.length > 0) diff.left = left;
      app.publish(this.topics.members, JSON.stringify(diff));
    }
    if (app.numSubscribers(this.topics.count) > 0) app.publish(this.topics.count, this.encodeCount());
  }

  welcomeNewcomers() {
    let pages = null;
    let count = null;
    for (const [{ ws }, topic] of this.newcomers) {
      if (ws === null) continue;
      const isCount = topic === this.topics.count;
      const messages = isCount ? (count ??= [this.encodeCount()]) : (pages ??= this.encodeSnapshot());
      ws.cork(() => {
        ws.subscribe(topic);
        // One of them may be the last that backpressure allows: then the connection is closed.
        messages.every((message) => ws.send(message) !== 2);
      });
    }
    this.newcomers.clear();
  }

  isEmpty(app) {
    const observers = app.numSubscribers(this.topics.members) + app.numSubscribers(this.topics.count);
    return this.members.size + this.newcomers.size + observers === 0;
  }

  /** Users as they were announced, sorted. */
  list() {
    return (this.sorted ??= [...this.announced].sort());
  }

  encodeCount() {
    return JSON.stringify({ type: 'count', room: this.name, seq: this.seq, count: this.announced.size });
  }

  encodeSnapshot() {
    const users = this.list();
    const pages = Math.max(1, Math.ceil(users.length / PAGE_MEMBERS));
    return Array.from({ length: pages }, (_, page) => Buffer.from(JSON.stringify({
      type: 'snapshot',
      room: this.name,
      epoch: this.epoch,
      seq: this.seq,
      count: users.length,
      members: users.slice(page * PAGE_MEMBERS, (page + 1) * PAGE_MEMBERS).map((user) => ({ user })),
      page: page + 1,
      pages,
    })));
  }
}

module.exports = { Rooms, TICK_MS };
