/** What the dashboard shows: each chart and counter of `/v1/stats`, its format, and what it means if it grows. */

export const formatWhole = (value) => Math.round(value).toLocaleString();
export const formatShort = (value) =>
  value < 10 ? value.toLocaleString(undefined, { maximumFractionDigits: 1 }) : formatWhole(value);

/**
 * A chart has a `value` of one sample, or a `difference` between two samples. It is about this node, unless it says
 * `wholeCluster`.
 */
const perSecond = (name) => (now, before, seconds) => (now[name] - before[name]) / seconds;

export const CHARTS = [
  {
    title: "Users online",
    minEnd: 5,
    format: formatWhole,
    wholeCluster: true,
    value: (stats) => stats.users,
    hint:
      "Memory and the list for each newcomer grow with the users; the cost of a heartbeat does not. A sudden step " +
      "is often a bot, or one person with tabs under changing names.",
  },
  {
    title: "Connections",
    minEnd: 5,
    format: formatWhole,
    value: (stats) => stats.connections,
    hint:
      "If connections grow faster than users, people have several tabs or devices, or a client opens connections " +
      "without closing them. Each needs about half a KB of memory. At --max-connections, new ones are refused with close " +
      "code 1013.",
  },
  {
    title: "Heartbeats per second",
    minEnd: 5,
    format: formatShort,
    difference: perSecond("heartbeats"),
    hint:
      "Expect one per connection and heartbeat interval. If there are more, a client sends heartbeats too often. " +
      "Each costs some microseconds in the kernel and one write to memory.",
  },
  {
    title: "Deliveries per second",
    minEnd: 5,
    format: formatShort,
    difference: perSecond("deliveries"),
    hint:
      "Changes × observers, at most one per tick, room and connection. In a room whose users come and go it grows " +
      "with the square of the users: split large rooms, or observe them with detail “count”.",
  },
  {
    title: "Tick duration, mean",
    minEnd: 1,
    format: (value) => `${value.toLocaleString(undefined, { maximumFractionDigits: 2 })} ms`,
    difference(now, before) {
      const ticks = now.ticks - before.ticks;
      return ticks > 0 ? (now.tick_us - before.tick_us) / ticks / 1000 : null;
    },
    hint:
      "A tick ends leases and encodes changes. Near the tick interval (100 ms by default) changes are sent late: " +
      "use more cores, or cause fewer changes per room. The longest tick is shown below the headline.",
  },
  {
    title: "CPU",
    minEnd: 5,
    format: (value) => `${formatShort(value)} %`,
    difference: (now, before, seconds) => ((now.cpu_ns - before.cpu_ns) / 1e9 / seconds) * 100,
    hint:
      "100 % is one core; N workers use little more than N × 100 %. At the limit ticks are late and so are all changes, " +
      "but no user is reported as gone.",
  },
  {
    title: "Memory",
    minEnd: 16,
    format: (value) => `${formatShort(value)} MB`,
    value: (stats) => (stats.memory_bytes === undefined ? null : stats.memory_bytes / 1e6),
    hint:
      "About half a KB per connection. If memory grows and connections do not, clients do not read (deliveries_skipped " +
      "grows, too), or there are very many rooms.",
  },
  {
    title: "Changes per second",
    minEnd: 5,
    format: formatShort,
    difference: perSecond("changes"),
    hint:
      "Members who joined, changed their state or left. If it is high while the number of users is stable, clients " +
      "reconnect repeatedly, or use states to send messages.",
  },
];

/** Shown only if the store is Redis. */
export const STORE_CHARTS = [
  {
    title: "Redis commands per second",
    minEnd: 5,
    format: formatShort,
    difference: perSecond("redis_commands"),
    hint:
      "At most one per user and half a ttl, however many heartbeats and tabs there are, and a few for joins and " +
      "leaves. If it grows with heartbeats instead of users, please report it as a bug.",
  },
  {
    title: "Redis round trips per second",
    minEnd: 5,
    format: formatShort,
    difference: perSecond("redis_flushes"),
    hint:
      "One pipeline carries up to 1,000 commands. If there are many round trips with few commands, the flush " +
      "interval is too short.",
  },
];

function perMinuteOf(count, _, minutes) {
  return count / minutes;
}

const percentOf = (count, whole) => (whole > 0 ? (count / whole) * 100 : 0);

/**
 * Counters that should stay low: `rate` is computed from the increase of the counter, the increase of all counters, and
 * the time in minutes. If it is above `limit`, the hint says what that means.
 */
export const PROBLEM_COUNTERS = {
  ticks_missed: {
    rate: (count, all) => percentOf(count, all.ticks + count),
    limit: 1,
    unit: "% of ticks",
    hint: "The server is too busy for its tick interval, so changes are sent late. Add cores or workers.",
  },
  deliveries_skipped: {
    rate: (count, all) => percentOf(count, all.deliveries + count),
    limit: 1,
    unit: "% of deliveries",
    hint: "Clients did not read in time and get a new snapshot later. Their network is slow, or their page is blocked.",
  },
  connections_too_slow: {
    rate: perMinuteOf,
    limit: 1,
    hint: "Connections were dropped because their clients did not read at all.",
  },
  connections_timed_out: {
    rate: perMinuteOf,
    limit: 10,
    hint: "Connections were silent for a whole ttl. Networks broke silently, or clients send no heartbeats.",
  },
  connections_refused: {
    rate: perMinuteOf,
    limit: 0,
    hint: "There were more connections than --max-connections allows. Raise it, or add a node.",
  },
  pauses: {
    rate: perMinuteOf,
    limit: 60,
    hint: "The server slowed clients that exceeded a work budget. A client has a bug, or is an attacker.",
  },
  turns_waited: {
    rate: perMinuteOf,
    limit: 600,
    hint: "Clients changed more than a tick can carry, so they took turns. A few clients may have caused most of it.",
  },
  connections_over_limit: {
    rate: perMinuteOf,
    limit: 0,
    hint: "Connections were closed because their clients kept exceeding a work budget.",
  },
  tls_handshakes_failed: {
    rate: perMinuteOf,
    limit: 10,
    hint: "TLS handshakes failed. Clients do not trust the certificate, or it has expired; scanners cause a few as well.",
  },
  connections_over_quota: {
    rate: perMinuteOf,
    limit: 0,
    hint:
      "Connections were refused because a user or an address has as many as it may: --connections-per-user, " +
      "--connections-per-address. A proxy that is not in --trust-proxy counts as one address.",
  },
  sockets_over_quota: {
    rate: perMinuteOf,
    limit: 0,
    hint: "An address has too many connections that complete no request: a flood, or a proxy that is not in --trust-proxy.",
  },
  arrivals_refused: {
    rate: perMinuteOf,
    limit: 0,
    hint: "An address opens connections too fast: a flood, or a proxy that is not in --trust-proxy.",
  },
  rooms_refused: {
    rate: perMinuteOf,
    limit: 0,
    hint: "Rooms were not opened: there are as many as --max-rooms allows, or nearly, and a client has its share.",
  },
  states_refused: {
    rate: perMinuteOf,
    limit: 0,
    hint: "States were not set: they take as much memory as --max-state allows, or nearly, and a client has its share.",
  },
  rest_users_refused: {
    rate: perMinuteOf,
    limit: 0,
    hint: "Too many users are online through REST heartbeats, of one address or of all together.",
  },
  messages_refused: {
    rate: perMinuteOf,
    limit: 10,
    hint: "Messages were answered with an error. A client has a bug, or expects another version.",
  },
  protocol_violations: {
    rate: perMinuteOf,
    limit: 1,
    hint: "A client does not speak WebSocket correctly, or a proxy damages frames.",
  },
  accept_errors: {
    rate: perMinuteOf,
    limit: 0,
    hint: "The process is out of file descriptors or memory. Raise its limits.",
  },
};
