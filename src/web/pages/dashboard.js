/** The page `/dashboard`: polls `/v1/stats` once per second while it is visible. counters.js defines what it shows. */

import { Chart, MAX_SPAN_S } from "/chart.js";
import { CHARTS, formatShort, formatWhole, PROBLEM_COUNTERS, STORE_CHARTS } from "/counters.js";
import { DemoUsers } from "/demo-users.js";
import { element, setText } from "/dom.js";
import { announce, el, hideNotice, showConnection, showNotice } from "/page.js";

const POLL_INTERVAL_MS = 1_000;
const MAX_REQUESTS_PER_POLL = 5;
const POLL_TIMEOUT_MS = 4_000;
/** What happens in the first seconds of a server says nothing about its load. */
const STARTUP_MS = 10_000;
/** Rates over a shorter time say little. */
const MIN_RATE_S = 10;
/** The batches show in the headline if this many heartbeats became one command. */
const MIN_BATCH = 2;
/** After this time without a sample, the line of a chart is interrupted. */
const GAP_S = 5;

/** Definition → chart. */
const charts = new Map();
/** Counter → cells of its row in the table of problems. */
const rows = new Map();
/** The samples of the time shown, each `{ time, at, stats }`. */
let samples = [];
let timer = 0;
/** What the server requires to show its counters, if it was typed. Only here: it is not stored, and never in a URL. */
let key = "";

function addCharts(node, definitions) {
  for (const definition of definitions) {
    charts.set(definition, new Chart(definition));
    node.append(charts.get(definition).node);
  }
}

/** Behind a load balancer, answers come from different nodes. Tries again until the node on the page answers. */
async function poll() {
  const signal = AbortSignal.timeout(POLL_TIMEOUT_MS);
  const node = samples.at(-1)?.stats.node;
  let stats;
  for (let requests = 0; requests < MAX_REQUESTS_PER_POLL; requests += 1) {
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    const response = await fetch("v1/stats", { cache: "no-store", redirect: "error", headers, signal });
    if ([401, 403].includes(response.status)) return null;
    if (!response.ok) throw new Error(`v1/stats answers ${response.status}`);
    stats = await response.json();
    if (!node || stats.node === node) break;
  }
  return stats;
}

function show(stats) {
  const time = performance.now() / 1000;
  const last = samples.at(-1);
  // The counters of a restarted server, or of another node, start at zero.
  const continued = last && last.stats.node === stats.node && stats.uptime_ms > last.stats.uptime_ms;
  const seconds = continued ? (stats.uptime_ms - last.stats.uptime_ms) / 1000 : 0;
  if (!continued) samples = [];
  const usesRedis = stats.redis_commands !== undefined;
  if (usesRedis && el["store-charts"].childElementCount === 0) addCharts(el["store-charts"], STORE_CHARTS);
  for (const [{ value, difference }, chart] of charts) {
    if (seconds > GAP_S || (last && !continued)) chart.add(time, null);
    const point = value ? value(stats) : continued && difference(stats, last.stats, seconds);
    if (point !== false) chart.add(time, Number.isFinite(point) ? point : null);
  }
  samples.push({ time, at: new Date(), stats });
  while (samples[0].time < time - MAX_SPAN_S) samples.shift();
  showFacts(stats);
  showStore(stats, usesRedis);
  showProblems(stats);
}

function showFacts(stats) {
  const hours = stats.uptime_ms / 3_600_000;
  const uptime = hours < 1 ? `${Math.floor(stats.uptime_ms / 60_000)} min` : `${hours.toFixed(hours < 48 ? 1 : 0)} h`;
  const isCluster = stats.redis_commands !== undefined;
  document.body.dataset.cluster = String(isCluster);
  const rooms = `${formatWhole(stats.rooms)} ${stats.rooms === 1 ? "room" : "rooms"}${isCluster ? " on all nodes" : ""}`;
  const node = isCluster ? `this node: ${stats.node}` : stats.node;
  const facts = [node, `up ${uptime}`, rooms, `longest tick ${formatShort(stats.tick_us_max / 1000)} ms`];
  if (stats.connections_over_budget > 0) facts.push(`${formatWhole(stats.connections_over_budget)} over a work budget`);
  el.facts.replaceChildren(...facts.map((fact) => element("span", "", fact)));
}

function showStore(stats, usesRedis) {
  if (!usesRedis) {
    setText(el["store-text"], "The store is memory: this node works alone. With --redis, this shows how many heartbeats " +
      "became how many Redis commands.");
    return;
  }
  // At low load each user and join needs its own commands, and nothing is there to put together.
  el["redis-summary"].hidden = stats.heartbeats < MIN_BATCH * stats.redis_commands;
  const commands = `${formatWhole(stats.redis_commands)} commands in ${formatWhole(stats.redis_flushes)} round trips`;
  setText(el["redis-summary"], `${formatWhole(stats.heartbeats)} heartbeats → ${commands}`);
  setText(el["store-text"], stats.degraded_since
    ? `Redis has not answered since ${new Date(stats.degraded_since).toLocaleTimeString()}. Users of other nodes stay ` +
      "as they were; changes are written when Redis is back."
    : "Commands of this node. Without the local cache and its batches, each heartbeat would be one command.");
  el["redis-summary"].dataset.degraded = String(Boolean(stats.degraded_since));
}

function showProblems(stats) {
  const first = samples.find((sample) => sample.stats.uptime_ms >= STARTUP_MS);
  const seconds = first ? (stats.uptime_ms - first.stats.uptime_ms) / 1000 : 0;
  const since = seconds > 0 ? `Since ${first.at.toLocaleTimeString()}` : "Count";
  setText(el.since, since);
  for (const [name, problem] of Object.entries(PROBLEM_COUNTERS)) {
    if (stats[name] === undefined) continue;
    if (!rows.has(name)) rows.set(name, addProblemRow(name, problem));
    rows.get(name).count.dataset.label = since;
    showProblem(problem, rows.get(name), name, seconds, first && increases(stats, first.stats));
  }
}

/** By how much each counter has grown. */
function increases(now, before) {
  return Object.fromEntries(Object.keys(now).map((name) => [name, now[name] - (before[name] ?? 0)]));
}

function showProblem({ rate, limit, unit }, cells, name, seconds, all) {
  const count = all?.[name] ?? 0;
  setText(cells.count, seconds > 0 ? formatWhole(count) : "–");
  const value = seconds >= MIN_RATE_S ? rate(count, all, seconds / 60) : null;
  setText(cells.rate, value === null ? "–" : `${formatShort(value)}${unitOf(unit)}`);
  cells.row.className = value > limit ? "above" : "";
}

const unitOf = (unit) => (unit ? ` ${unit}` : " per minute");

function addProblemRow(name, { limit, unit, hint }) {
  const cell = (label, text, className = "") => {
    const node = element("td", className, text);
    // Shown in front of the cell in narrow windows, where the table has no columns.
    node.dataset.label = label;
    return node;
  };
  const count = cell("Count", "–");
  const rate = cell("Rate", "–");
  const heading = element("th", "", element("code", "", name));
  heading.scope = "row";
  const row = element("tr", "", heading, count, rate, cell("Limit", `${limit}${unitOf(unit)}`),
    cell("If above", hint, "problem-hint"));
  el.problems.append(row);
  return { count, rate, row };
}

async function update() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const stats = await poll();
    if (stats === null) return askForKey();
    el["key-form"].hidden = true;
    show(stats);
    hideNotice(() => el.headline.focus());
    showConnection({ phase: "online" });
    setText(el["connection-text"], "Live");
  } catch (error) {
    // Hiding or leaving the page cancels the request; the server is not at fault.
    if (document.hidden) return;
    const text = `No counters from ${location.host}: ${error.message}. Trying again every second.`;
    showNotice("The server does not answer", text);
    showConnection({ phase: "waiting", retryAt: 0 });
  }
  clearTimeout(timer);
  timer = setTimeout(update, POLL_INTERVAL_MS);
}

/* --------------------------------------------------------------------------------------------------------------- key */

/** Others on the network could read a key that is sent without TLS. Browsers call TLS and loopback secure. */
function askForKey() {
  const hint = key ? "The server does not accept this key." : "It stays in the memory of this page.";
  key = "";
  el["key-form"].hidden = false;
  el.key.disabled = !isSecureContext;
  setText(el["key-hint"], isSecureContext ? hint : "Open this page with https://, or on the machine of the server.");
  showConnection({ phase: "idle" });
  setText(el["connection-text"], "Needs a key");
}

el["key-form"].addEventListener("submit", (event) => {
  event.preventDefault();
  if (!isSecureContext) return;
  key = el.key.value.trim();
  el.key.value = "";
  if (key) update();
});

/* ------------------------------------------------------------------------------------------------------- demo users */

const demo = new DemoUsers(() => {
  showDemo();
  announce(demo.running ? `${DemoUsers.count} demo users are joining.` : "The demo users have left.");
});

function showDemo() {
  setText(el.demo, demo.running ? `Stop the demo users (${demo.secondsLeft} s)` : `Add ${DemoUsers.count} demo users`);
}

el.demo.addEventListener("click", () => (demo.running ? demo.stop() : demo.start()));
setInterval(showDemo, 500);

addCharts(el.charts, CHARTS);
el.retry.addEventListener("click", update);
document.addEventListener("visibilitychange", update);
update();
