/** The page `/dashboard`: polls `/v1/stats` once per second while it is visible. counters.js defines what it shows. */

import { Chart, MAX_SPAN_S } from "/chart.js";
import { CHARTS, formatShort, formatWhole, PROBLEM_COUNTERS, STORE_CHARTS } from "/counters.js";
import { DemoUsers } from "/demo-users.js";
import { element, setText } from "/dom.js";
import { announce, el, hideNotice, showConnection, showNotice } from "/page.js";

const POLL_INTERVAL_MS = 1_000;
const MAX_REQUESTS_PER_POLL = 5;
const POLL_TIMEOUT_MS = 4_000;
/** After this time without a sample, the line of a chart is interrupted. */
const GAP_S = 5;

/** Definition → chart. */
const charts = new Map();
/** Counter → cells of its row in the table of problems. */
const rows = new Map();
/** The samples of the time shown, each `{ time, stats }`. */
let samples = [];
let timer = 0;

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
    const response = await fetch("/v1/stats", { cache: "no-store", signal });
    if (!response.ok) throw new Error(`/v1/stats answers ${response.status}`);
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
  samples.push({ time, stats });
  while (samples[0].time < time - MAX_SPAN_S) samples.shift();
  showFacts(stats);
  showStore(stats, usesRedis);
  showProblems(stats);
}

function showFacts(stats) {
  const hours = stats.uptime_ms / 3_600_000;
  const uptime = hours < 1 ? `${Math.floor(stats.uptime_ms / 60_000)} min` : `${hours.toFixed(hours < 48 ? 1 : 0)} h`;
  const rooms = `${formatWhole(stats.rooms)} ${stats.rooms === 1 ? "room" : "rooms"}`;
  const facts = [stats.node, `up ${uptime}`, rooms, `longest tick ${formatShort(stats.tick_us_max / 1000)} ms`];
  el.facts.replaceChildren(...facts.map((fact) => element("span", "", fact)));
}

function showStore(stats, usesRedis) {
  if (!usesRedis) {
    setText(el["store-text"], "The store is memory: this node works alone. With --redis, this shows how many heartbeats " +
      "became how many Redis commands.");
    return;
  }
  el["redis-summary"].hidden = false;
  const commands = `${formatWhole(stats.redis_commands)} commands in ${formatWhole(stats.redis_flushes)} round trips`;
  setText(el["redis-summary"], `${formatWhole(stats.heartbeats)} heartbeats → ${commands}`);
  setText(el["store-text"], stats.degraded_since
    ? `Redis has not answered since ${new Date(stats.degraded_since).toLocaleTimeString()}. Users of other nodes stay ` +
      "as they were; changes are written when Redis is back."
    : "Without the local cache and its batches, each heartbeat would be one command.");
  el["redis-summary"].dataset.degraded = String(Boolean(stats.degraded_since));
}

function showProblems(stats) {
  for (const [name, hint] of Object.entries(PROBLEM_COUNTERS)) {
    if (stats[name] === undefined) continue;
    if (!rows.has(name)) rows.set(name, addProblemRow(name, hint));
    const increase = stats[name] - samples[0].stats[name];
    const { total, recent } = rows.get(name);
    setText(total, formatWhole(stats[name]));
    setText(recent, increase > 0 ? `+${formatWhole(increase)}` : "0");
    recent.className = increase > 0 ? "increased" : "";
  }
}

function addProblemRow(name, hint) {
  const cells = { total: element("td", ""), recent: element("td", "") };
  const heading = element("th", "", element("code", "", name));
  heading.scope = "row";
  el.problems.append(element("tr", "", heading, cells.total, cells.recent, element("td", "problem-hint", hint)));
  return cells;
}

async function update() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    show(await poll());
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
