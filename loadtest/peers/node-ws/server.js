// The online-status server on `ws`: a loop sends each change to all other users.
// One process, one thread. Usage: node server.js PORT
'use strict';

const http = require('node:http');
const { WebSocketServer, WebSocket } = require('ws');

const PATH = '/ws-online-status';
const PING_MS = 30_000;
const STATS_LOG_MS = 30_000;
/** With the default of 511 a storm would measure how long the kernel waits before it repeats a SYN. */
const BACKLOG = 8192;
const NO_USER = 1008;
const GOING_AWAY = 1012;

/** User id → its open connections, and the USER_ONLINE message with the time. */
const users = new Map();

const server = http.createServer((request, response) => {
  const found = request.method === 'GET' && request.url === `${PATH}/users`;
  const answer = found ? { online_users: [...users.keys()].sort() } : { error: { code: 'not_found', message: 'not found' } };
  response.writeHead(found ? 200 : 404, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
});
const sockets = new WebSocketServer({ server, path: PATH });

sockets.on('connection', (socket, request) => {
  socket.on('error', console.error);
  const id = userId(new URLSearchParams(request.url.split('?')[1]).get('userId'));
  if (id === null) {
    socket.close(NO_USER, 'User ID required');
    return;
  }
  socket.isAlive = true;
  socket.on('pong', markAlive);
  socket.on('close', () => handleDisconnect(id, socket));
  greet(id, socket);
  const user = users.get(id);
  if (user) {
    user.connections.add(socket);
  } else {
    const online = encode('USER_ONLINE', id);
    users.set(id, { connections: new Set([socket]), online });
    broadcastUserStatus(id, online);
  }
});

/** Confirms the connection, and sends the users who are online. */
function greet(id, socket) {
  const now = Date.now();
  const timestamp = new Date(now).toISOString();
  socket.send(JSON.stringify({ type: 'CONNECTION_ESTABLISHED', userId: id, timestamp, connectionId: `${id}-${now}` }));
  for (const [other, { online }] of users) {
    if (other !== id) socket.send(online);
  }
}

function handleDisconnect(id, socket) {
  const { connections } = users.get(id);
  connections.delete(socket);
  if (connections.size > 0) return;
  users.delete(id);
  broadcastUserStatus(id, encode('USER_OFFLINE', id));
}

/** Sends to all connections of all other users. */
function broadcastUserStatus(id, message) {
  for (const [other, { connections }] of users) {
    if (other === id) continue;
    for (const socket of connections) {
      if (socket.readyState === WebSocket.OPEN) socket.send(message);
    }
  }
}

function encode(type, id) {
  return JSON.stringify({ type, userId: id, timestamp: new Date().toISOString() });
}

/** Integer ids become numbers. Null if there is no id. */
function userId(text) {
  if (!text) return null;
  return /^(0|-?[1-9]\d{0,14})$/.test(text) ? Number(text) : text;
}

function markAlive() {
  this.isAlive = true;
}

// "How to detect and close broken connections?" in the README of ws.
setInterval(() => {
  for (const socket of sockets.clients) {
    if (socket.isAlive === false) {
      socket.terminate();
    } else {
      socket.isAlive = false;
      socket.ping();
    }
  }
}, PING_MS);

setInterval(() => console.error(`${users.size} users, ${sockets.clients.size} connections`), STATS_LOG_MS);

function stop() {
  server.close();
  for (const socket of sockets.clients) socket.close(GOING_AWAY);
  // Do not wait longer for clients that do not answer the close frame.
  setTimeout(() => process.exit(0), 1000).unref();
  sockets.close(() => process.exit(0));
}
process.on('SIGTERM', stop);
process.on('SIGINT', stop);

const port = Number(process.argv[2]);
server.listen({ port, host: '127.0.0.1', backlog: BACKLOG }, () => console.error(`listening on 127.0.0.1:${port}`));
