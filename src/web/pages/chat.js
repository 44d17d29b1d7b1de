/**
 * The page at `/chat`. What is said goes over the chat protocol (`/ws`), who is here comes from presence.js. The page is
 * present through both: the chat alone would show everybody a leave and a join at each reload.
 */

import { avatarOf, element, nameOf } from "/dom.js";
import { LiveSocket } from "/live-socket.js";
import { askName } from "/name-dialog.js";
import { el, hideNotice, showConnection, showTrouble } from "/page.js";
import { connect } from "/presence.js";
import { PlainRoster } from "/roster.js";

const ROOM = "lobby";
/** Lines in the document at once; the oldest go. */
const MAX_LINES = 500;
/** The server's bound for one text. */
const MAX_TEXT_BYTES = 4096;
/** Who went on within this time is not named again. */
const SAME_BREATH_S = 120;
/** The history comes at once after the join; it is not read out. */
const HISTORY_MS = 1_500;
/** So near to the end counts as reading along. */
const AT_END_PX = 48;

const roster = new PlainRoster(el.roster);
let me = "";
let chat = null;
let presence = null;
/** Until the first line after a (re)connect: what the server tells again is taken from it, not shown twice. */
let retelling = false;
/** Given back to the field if the server does not take it. */
let lastSent = "";
let unread = 0;

/* ------------------------------------------------------------------------------------------------------------- lines */

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
  const before = el.log.lastElementChild;
  const goesOn = before?.dataset.user === user && ts - Number(before.dataset.ts) < SAME_BREATH_S;
  const line = element("li", `message${mine ? " mine" : ""}${goesOn ? " more-of-it" : ""}`,
    avatarOf(user), head, element("p", "said", text));
  line.dataset.user = user;
  return line;
}

function eventLine({ user, ts }, what) {
  return element("li", "event", element("bdi", "", user), ` ${what} · `, timeOf(ts));
}

const LINES = {
  msg: messageLine,
  join: (payload) => eventLine(payload, "joined"),
  leave: (payload) => eventLine(payload, "left"),
};

function addLine(type, payload) {
  if (retelling) dropFrom(payload.ts);
  retelling = false;
  const atEnd = isAtEnd();
  const line = LINES[type](payload);
  line.dataset.ts = payload.ts;
  el.log.append(line);
  while (el.log.childElementCount > MAX_LINES) el.log.firstElementChild.remove();
  el["log-empty"].hidden = true;
  const mine = type === "msg" && payload.user === me;
  if (atEnd || mine) scrollToEnd();
  else if (type === "msg") el.newest.hidden = false;
  if (document.hidden && type === "msg") showUnread(unread + 1);
}

/** The history begins here: what is shown from there on is about to be told again. */
function dropFrom(ts) {
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

/* ------------------------------------------------------------------------------------------------------- what is said */

function receive(message) {
  if (message.type in LINES) addLine(message.type, message.payload);
  if (message.type === "error") refused(message.message);
}

function refused(why) {
  const words = { "slow down": "Not so fast: that was not sent." };
  el["text-error"].textContent = words[why] ?? `That was not sent: ${why}.`;
  if (el.text.value === "") el.text.value = lastSent;
}

function say() {
  const text = el.text.value.trim();
  if (text === "") return;
  const bytes = new TextEncoder().encode(text).length;
  let problem = "";
  const most = MAX_TEXT_BYTES.toLocaleString();
  if (bytes > MAX_TEXT_BYTES) problem = `That is ${bytes.toLocaleString()} bytes; a message has ${most} at most.`;
  else if (!chat?.send({ type: "msg", payload: { text } })) problem = "Not connected: your message stays here until we are.";
  el["text-error"].textContent = problem;
  if (problem) return;
  lastSent = text;
  el.text.value = "";
}

/* ------------------------------------------------------------------------------------------------------ all together */

function showStatus(status) {
  showConnection(status);
  document.body.dataset.stale = String(status.phase !== "online");
  if (status.phase === "online") {
    hideNotice(() => el.text.focus());
    retelling = true;
    el.log.ariaLive = "off";
    setTimeout(() => (el.log.ariaLive = "polite"), HISTORY_MS);
  }
  if (status.cause) showTrouble(status.cause, () => chat.status === status);
}

/** Comes in under `name`, out under the one before. */
function enter(name) {
  chat?.close();
  presence?.close();
  me = name;
  el.log.replaceChildren();
  presence = connect(undefined, { user: name });
  const room = presence.join(ROOM);
  const mine = presence;
  presence.on("phase", (status) => {
    if (mine === presence && status.phase === "refused") showTrouble(status.cause, () => mine === presence && mine.connection === status);
  });
  room.on("change", () => {
    if (mine !== presence) return;
    roster.show([...room.members.keys()], name);
    el.count.textContent = room.members.size.toLocaleString();
  });
  chat = new LiveSocket("/ws", {
    greet: { type: "join", payload: { user: name } },
    probe: { type: "ping" },
    receive,
    changed: showStatus,
  });
  chat.connect();
}

el.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  say();
  el.text.focus();
});
el.text.addEventListener("keydown", (event) => {
  // While a word is being composed, Enter ends the word and not the message.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  say();
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
setInterval(() => document.hidden || !chat || showConnection(chat.status), 500);

askName({ enter, focus: () => el.text.focus() });
