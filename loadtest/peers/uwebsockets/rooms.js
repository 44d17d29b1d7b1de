// Rooms: their members (live), what observers have received (announced), and the tick that sends the difference. The
// observers are the subscribers of two topics per room, which uWebSockets manages.
'use strict';

const TICK_MS = 100;
const CLEANUP_MS = 30_000;
const PAGE_MEMBERS = 1000;
/** Makes epochs unique across restarts. */
const INCARNATION = Date.now().toString(36);

class Rooms {
  constructor(app) {
    this.app = app;
    this.byName = new Map();
    this.changed = new Set();
    this.opened = 0;
    setInterval(() => this.tick(), TICK_MS);
    setInterval(() => this.removeEmpty(), CLEANUP_MS);
  }

  open(name) {
    let room = this.byName.get(name);
    if (!room) {
      room = new Room(name, `${INCARNATION}-${++this.opened}`);
      this.byName.set(name, room);
    }
    return room;
  }

  join(room, user) {
    const connections = room.members.get(user) ?? 0;
    room.members.set(user, connections + 1);
    if (connections === 0) this.markChanged(room, user, '');
  }

  leave(room, user, reason) {
    const connections = room.members.get(user) - 1;
    if (connections > 0) {
      room.members.set(user, connections);
    } else {
      room.members.delete(user);
      this.markChanged(room, user, reason);
    }
  }

  /** At the next tick the session receives the members or the count and is subscribed to changes. */
  observe(room, session, topic) {
    room.newObservers.set(session, topic);
    this.changed.add(room);
  }

  markChanged(room, user, reason) {
    room.reasons.set(user, reason);
    this.changed.add(room);
  }

  tick() {
    for (const room of this.changed) room.settle(this.app);
    this.changed.clear();
  }

  removeEmpty() {
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
    /** User → reason of the leave, for users who joined or left since the last tick. */
    this.reasons = new Map();
    /** Session → topic. */
    this.newObservers = new Map();
    /** Announced users, sorted; null if not computed since the last change. */
    this.sorted = null;
  }

  /** Sends the net change since the last tick to observers, and the result to new observers. */
  settle(app) {
    const joined = [];
    const left = [];
    for (const [user, reason] of this.reasons) {
      const isMember = this.members.has(user);
      if (isMember === this.announced.has(user)) continue;
      if (isMember) {
        this.announced.add(user);
        joined.push({ user });
      } else {
        this.announced.delete(user);
        left.push({ user, reason });
      }
    }
    this.reasons.clear();
    if (joined.length > 0 || left.length > 0) this.publish(app, joined, left);
    if (this.newObservers.size > 0) this.sendSnapshots();
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

  sendSnapshots() {
    let pages = null;
    let count = null;
    for (const [{ ws }, topic] of this.newObservers) {
      if (ws === null) continue;
      const isCount = topic === this.topics.count;
      const messages = isCount ? (count ??= [this.encodeCount()]) : (pages ??= this.encodeSnapshot());
      ws.cork(() => {
        ws.subscribe(topic);
        // If a message exceeds the backpressure limit, the connection is closed.
        messages.every((message) => ws.send(message) !== 2);
      });
    }
    this.newObservers.clear();
  }

  isEmpty(app) {
    const observers = app.numSubscribers(this.topics.members) + app.numSubscribers(this.topics.count);
    return this.members.size + this.newObservers.size + observers === 0;
  }

  /** Announced users, sorted. */
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
