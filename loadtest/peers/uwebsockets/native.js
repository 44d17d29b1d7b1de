// The native protocol at /v1/connect: sessions, their leases, and what their messages do to rooms.
'use strict';

const { TICK_MS } = require('./rooms');

const TTL_MS = 10_000;
const SWEEP_MS = 1000;
const MAX_ROOMS = 100;
const SUBPROTOCOL = 'presence.v1';
/** Of those who look at a room; none said means members. */
const DETAILS = [undefined, 'members', 'count'];
/** RFC 6455, 7.1.5: `close()` in a browser sends no code. */
const CLEAN_CLOSES = [1000, 1005];

/** One connection's presence. It outlives the connection until its lease ends, unless that was closed properly. */
class Session {
  constructor(user, wanted) {
    this.user = user;
    /** Names of the rooms to join at once. */
    this.wanted = wanted;
    /** Null once the connection is closed. */
    this.ws = null;
    /** When the client was last heard. */
    this.seen = 0;
    /** Rooms it is a member of. */
    this.rooms = [];
  }
}

class Native {
  constructor(app, rooms) {
    this.rooms = rooms;
    this.sessions = new Set();
    this.counters = { connections_accepted: 0, heartbeats: 0, leases_ended: 0 };
    // The time of leases is read once a tick: heartbeats need no better one.
    this.now = Date.now();
    setInterval(() => (this.now = Date.now()), TICK_MS);
    setInterval(() => this.sweep(), SWEEP_MS);
    app.ws('/v1/connect', {
      // Its own pings keep a silent client's lease: with 12 s they go out after 4 to 8 s of silence.
      idleTimeout: 12,
      sendPingsAutomatically: true,
      // A snapshot of some ten thousand members fits. Who falls further behind is closed, and finds a fresh one on coming back:
      // that a diff was merely skipped, nobody would ever know here.
      maxBackpressure: 1024 * 1024,
      closeOnBackpressureLimit: true,
      upgrade: (res, req, context) => this.upgrade(res, req, context),
      open: (ws) => this.opened(ws),
      message: (ws, message) => this.message(ws, message),
      pong: (ws) => (ws.getUserData().seen = this.now),
      close: (ws, code) => this.closed(ws.getUserData(), code),
    });
  }

  upgrade(res, req, context) {
    const query = new URLSearchParams(req.getQuery());
    const user = query.get('user');
    const wanted = query.getAll('room');
    if (![user, ...wanted].every(isName)) {
      res.writeStatus('400 Bad Request').end('{"error":{"code":"bad_request","message":"`user` or `room` is no name"}}');
      return;
    }
    const offered = req.getHeader('sec-websocket-protocol').split(/, */);
    const key = req.getHeader('sec-websocket-key');
    const extensions = req.getHeader('sec-websocket-extensions');
    const protocol = offered.includes(SUBPROTOCOL) ? SUBPROTOCOL : '';
    res.upgrade(new Session(user, wanted), key, protocol, extensions, context);
  }

  opened(ws) {
    const session = ws.getUserData();
    session.ws = ws;
    session.seen = this.now;
    this.sessions.add(session);
    this.counters.connections_accepted += 1;
    ws.send(JSON.stringify({
      type: 'welcome',
      protocol: SUBPROTOCOL,
      user: session.user,
      connection: this.counters.connections_accepted.toString(36),
      node: 'uwebsockets',
      ttl_ms: TTL_MS,
      heartbeat_ms: TTL_MS / 2,
      tick_ms: TICK_MS,
    }));
    for (const room of session.wanted) this.join(session, { room });
    session.wanted = null;
  }

  message(ws, message) {
    const session = ws.getUserData();
    session.seen = this.now;
    const text = Buffer.from(message).toString();
    if (text === 'heartbeat') {
      this.counters.heartbeats += 1;
      return;
    }
    const error = this.obey(session, text);
    if (error) ws.send(JSON.stringify({ type: 'error', ...error }));
  }

  /** Does what the message says, or returns why not. */
  obey(session, text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return { code: 'bad_json', message: 'a message is one JSON object, or the text heartbeat' };
    }
    if (message?.type === 'heartbeat') return this.heartbeat(session, message);
    if (!isName(message?.room)) return { code: 'bad_field', message: '`room` must be 1 to 128 bytes of text' };
    if (!DETAILS.includes(message.detail)) return { code: 'bad_field', message: '`detail` must be "members" or "count"' };
    switch (message.type) {
      case 'join': return this.join(session, message);
      case 'leave': return this.leave(session, message);
      case 'observe': return this.look(session, this.rooms.open(message.room), message);
      case 'unobserve': return this.look(session, this.rooms.byName.get(message.room), { observe: false });
      case 'resync': return this.look(session, this.rooms.byName.get(message.room), {});
      default: return { code: 'unknown_type', message: 'this type is not known', type_sent: String(message.type) };
    }
  }

  heartbeat(session, { ack }) {
    this.counters.heartbeats += 1;
    if (ack) session.ws.send(`{"type":"heartbeat_ack","ts":${Date.now()}}`);
    return null;
  }

  join(session, message) {
    const room = this.rooms.open(message.room);
    if (!session.rooms.includes(room)) {
      if (session.rooms.length >= MAX_ROOMS) return { code: 'forbidden', message: `at most ${MAX_ROOMS} rooms` };
      // A new array of the right size: one that grows reserves room for seventeen.
      session.rooms = [...session.rooms, room];
      this.rooms.enter(room, session.user);
    }
    return this.look(session, room, message);
  }

  leave(session, { room: name }) {
    const room = session.rooms.find((joined) => joined.name === name);
    if (!room) return { code: 'not_joined', message: 'the room was not joined' };
    session.rooms = session.rooms.filter((joined) => joined !== room);
    this.rooms.exit(room, session.user, 'left');
    return this.look(session, room, { observe: false });
  }

  /** Changes what the session is told about a room. */
  look(session, room, { observe = true, detail = 'members' }) {
    if (!room) return { code: 'not_joined', message: 'the room was not joined, and is not observed' };
    const topic = room.topics[detail];
    for (const other of Object.values(room.topics)) {
      if (!observe || other !== topic) session.ws.unsubscribe(other);
    }
    if (observe) this.rooms.observe(room, session, topic);
    else room.newcomers.delete(session);
    return null;
  }

  closed(session, code) {
    session.ws = null;
    if (CLEAN_CLOSES.includes(code)) this.end(session, 'closed');
  }

  /** Ends the leases of those who were not heard for too long, connected or not. */
  sweep() {
    for (const session of this.sessions) {
      if (this.now - session.seen <= TTL_MS) continue;
      this.counters.leases_ended += 1;
      this.end(session, 'timeout');
      session.ws?.close();
    }
  }

  /** Ends the presence in all rooms; a second time there is none to end. */
  end(session, reason) {
    if (!this.sessions.delete(session)) return;
    for (const room of session.rooms) this.rooms.exit(room, session.user, reason);
    session.rooms = [];
  }

  endAll(code) {
    for (const { ws } of [...this.sessions]) ws?.end(code);
  }
}

function isName(name) {
  return typeof name === 'string' && name !== '' && Buffer.byteLength(name) <= 128 && !/\p{Cc}/u.test(name);
}

module.exports = { Native };
