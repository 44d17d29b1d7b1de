// The native protocol at /v1/connect: sessions, leases and messages.
'use strict';

const { TICK_MS } = require('./rooms');

const TTL_MS = 10_000;
const EXPIRY_CHECK_MS = 1000;
const MAX_ROOMS = 100;
const SUBPROTOCOL = 'presence.v1';
/** Of observers; the default is members. */
const DETAILS = [undefined, 'members', 'count'];
/** RFC 6455 section 7.1.5: `close()` in a browser sends no code. */
const CLEAN_CLOSES = [1000, 1005];

/** The presence of one connection. After an unclean close it lasts until its lease ends. */
class Session {
  constructor(user, wanted) {
    this.user = user;
    /** Names of rooms to join after the upgrade. */
    this.wanted = wanted;
    /** Null after the connection is closed. */
    this.ws = null;
    /** When the last message of the client arrived. */
    this.seen = 0;
    /** Rooms that it has joined. */
    this.rooms = [];
  }
}

class Native {
  constructor(app, rooms) {
    this.rooms = rooms;
    this.sessions = new Set();
    this.counters = { connections_accepted: 0, heartbeats: 0, leases_ended: 0 };
    // The time of leases is read once per tick, which is precise enough for heartbeats.
    this.now = Date.now();
    setInterval(() => (this.now = Date.now()), TICK_MS);
    setInterval(() => this.endExpired(), EXPIRY_CHECK_MS);
    app.ws('/v1/connect', {
      // Automatic pings renew the lease of silent clients. With 12 s they are sent after 4 to 8 s of silence.
      idleTimeout: 12,
      sendPingsAutomatically: true,
      // Room for a snapshot of about ten thousand members. A client that is further behind is closed, and gets a new
      // snapshot when it reconnects. Skipped messages would go unnoticed.
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
      res.writeStatus('400 Bad Request').end('{"error":{"code":"bad_request","message":"`user` and each `room` must be 1 to 128 bytes of text"}}');
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
    const error = this.execute(session, text);
    if (error) ws.send(JSON.stringify({ type: 'error', ...error }));
  }

  /** Executes a message. Returns an error, or null. */
  execute(session, text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return { code: 'bad_json', message: 'a message must be one JSON object, or the text heartbeat' };
    }
    if (message?.type === 'heartbeat') return this.heartbeat(session, message);
    if (!isName(message?.room)) return { code: 'bad_field', message: '`room` must be 1 to 128 bytes of text' };
    if (!DETAILS.includes(message.detail)) return { code: 'bad_field', message: '`detail` must be "members" or "count"' };
    switch (message.type) {
      case 'join': return this.join(session, message);
      case 'leave': return this.leave(session, message);
      case 'observe': return this.setObserved(session, this.rooms.open(message.room), message);
      case 'unobserve': return this.setObserved(session, this.rooms.byName.get(message.room), { observe: false });
      case 'resync': return this.setObserved(session, this.rooms.byName.get(message.room), {});
      default: return { code: 'unknown_type', message: 'unknown type', type_sent: String(message.type) };
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
      if (session.rooms.length >= MAX_ROOMS) return { code: 'forbidden', message: `the limit of rooms is ${MAX_ROOMS}` };
      // A new array of the exact size: a growing array reserves space for seventeen elements.
      session.rooms = [...session.rooms, room];
      this.rooms.join(room, session.user);
    }
    return this.setObserved(session, room, message);
  }

  leave(session, { room: name }) {
    const room = session.rooms.find((joined) => joined.name === name);
    if (!room) return { code: 'not_joined', message: 'the room is not joined' };
    session.rooms = session.rooms.filter((joined) => joined !== room);
    this.rooms.leave(room, session.user, 'left');
    return this.setObserved(session, room, { observe: false });
  }

  /** Changes what the session receives about a room. */
  setObserved(session, room, { observe = true, detail = 'members' }) {
    if (!room) return { code: 'not_joined', message: 'the room is neither joined nor observed' };
    const topic = room.topics[detail];
    for (const other of Object.values(room.topics)) {
      if (!observe || other !== topic) session.ws.unsubscribe(other);
    }
    if (observe) this.rooms.observe(room, session, topic);
    else room.newObservers.delete(session);
    return null;
  }

  closed(session, code) {
    session.ws = null;
    if (CLEAN_CLOSES.includes(code)) this.end(session, 'closed');
  }

  /** Ends sessions whose lease has expired, connected or not. */
  endExpired() {
    for (const session of this.sessions) {
      if (this.now - session.seen <= TTL_MS) continue;
      this.counters.leases_ended += 1;
      this.end(session, 'timeout');
      session.ws?.close();
    }
  }

  /** Ends the presence in all rooms. Repeated calls have no effect. */
  end(session, reason) {
    if (!this.sessions.delete(session)) return;
    for (const room of session.rooms) this.rooms.leave(room, session.user, reason);
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
