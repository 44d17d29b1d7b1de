/**
 * The page at `/dashboard`: the counters of `/v1/stats` as charts, looked at once a second while somebody can see them.
 * What is shown, and what it means, is in numbers.js.
 */

import { Chart, SPAN_S } from "/chart.js";
import { DemoUsers } from "/demo-users.js";
import { element, setText } from "/dom.js";
import { CHARTS, short, STORE_CHARTS, TROUBLES, whole } from "/numbers.js";
import { announce, el, hideNotice, showConnection, showNotice } from "/page.js";

const LOOK_EVERY_MS = 1_000;
const ASK_NODES = 5;
const ANSWER_TIMEOUT_MS = 4_000;
/** After so long without a look there is nothing to draw a line through. */
const GAP_S = 5;

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

/** Behind a balancer each answer may be another node's: a few more are asked for until one is of the node that is shown. */
async function look() {
  const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
  const shown = looks.at(-1)?.now.node;
  let stats;
  for (let tries = 0; tries < ASK_NODES && (!stats || (shown && stats.node !== shown)); tries++) {
    const response = await fetch("/v1/stats", { cache: "no-store", signal });
    if (!response.ok) throw new Error(`/v1/stats answers ${response.status}`);
    stats = await response.json();
  }
  return stats;
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
  const rooms = `${whole(now.rooms)} ${now.rooms === 1 ? "room" : "rooms"}`;
  const facts = [now.node, `up ${uptime}`, rooms, `longest tick ${short(now.tick_us_max / 1000)} ms`];
  el.wire.replaceChildren(...facts.map((fact) => element("span", "", fact)));
}

function showStore(now, usesRedis) {
  if (!usesRedis) {
    setText(el["store-text"], "The store is memory: one node, nothing leaves this process, so there is nothing to save. " +
      "Started with --redis, this shows how many heartbeats became how few commands.");
    return;
  }
  el.saved.hidden = false;
  const commands = `${whole(now.redis_commands)} commands in ${whole(now.redis_flushes)} round trips`;
  setText(el.saved, `${whole(now.heartbeats)} heartbeats → ${commands}`);
  setText(el["store-text"], now.degraded_since
    ? `Redis has not answered since ${new Date(now.degraded_since).toLocaleTimeString()}: nobody is told to have left ` +
      "meanwhile, and what changed is written when it is back."
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
