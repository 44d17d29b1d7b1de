// The online-status protocol at /ws-online-status?userId=…: each change is published to all connections through one
// topic.
'use strict';

const TOPIC = 'status';
const NO_USER = 1008;

class Status {
  constructor(app) {
    this.app = app;
    /** User id → connections, and the message that says since when the user is online. */
    this.users = new Map();
    this.sockets = new Set();
    this.accepted = 0;
    app.ws('/ws-online-status', {
      // Automatic pings: with 48 s they are sent after about 30 s of silence, and 16 s later the connection is dropped.
      idleTimeout: 48,
      sendPingsAutomatically: true,
      // A new client receives one message per user; there is room for tens of thousands.
      maxBackpressure: 16 * 1024 * 1024,
      closeOnBackpressureLimit: true,
      upgrade: (res, req, context) => {
        const id = userId(req.getQuery('userId'));
        const key = req.getHeader('sec-websocket-key');
        const protocol = req.getHeader('sec-websocket-protocol');
        const extensions = req.getHeader('sec-websocket-extensions');
        res.upgrade({ id }, key, protocol, extensions, context);
      },
      open: (ws) => this.opened(ws),
      close: (ws) => this.closed(ws),
    });
  }

  opened(ws) {
    const { id } = ws.getUserData();
    if (id === null) {
      ws.end(NO_USER, 'User ID required');
      return;
    }
    this.sockets.add(ws);
    const now = Date.now();
    ws.send(JSON.stringify({
      type: 'CONNECTION_ESTABLISHED',
      userId: id,
      timestamp: new Date(now).toISOString(),
      connectionId: `${id}-${now}`,
    }));
    ws.cork(() => {
      for (const [other, { online }] of this.users) {
        if (other !== id) ws.send(online);
      }
    });
    const user = this.users.get(id);
    if (user) {
      user.connections += 1;
    } else {
      const online = Buffer.from(encode('USER_ONLINE', id));
      this.users.set(id, { connections: 1, online });
      this.app.publish(TOPIC, online);
    }
    ws.subscribe(TOPIC);
  }

  closed(ws) {
    const { id } = ws.getUserData();
    if (!this.sockets.delete(ws)) return;
    const user = this.users.get(id);
    user.connections -= 1;
    if (user.connections > 0) return;
    this.users.delete(id);
    this.app.publish(TOPIC, encode('USER_OFFLINE', id));
  }

  /** All users as a room, for the HTTP API. */
  lobby() {
    return { epoch: 'status', seq: 0, list: () => [...this.users.keys()].map(String).sort() };
  }

  endAll(code) {
    for (const ws of [...this.sockets]) ws.end(code);
  }
}

/** Integer ids become numbers. Null if there is no id. */
function userId(text) {
  if (!text) return null;
  return /^(0|-?[1-9]\d{0,14})$/.test(text) ? Number(text) : text;
}

function encode(type, id) {
  return JSON.stringify({ type, userId: id, timestamp: new Date().toISOString() });
}

module.exports = { Status };
