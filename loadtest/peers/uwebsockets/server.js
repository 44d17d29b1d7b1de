// A presence server on uWebSockets.js: rollcall's native and online-status protocols, and the HTTP API that the load
// generator uses. One process, one thread. Usage: node server.js PORT
'use strict';

const uWS = require('@trufflesuite/uws-js-unofficial');
const { Rooms } = require('./rooms');
const { Native } = require('./native');
const { Status } = require('./status');
const api = require('./api');

const STATS_LOG_MS = 30_000;
const GOING_AWAY = 1012;

// If its binary does not load, the package falls back to a JavaScript implementation, which is not what is compared
// here.
if (!Object.keys(require.cache).some((path) => path.endsWith('.node'))) {
  console.error('the binary of uWebSockets.js did not load');
  process.exit(1);
}

const port = Number(process.argv[2]);
const app = uWS.App();
const rooms = new Rooms(app);
const native = new Native(app, rooms);
const status = new Status(app);
api.serve(app, rooms, native, status);

setInterval(() => {
  console.error(`native: ${rooms.byName.size} rooms, ${native.sessions.size} sessions`);
  console.error(`online-status: ${status.users.size} users, ${status.sockets.size} connections`);
}, STATS_LOG_MS);

app.listen('127.0.0.1', port, (listener) => {
  if (!listener) {
    console.error(`cannot listen on port ${port}`);
    process.exit(1);
  }
  console.error(`listening on 127.0.0.1:${port}`);
  const stop = () => {
    uWS.us_listen_socket_close(listener);
    native.endAll(GOING_AWAY);
    status.endAll(GOING_AWAY);
    process.exit(0);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
});
