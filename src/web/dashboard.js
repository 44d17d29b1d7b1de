/**
 * The page at `/dashboard`: the counters of `/v1/stats` as charts, looked at once a second while somebody can see them.
 * What is shown is made by the lists below: a name, how to get the number, and what its growth means.
 */

import { Chart, SPAN_S } from "/chart.js";
import { DemoUsers } from "/demo-users.js";
import { element, setText } from "/dom.js";
import { announce, el, hideNotice, showConnection, showNotice } from "/page.js";

const LOOK_EVERY_MS = 1_000;
const ANSWER_TIMEOUT_MS = 4_000;
/** After so long without a look there is nothing to draw a line through. */
const GAP_S = 5;

const whole = (value) => Math.round(value).toLocaleString();
const short = (value) => (value < 10 ? value.toLocaleString(undefined, { maximumFractionDigits: 1 }) : whole(value));
/** Charts have a value `of` one look or `between` two. */
const rate = (name) => (now, before, seconds) => (now[name] - before[name]) / seconds;

const CHARTS = [
  {
    title: "Users online", least: 5, format: whole, of: (now) => now.users,
    hint: "More people: memory and each newcomer's list grow with it, the cost of a heartbeat does not. A step without a cause outside is a bot, or tabs of one person under changing names.",
  },
  {
    title: "Connections", least: 5, format: whole, of: (now) => now.connections,
    hint: "Faster than users: people have several tabs or devices, or a client opens connections and does not close them. Up to --max-connections (about 1 KB of memory each); then newcomers are refused with 1013.",
  },
  {
    title: "Heartbeats per second", least: 5, format: short, between: rate("heartbeats"),
    hint: "One per connection and heartbeat interval is right. More: a client that beats too often. Each is one store in memory, some microseconds of the kernel, and nothing else.",
  },
  {
    title: "Deliveries per second", least: 5, format: short, between: rate("deliveries"),
    hint: "Changes × those who look, at most one per tick, room and connection. It grows with the square of a room whose people come and go: split large rooms, or observe them with detail “count”.",
  },
  {
    title: "Tick duration, mean", least: 1, format: (value) => `${value.toLocaleString(undefined, { maximumFractionDigits: 2 })} ms`,
    between: (now, before) => (now.ticks > before.ticks ? (now.tick_us - before.tick_us) / (now.ticks - before.ticks) / 1000 : null),
    hint: "A tick ends leases and encodes what changed. Near the tick interval (100 ms unless set) changes are told late: give it more cores, or fewer changes per room. One long tick is shown under the headline.",
  },
  {
    title: "CPU", least: 5, format: (value) => `${short(value)} %`, between: (now, before, seconds) => ((now.cpu_ns - before.cpu_ns) / 1e9 / seconds) * 100,
    hint: "Of one core; with N workers up to N × 100 %. When it is full, ticks are put off and everybody's news come later, but nobody is declared gone.",
  },
  {
    title: "Memory", least: 16, format: (value) => `${short(value)} MB`, of: (now) => (now.memory_bytes === undefined ? null : now.memory_bytes / 1e6),
    hint: "About 1 KB per connection. Growing while connections do not: clients that do not read (deliveries skipped grow too), or very many different rooms.",
  },
  {
    title: "Changes per second", least: 5, format: short, between: rate("changes"),
    hint: "Members who joined, changed their state or left. High while users stay the same: clients that reconnect again and again, or states that are used as a channel.",
  },
];

const STORE_CHARTS = [
  {
    title: "Redis commands per second", least: 5, format: short, between: rate("redis_commands"),
    hint: "At most one per user and half a ttl, whatever the heartbeats and tabs, and some for joins and leaves. Growing with heartbeats and not with users is an error worth reporting.",
  },
  {
    title: "Redis round trips per second", least: 5, format: short, between: rate("redis_flushes"),
    hint: "One pipeline carries up to a thousand commands. Many round trips with few commands each: a flush interval that is too short.",
  },
];

const TROUBLES = {
  ticks_missed: "The server is too busy for its pace: news come late. More cores or workers.",
  deliveries_skipped: "Clients that do not read in time were skipped; each gets a fresh list later. Slow networks, or pages that block.",
  connections_too_slow: "Clients that read nothing at all were dropped.",
  connections_timed_out: "Nothing was heard for a whole ttl: networks that break silently, or clients without heartbeats.",
  connections_refused: "There were more than --max-connections allows. Raise it, or add a node.",
  messages_refused: "Messages answered with an error: a client with a bug, or one of another version.",
  protocol_violations: "Something that is no WebSocket client, or a proxy that breaks frames.",
  accept_errors: "Out of file descriptors or memory: raise the limit of the process.",
};

const charts = new Map();
const rows = new Map();
/** Looks of the last two minutes, for the table. */
let looks = [];
let timer = 0;

function chartsInto(node, list) {
  for (const chart of list) {
    charts.set(chart, new Chart(chart));
    node.append(charts.get(chart).node);
  }
}

async function look() {
  const response = await fetch("/v1/stats", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
  if (!response.ok) throw new Error(`/v1/stats answers ${response.status}`);
  return response.json();
}

function show(now) {
  const time = performance.now() / 1000;
  const last = looks.at(-1);
  // Another life of the server, or another server behind the same address, counts from zero.
  const goesOn = last && last.now.node === now.node && now.uptime_ms > last.now.uptime_ms;
  const seconds = goesOn ? (now.uptime_ms - last.now.uptime_ms) / 1000 : 0;
  if (!goesOn) looks = [];
  const usesRedis = now.redis_commands !== undefined;
  if (usesRedis && el["store-charts"].childElementCount === 0) chartsInto(el["store-charts"], STORE_CHARTS);
  for (const [chart, drawn] of charts) {
    if (seconds > GAP_S || (last && !goesOn)) drawn.add(time, null);
    const value = chart.of ? chart.of(now) : goesOn && chart.between(now, last.now, seconds);
    if (value !== false) drawn.add(time, Number.isFinite(value) ? value : null);
  }
  looks.push({ time, now });
  while (looks[0].time < time - SPAN_S) looks.shift();
  showFacts(now);
  showStore(now, usesRedis);
  showTroubles(now);
}

function showFacts(now) {
  const hours = now.uptime_ms / 3_600_000;
  const uptime = hours < 1 ? `${Math.floor(now.uptime_ms / 60_000)} min` : `${hours.toFixed(hours < 48 ? 1 : 0)} h`;
  const facts = [now.node, `up ${uptime}`, `${whole(now.rooms)} ${now.rooms === 1 ? "room" : "rooms"}`, `longest tick ${short(now.tick_us_max / 1000)} ms`];
  el.wire.replaceChildren(...facts.map((fact) => element("span", "", fact)));
}

function showStore(now, usesRedis) {
  if (!usesRedis) {
    setText(el["store-text"], "The store is memory: one node, nothing leaves this process, so there is nothing to save. Started with --redis, this shows how many heartbeats became how few commands.");
    return;
  }
  el.saved.hidden = false;
  setText(el.saved, `${whole(now.heartbeats)} heartbeats → ${whole(now.redis_commands)} commands in ${whole(now.redis_flushes)} round trips`);
  setText(el["store-text"], now.degraded_since
    ? `Redis has not answered since ${new Date(now.degraded_since).toLocaleTimeString()}: nobody is told to have left meanwhile, and what changed is written when it is back.`
    : "One command per heartbeat is what it would be without the local cache and its batches.");
  el.saved.dataset.degraded = String(Boolean(now.degraded_since));
}

function showTroubles(now) {
  for (const [name, hint] of Object.entries(TROUBLES)) {
    if (now[name] === undefined) continue;
    if (!rows.has(name)) {
      const cells = { total: element("td", ""), lately: element("td", "") };
      const heading = element("th", "", element("code", "", name));
      heading.scope = "row";
      el.troubles.append(element("tr", "", heading, cells.total, cells.lately, element("td", "trouble-hint", hint)));
      rows.set(name, cells);
    }
    const lately = now[name] - looks[0].now[name];
    const { total, lately: cell } = rows.get(name);
    setText(total, whole(now[name]));
    setText(cell, lately > 0 ? `+${whole(lately)}` : "0");
    cell.className = lately > 0 ? "grows" : "";
  }
}

async function lookAgain() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    show(await look());
    hideNotice(() => el.headline.focus());
    showConnection({ phase: "online" });
    setText(el["connection-text"], "Live");
  } catch (error) {
    // A page that is hidden or left meanwhile has not lost anything.
    if (document.hidden) return;
    showNotice("The server does not answer", `No numbers from ${location.host}: ${error.message}. Asked again each second.`);
    showConnection({ phase: "waiting", retryAt: 0 });
  }
  clearTimeout(timer);
  timer = setTimeout(lookAgain, LOOK_EVERY_MS);
}

/* -------------------------------------------------------------------------------------------------------- demo users */

const demo = new DemoUsers(() => {
  showDemo();
  announce(demo.running ? `${DemoUsers.count} demo users are coming.` : "The demo users have gone.");
});

function showDemo() {
  setText(el.demo, demo.running ? `Stop the demo users (${demo.secondsLeft} s)` : `Bring in ${DemoUsers.count} demo users`);
}

el.demo.addEventListener("click", () => (demo.running ? demo.stop() : demo.start()));
setInterval(showDemo, 500);

chartsInto(el.charts, CHARTS);
el.retry.addEventListener("click", lookAgain);
document.addEventListener("visibilitychange", lookAgain);
lookAgain();
