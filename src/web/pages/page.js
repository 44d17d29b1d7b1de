/**
 * Shared by the pages: elements by id, announcements for screen readers, the notice that explains a problem, and the
 * connection status in the header.
 */

import { setText } from "/dom.js";

/** Of several changes within this time, only the last is announced. */
const ANNOUNCE_AFTER_MS = 1_000;
const DIAGNOSE_TIMEOUT_MS = 4_000;

/** Every element that has an id. */
export const el = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));

/** The address for presence.js. Like all addresses of the pages it is relative, so that they work below a prefix. */
export const PRESENCE = "v1/connect";

// The links scroll sideways in a narrow window: the one to this page is in view.
const links = document.querySelector(".pages");
const current = links?.querySelector("[aria-current]");
if (current) links.scrollLeft = current.offsetLeft + current.offsetWidth - links.clientWidth;

/* ---------------------------------------------------------------------------------------------------- announcements */

let announceTimer = 0;

export function announce(text) {
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => (el.announcer.textContent = text), ANNOUNCE_AFTER_MS);
}

export const people = (count) => `${count.toLocaleString()} ${count === 1 ? "person" : "people"}`;

/* --------------------------------------------------------------------------------------------------------- problems */

/** Reasons with which the server ends the connections of a user. */
const REFUSALS = {
  removed: ["You were removed", "An administrator of this server took you offline. The others no longer see you."],
  "signed out": ["You were signed out", "You signed out in this browser, so you are offline."],
};

/** Title and text for the cause of a lost connection. */
function explain(cause) {
  const host = location.host;
  const isLocal = /^(localhost|127\.|\[::1\])/.test(host);
  if (!navigator.onLine && !isLocal) {
    return ["This device is offline", "The page is updated again when the network is back."];
  }
  switch (cause.kind) {
    case "unreachable":
      return ["The server cannot be reached",
        `Nothing answers at ${host}. The server is not running, or the network in between is down.`];
    case "blocked":
      return ["The live connection does not get through",
        `The server at ${host} answers HTTP requests, but no WebSocket can be opened. A proxy may block WebSockets.`];
    case "timeout":
      return ["The server does not answer", `${host} accepts the connection but sends nothing.`];
    case "silent":
      return ["The connection went silent", `Nothing arrives from ${host} any more, not even the answer to a probe.`];
    case "restarting":
      return ["The server is restarting", "It announced the restart and will be back in a moment."];
    case "busy":
      return ["The server is full", "It accepts no more connections at the moment. This page tries again later."];
    case "refused":
      return REFUSALS[cause.reason] ?? ["The server refused the connection", cause.reason || "It gave no reason."];
    default:
      return ["The connection was lost", `The connection to ${host} was cut.`];
  }
}

/**
 * What keeps a WebSocket from opening, which the browser does not tell. The server answers a plain request to the same
 * address with 426, or with the reason for which it refuses the handshake.
 */
async function diagnose(cause) {
  try {
    const response = await fetch(PRESENCE, { cache: "no-store", signal: AbortSignal.timeout(DIAGNOSE_TIMEOUT_MS) });
    const reason = response.status === 403 ? (await response.json().catch(() => ({}))).error?.message : undefined;
    return reason ? { ...cause, kind: "refused", reason } : { ...cause, kind: "blocked" };
  } catch {
    return cause;
  }
}

/** Explains why the connection is lost, unless `isCurrent()` is false by then. */
export async function showConnectionProblem(cause, isCurrent) {
  // When the page is shown again, it connects at once.
  if (cause.kind === "hidden") return;
  if (cause.kind === "unreachable") {
    cause = await diagnose(cause);
    if (!isCurrent()) return;
  }
  // To connect again would undo what an administrator or the user decided.
  showNotice(...explain(cause), { retry: !(cause.kind === "refused" && cause.reason in REFUSALS) });
}

/** `retry` offers a button that connects again. */
export function showNotice(title, text, { retry = true } = {}) {
  el.notice.hidden = false;
  el.retry.hidden = !retry;
  // Repeated attempts fail in the same way; that is announced once.
  if (el["notice-title"].textContent === title && el["notice-text"].textContent === text) return;
  el["notice-title"].textContent = title;
  el["notice-text"].textContent = text;
  announce(`${title}. ${text}`);
}

/** `focus` is called to move the keyboard focus if the notice has it. */
export function hideNotice(focus) {
  if (el.notice.contains(document.activeElement)) focus();
  el.notice.hidden = true;
  el["notice-title"].textContent = "";
}

/**
 * Shows since when the node has no contact with the other nodes: until then the list is complete. `degraded` is the
 * event of presence.js.
 */
export function showDegraded({ degraded, since }) {
  document.body.dataset.degraded = String(degraded);
  const time = new Date(since ?? Date.now()).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  setText(el.degraded, degraded ? `as of ${time}; other nodes unreachable` : "");
  if (degraded) announce(`The list is as of ${time}. Other nodes are unreachable.`);
}

/** Shows the connection status in the header. Called repeatedly, for the countdown. */
export function showConnection(status) {
  document.body.dataset.phase = status.phase;
  const texts = { idle: "Not connected", online: "Online", refused: "Offline", closed: "Offline" };
  let text = texts[status.phase];
  if (status.phase === "connecting") text = status.attempt > 0 ? "Reconnecting…" : "Connecting…";
  if (status.phase === "waiting") {
    const seconds = Math.ceil((status.retryAt - Date.now()) / 1000);
    text = seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting…";
  }
  setText(el["connection-text"], text);
}
