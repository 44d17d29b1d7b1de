/**
 * The page `/chat`. Messages use the chat protocol (`/ws`), the list of participants uses presence.js. The user is
 * present through both connections: with the chat connection alone, each reload would be a leave and a join.
 */

import { avatarOf, element, nameOf } from "/dom.js";
import { askName } from "/name-dialog.js";
import { el, hideNotice, people, PRESENCE, showConnection, showConnectionProblem, showDegraded } from "/page.js";
import { connect } from "/presence.js";
import { ReconnectingSocket } from "/reconnecting-socket.js";
import { PlainRoster } from "/roster.js";

const ROOM = "lobby";
/** Lines in the document. Older ones are removed. */
const MAX_LINES = 500;
/** The limit of the server. */
const MAX_TEXT_BYTES = 4096;
/** More joins and leaves in a row than this are shown as one line. */
const MAX_EVENTS_IN_A_ROW = 4;
/** Messages of one user within this time are shown under one name. */
const SAME_GROUP_S = 120;
/** The history arrives within this time after the join. Screen readers do not read it. */
const HISTORY_MS = 1_500;
/** This close to the end of the log, new messages scroll it. */
const AT_END_PX = 48;

const roster = new PlainRoster(el.roster);
let me = "";
let chat = null;
let presence = null;
/** True from a (re)connect to its first line: the history that follows replaces the lines that it repeats. */
let historyFollows = false;
/** Put back into the input if the server refuses it. */
let lastSent = "";
let unread = 0;

/* ------------------------------------------------------------------------------------------------------------ lines */

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function timeOf(ts) {
  const date = new Date(ts * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = element("time", "", (today ? timeFormat : dayFormat).format(date));
  time.dateTime = date.toISOString();
  return time;
}

function messageLine({ user, text, ts }) {
  const mine = user === me;
  const head = element("p", "message-head", nameOf(mine ? "You" : user), timeOf(ts));
  const last = el.log.lastElementChild;
  const continued = last?.dataset.user === user && ts - Number(last.dataset.ts) < SAME_GROUP_S;
  const line = element("div", `message${mine ? " mine" : ""}${continued ? " continued" : ""}`,
    avatarOf(user), head, element("p", "message-text", text));
  line.dataset.user = user;
  return line;
}

function eventLine({ user, ts }, what) {
  return element("div", "event", element("bdi", "", user), ` ${what} · `, timeOf(ts));
}

/** The joins and leaves since the last message: `{ user, type, ts }`, in their order. */
let events = [];
/** Their lines; a single one if there are many. */
let eventLines = [];

/** Adds the line of a join or leave, or replaces the lines of all joins and leaves since the last message by one. */
function addEvent(type, payload) {
  if (eventLines.at(-1) !== el.log.lastElementChild) [events, eventLines] = [[], []];
  events.push({ type, user: payload.user });
  let line = LINES[type](payload);
  line.dataset.ts = payload.ts;
  if (events.length > MAX_EVENTS_IN_A_ROW) {
    line = summaryLine(payload.ts);
    line.dataset.ts = eventLines[0].dataset.ts;
    eventLines.splice(0).forEach((old) => old.remove());
  }
  eventLines.push(line);
  el.log.append(line);
}

/** "57 people joined, 1 person left" */
function summaryLine(ts) {
  const count = (type) => new Set(events.filter((event) => event.type === type).map(({ user }) => user)).size;
  const parts = [["join", "joined"], ["leave", "left"]].filter(([type]) => count(type) > 0);
  const text = parts.map(([type, what]) => `${people(count(type))} ${what}`).join(", ");
  return element("div", "event summary", `${text} · `, timeOf(ts));
}

const LINES = {
  msg: messageLine,
  join: (payload) => eventLine(payload, "joined"),
  leave: (payload) => eventLine(payload, "left"),
};

function addLine(type, payload) {
  if (historyFollows) removeLinesFrom(payload.ts);
  historyFollows = false;
  const atEnd = isAtEnd();
  if (type === "msg") {
    const line = messageLine(payload);
    line.dataset.ts = payload.ts;
    el.log.append(line);
  } else {
    addEvent(type, payload);
  }
  while (el.log.childElementCount > MAX_LINES) el.log.firstElementChild.remove();
  el["log-empty"].hidden = true;
  const mine = type === "msg" && payload.user === me;
  if (atEnd || mine) scrollToEnd();
  else if (type === "msg") el.newest.hidden = false;
  if (document.hidden && type === "msg") showUnread(unread + 1);
}

function removeLinesFrom(ts) {
  while (Number(el.log.lastElementChild?.dataset.ts) >= ts) el.log.lastElementChild.remove();
}

const isAtEnd = () => el.log.scrollHeight - el.log.scrollTop - el.log.clientHeight < AT_END_PX;

function scrollToEnd() {
  el.log.scrollTop = el.log.scrollHeight;
  el.newest.hidden = true;
}

function showUnread(count) {
  unread = count;
  document.title = `${count > 0 ? `(${count}) ` : ""}Chat · rollcall`;
}

/* --------------------------------------------------------------------------------------------------------- messages */

function receive(message) {
  if (message.type in LINES) addLine(message.type, message.payload);
  if (message.type === "error") showRefusal(message.message);
}

function showRefusal(reason) {
  const tooFast = /^slow down/.test(reason);
  const problem = tooFast ? "Too fast: your message was not sent." : `Your message was not sent: ${reason}.`;
  el["text-error"].textContent = problem;
  if (el.text.value === "") el.text.value = lastSent;
}

function sendText() {
  const text = el.text.value.trim();
  if (text === "") return;
  const bytes = new TextEncoder().encode(text).length;
  let problem = "";
  if (bytes > MAX_TEXT_BYTES) {
    problem = `Your message is ${bytes.toLocaleString()} bytes; the limit is ${MAX_TEXT_BYTES.toLocaleString()}.`;
  } else if (!chat?.send({ type: "msg", payload: { text } })) {
    problem = "Not connected. Your message stays here: send it again when you are online.";
  }
  el["text-error"].textContent = problem;
  if (problem) return;
  lastSent = text;
  el.text.value = "";
}

/* ------------------------------------------------------------------------------------------------------- connection */

function showStatus(status) {
  showConnection(status);
  document.body.dataset.stale = String(status.phase !== "online");
  if (status.phase === "online") {
    hideNotice(() => el.text.focus());
    historyFollows = true;
    el.log.ariaLive = "off";
    setTimeout(() => (el.log.ariaLive = "polite"), HISTORY_MS);
  }
  if (status.cause) showConnectionProblem(status.cause, () => chat.status === status);
}

/** Leaves under the present name, if there is one, and joins under `name`. */
function enter(name) {
  chat?.close();
  presence?.close();
  me = name;
  el.log.replaceChildren();
  presence = connect(PRESENCE, { user: name });
  const room = presence.join(ROOM);
  const mine = presence;
  showDegraded({ degraded: false });
  presence.on("degraded", (health) => mine === presence && showDegraded(health));
  presence.on("phase", (status) => {
    if (mine !== presence || status.phase !== "refused") return;
    showConnectionProblem(status.cause, () => mine === presence && mine.connection === status);
  });
  room.on("change", () => {
    if (mine !== presence) return;
    roster.show([...room.members.keys()], name);
    el.count.textContent = room.members.size.toLocaleString();
  });
  chat = new ReconnectingSocket("ws", {
    greeting: { type: "join", payload: { user: name } },
    probe: { type: "ping" },
    onMessage: receive,
    onStatus: showStatus,
  });
  chat.connect();
}

el.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  sendText();
  el.text.focus();
});
el.text.addEventListener("keydown", (event) => {
  // While an input method composes a word, Enter ends the word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  sendText();
});
el.text.addEventListener("input", () => (el["text-error"].textContent = ""));
el.newest.addEventListener("click", () => {
  scrollToEnd();
  el.log.focus();
});
el.log.addEventListener("scroll", () => isAtEnd() && (el.newest.hidden = true));
el.retry.addEventListener("click", () => {
  chat.connect();
  presence.connect();
});
document.addEventListener("visibilitychange", () => document.hidden || showUnread(0));
new ResizeObserver(() => el.newest.hidden && scrollToEnd()).observe(el.log);
// For the countdown to the next attempt.
setInterval(() => document.hidden || !chat || showConnection(chat.status), 500);

askName({ enter, focus: () => el.text.focus() });
