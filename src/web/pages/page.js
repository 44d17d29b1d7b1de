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

/* ---------------------------------------------------------------------------------------------------- announcements */

let announceTimer = 0;

export function announce(text) {
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => (el.announcer.textContent = text), ANNOUNCE_AFTER_MS);
}

export const people = (count) => `${count.toLocaleString()} ${count === 1 ? "person" : "people"}`;

/* --------------------------------------------------------------------------------------------------------- problems */

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
      return ["The server refused the connection", cause.reason || "It gave no reason."];
    default:
      return ["The connection was lost", `The connection to ${host} was cut.`];
  }
}

/**
 * Explains why the connection is lost, unless `isCurrent()` is false by then. A WebSocket that does not open gives no
 * reason, so this checks whether the server answers HTTP requests.
 */
export async function showConnectionProblem(cause, isCurrent) {
  if (cause.kind === "unreachable") {
    const answered = await fetch("/livez", { cache: "no-store", signal: AbortSignal.timeout(DIAGNOSE_TIMEOUT_MS) })
      .then(() => true, () => false);
    if (!isCurrent()) return;
    if (answered) cause = { ...cause, kind: "blocked" };
  }
  showNotice(...explain(cause));
}

export function showNotice(title, text) {
  el.notice.hidden = false;
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
