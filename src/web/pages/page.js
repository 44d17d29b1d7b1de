/**
 * What the pages share in the document: elements by id, the pill that shows the connection, the notice that explains a
 * trouble, and what is spoken.
 */

import { setText } from "/dom.js";

/** Screen readers are told the last word of a burst, not each change. */
const ANNOUNCE_AFTER_MS = 1_000;
const DIAGNOSE_TIMEOUT_MS = 4_000;

/** Every element that has an id. */
export const el = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));

/* ---------------------------------------------------------------------------------------------------- what is spoken */

let announceTimer = 0;

export function announce(text) {
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => (el.announcer.textContent = text), ANNOUNCE_AFTER_MS);
}

export const people = (count) => `${count.toLocaleString()} ${count === 1 ? "person" : "people"}`;

/* --------------------------------------------------------------------------------------------------------- a trouble */

/** What is wrong and what is done about it: title and text. */
function explain(cause) {
  const host = location.host;
  const isLocal = /^(localhost|127\.|\[::1\])/.test(host);
  if (!navigator.onLine && !isLocal) return ["This device is offline", "Without a network nothing here is live."];
  switch (cause.kind) {
    case "unreachable":
      return ["The server cannot be reached",
        `Nothing answers at ${host}. Either the server is not running or the network in between is down.`];
    case "blocked":
      return ["The live connection does not get through",
        `The server at ${host} answers, but not to WebSockets. A proxy in between may not pass them on.`];
    case "timeout":
      return ["The server does not answer", `${host} takes the connection but says nothing.`];
    case "silent":
      return ["The connection went silent", `Nothing comes from ${host} any more, not even an answer to a question.`];
    case "restarting":
      return ["The server is restarting", "It said so itself and will be back in a moment."];
    case "busy":
      return ["The server is full", "It takes no more connections right now. We ask again a little later."];
    case "refused":
      return ["The server refused the connection", cause.reason || "It gave no reason."];
    default:
      return ["The connection was lost", `The line to ${host} was cut.`];
  }
}

/** Tells what is wrong. A WebSocket that does not open says nothing about why: does the server answer at all? */
export async function showTrouble(cause, isPresent) {
  if (cause.kind === "unreachable") {
    const answered = await fetch("/livez", { cache: "no-store", signal: AbortSignal.timeout(DIAGNOSE_TIMEOUT_MS) })
      .then(() => true, () => false);
    if (!isPresent()) return;
    if (answered) cause = { ...cause, kind: "blocked" };
  }
  showNotice(...explain(cause));
}

export function showNotice(title, text) {
  el.notice.hidden = false;
  // Attempt after attempt ends the same way: that is said once.
  if (el["notice-title"].textContent === title && el["notice-text"].textContent === text) return;
  el["notice-title"].textContent = title;
  el["notice-text"].textContent = text;
  announce(`${title}. ${text}`);
}

/** `focus` gets the keyboard if the notice had it. */
export function hideNotice(focus) {
  if (el.notice.contains(document.activeElement)) focus();
  el.notice.hidden = true;
  el["notice-title"].textContent = "";
}

/** The pill: called again each second, for the countdown. */
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
