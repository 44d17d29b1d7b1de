// The HTTP API that the load generator compares results with.
'use strict';

const PAGE = 1000;

function serve(app, rooms, native, status) {
  const json = (path, answer) => app.get(path, (res, req) => {
    res.writeHeader('content-type', 'application/json').end(JSON.stringify(answer(req)));
  });
  // Users of the online-status protocol have no room. They are listed as the lobby if no native user is in it.
  const room = (req) => {
    const name = decodeURIComponent(req.getParameter(0));
    return rooms.byName.get(name) ?? (name === 'lobby' && status.users.size > 0 ? status.lobby() : undefined);
  };

  json('/v1/rooms/:room/members', (req) => {
    const query = new URLSearchParams(req.getQuery());
    return members(decodeURIComponent(req.getParameter(0)), room(req), query);
  });
  json('/v1/rooms/:room/count', (req) => {
    return { room: decodeURIComponent(req.getParameter(0)), count: room(req)?.list().length ?? 0 };
  });
  json('/v1/rooms', () => {
    const counted = [...rooms.byName.values()].map(({ name, announced }) => ({ room: name, count: announced.size }));
    return { rooms: counted.filter(({ count }) => count > 0).sort((a, b) => (a.room < b.room ? -1 : 1)) };
  });
  json('/v1/stats', () => ({ node: 'uwebsockets', rooms: rooms.byName.size, ...native.counters }));
  json('/ws-online-status/users', () => ({ online_users: [...status.users.keys()].sort() }));
  json('/livez', () => ({ status: 'ok' }));
  json('/readyz', () => ({ status: 'ok' }));
  app.any('/*', (res) => res.writeStatus('404 Not Found').end('{"error":{"code":"not_found","message":"not found"}}'));
}

function members(name, room, query) {
  if (!room) return { room: name, epoch: '', seq: 0, count: 0, members: [] };
  const after = query.get('after') ?? '';
  const limit = Math.min(Number(query.get('limit')) || PAGE, PAGE);
  const users = room.list();
  const start = users.findIndex((user) => user > after);
  const page = start < 0 ? [] : users.slice(start, start + limit);
  const answer = { room: name, epoch: room.epoch, seq: room.seq, count: users.length };
  answer.members = page.map((user) => ({ user }));
  if (start >= 0 && start + limit < users.length) answer.next = page.at(-1);
  return answer;
}

module.exports = { serve };
