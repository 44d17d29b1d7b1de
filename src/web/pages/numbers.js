/** What the dashboard shows: each number of `/v1/stats`, how it is got and written, and what its growth means. */

export const whole = (value) => Math.round(value).toLocaleString();
export const short = (value) => (value < 10 ? value.toLocaleString(undefined, { maximumFractionDigits: 1 }) : whole(value));
/** Charts have a value `of` one look or `between` two. */
const rate = (name) => (now, before, seconds) => (now[name] - before[name]) / seconds;

/** What is drawn always. */
export const CHARTS = [
  {
    title: "Users online",
    least: 5,
    format: whole,
    of: (now) => now.users,
    hint:
      "More people: memory and each newcomer's list grow with it, the cost of a heartbeat does not. A step without " +
      "a cause outside is a bot, or tabs of one person under changing names.",
  },
  {
    title: "Connections",
    least: 5,
    format: whole,
    of: (now) => now.connections,
    hint:
      "Faster than users: people have several tabs or devices, or a client opens connections and does not close " +
      "them. Up to --max-connections (about 1 KB of memory each); then newcomers are refused with 1013.",
  },
  {
    title: "Heartbeats per second",
    least: 5,
    format: short,
    between: rate("heartbeats"),
    hint:
      "One per connection and heartbeat interval is right. More: a client that beats too often. Each is one store " +
      "in memory, some microseconds of the kernel, and nothing else.",
  },
  {
    title: "Deliveries per second",
    least: 5,
    format: short,
    between: rate("deliveries"),
    hint:
      "Changes × those who look, at most one per tick, room and connection. It grows with the square of a room " +
      "whose people come and go: split large rooms, or observe them with detail “count”.",
  },
  {
    title: "Tick duration, mean",
    least: 1,
    format: (value) => `${value.toLocaleString(undefined, { maximumFractionDigits: 2 })} ms`,
    between: (now, before) => (now.ticks > before.ticks ? (now.tick_us - before.tick_us) / (now.ticks - before.ticks) / 1000 : null),
    hint:
      "A tick ends leases and encodes what changed. Near the tick interval (100 ms unless set) changes are told " +
      "late: give it more cores, or fewer changes per room. One long tick is shown under the headline.",
  },
  {
    title: "CPU",
    least: 5,
    format: (value) => `${short(value)} %`,
    between: (now, before, seconds) => ((now.cpu_ns - before.cpu_ns) / 1e9 / seconds) * 100,
    hint:
      "Of one core; with N workers up to N × 100 %. When it is full, ticks are put off and everybody's news come " +
      "later, but nobody is declared gone.",
  },
  {
    title: "Memory",
    least: 16,
    format: (value) => `${short(value)} MB`,
    of: (now) => (now.memory_bytes === undefined ? null : now.memory_bytes / 1e6),
    hint:
      "About 1 KB per connection. Growing while connections do not: clients that do not read (deliveries skipped " +
      "grow too), or very many different rooms.",
  },
  {
    title: "Changes per second",
    least: 5,
    format: short,
    between: rate("changes"),
    hint:
      "Members who joined, changed their state or left. High while users stay the same: clients that reconnect " +
      "again and again, or states that are used as a channel.",
  },
];

/** What is drawn when the store is Redis. */
export const STORE_CHARTS = [
  {
    title: "Redis commands per second",
    least: 5,
    format: short,
    between: rate("redis_commands"),
    hint:
      "At most one per user and half a ttl, whatever the heartbeats and tabs, and some for joins and leaves. " +
      "Growing with heartbeats and not with users is an error worth reporting.",
  },
  {
    title: "Redis round trips per second",
    least: 5,
    format: short,
    between: rate("redis_flushes"),
    hint:
      "One pipeline carries up to a thousand commands. Many round trips with few commands each: a flush interval " +
      "that is too short.",
  },
];

/** Counters that should stand still, and what it means when they do not. */
export const TROUBLES = {
  ticks_missed: "The server is too busy for its pace: news come late. More cores or workers.",
  deliveries_skipped:
    "Clients that do not read in time were skipped; each gets a fresh list later. Slow networks, or pages that " +
    "block.",
  connections_too_slow: "Clients that read nothing at all were dropped.",
  connections_timed_out: "Nothing was heard for a whole ttl: networks that break silently, or clients without heartbeats.",
  connections_refused: "There were more than --max-connections allows. Raise it, or add a node.",
  messages_refused: "Messages answered with an error: a client with a bug, or one of another version.",
  protocol_violations: "Something that is no WebSocket client, or a proxy that breaks frames.",
  accept_errors: "Out of file descriptors or memory: raise the limit of the process.",
};
