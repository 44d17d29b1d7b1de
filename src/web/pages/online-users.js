/**
 * The page `/`: asks for a name, joins the lobby and shows who is online. presence.js keeps the connection and mirrors
 * the room. Names of other users are inserted as text, never as HTML.
 */

import { avatarOf, element, nameOf } from "/dom.js";
import { askName } from "/name-dialog.js";
import { compareNames, hashOf, hueClass } from "/names.js";
import { announce, el, hideNotice, people, PRESENCE, showConnection, showConnectionProblem, showDegraded, showNotice } from "/page.js";
import { connect } from "/presence.js";

/** `?room=NAME` shows another room, for example that of the demo users. */
const ROOM = new URLSearchParams(location.search).get("room") || "lobby";
/** Rows in the document. The filter finds the others. */
const MAX_ROWS = 300;
/** The filter is shown for lists of at least this length. */
const FILTER_FROM = 24;
/** If one frame has more changes than this, none is animated. */
const MAX_ANIMATED = 12;
const MAX_ACTIVITY = 8;
const BOARD_SLOTS = 168;

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/* -------------------------------------------------------------------------------------------------------- the board */

/**
 * One cell per user. The cell is derived from the name; if it is taken, the next free one is used. If no cell is free,
 * the user waits for one.
 */
class Board {
  #cells = [];
  #users = new Array(BOARD_SLOTS).fill(null);
  #slotOf = new Map();
  #waiting = new Set();

  constructor(node) {
    for (let slot = 0; slot < BOARD_SLOTS; slot += 1) this.#cells.push(document.createElement("i"));
    node.replaceChildren(...this.#cells);
  }

  clear() {
    for (const user of [...this.#slotOf.keys()]) this.#free(user);
    this.#waiting.clear();
  }

  add(user, isMe) {
    if (this.#slotOf.has(user)) return;
    if (this.#slotOf.size === BOARD_SLOTS) {
      this.#waiting.add(user);
      return;
    }
    let slot = hashOf(user) % BOARD_SLOTS;
    while (this.#users[slot] !== null) slot = (slot + 1) % BOARD_SLOTS;
    this.#users[slot] = user;
    this.#slotOf.set(user, slot);
    this.#cells[slot].className = `lit ${hueClass(user)}${isMe ? " me" : ""}`;
  }

  remove(user) {
    this.#waiting.delete(user);
    if (!this.#free(user)) return;
    const [next] = this.#waiting;
    if (next === undefined) return;
    this.#waiting.delete(next);
    this.add(next, false);
  }

  #free(user) {
    const slot = this.#slotOf.get(user);
    if (slot === undefined) return false;
    this.#slotOf.delete(user);
    this.#users[slot] = null;
    this.#cells[slot].className = "";
    return true;
  }
}

/* ------------------------------------------------------------------------------------------------------- the roster */

/** A sorted list of names, and rows for the first MAX_ROWS of them, which are updated once per frame. */
class Roster {
  #node;
  #me;
  #names = [];
  #filter = "";
  /** Name → row, without rows that are animated out. */
  #rows = new Map();
  #frame = 0;
  #animate = false;

  constructor(node) {
    this.#node = node;
  }

  reset(names, me) {
    this.#me = me;
    this.#names = [...names].sort(compareNames);
    this.#schedule(false);
  }

  change(joined, left) {
    for (const name of left) {
      const index = this.#indexOf(name);
      if (this.#names[index] === name) this.#names.splice(index, 1);
    }
    for (const name of joined) this.#names.splice(this.#indexOf(name), 0, name);
    this.#schedule(joined.length + left.length <= MAX_ANIMATED);
  }

  filterBy(text) {
    this.#filter = text.trim().toLocaleLowerCase();
    this.#schedule(false);
  }

  /** The index of `name`, or where to insert it. */
  #indexOf(name) {
    let low = 0;
    let high = this.#names.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compareNames(this.#names[middle], name) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #schedule(animate) {
    this.#animate = this.#frame === 0 ? animate : this.#animate && animate;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#render(this.#animate && !reducedMotion.matches);
    });
  }

  #render(animate) {
    const matching = this.#filter
      ? this.#names.filter((name) => name.toLocaleLowerCase().includes(this.#filter))
      : this.#names;
    const wanted = matching.slice(0, MAX_ROWS);
    const keep = new Set(wanted);
    for (const [name, row] of this.#rows) if (!keep.has(name)) this.#dismiss(name, row, animate);

    let cursor = this.#nextRow(this.#node.firstElementChild);
    for (const name of wanted) {
      const row = this.#rows.get(name);
      if (row && row === cursor) cursor = this.#nextRow(cursor.nextElementSibling);
      else this.#node.insertBefore(row ?? this.#createRow(name, animate), cursor);
    }
    this.#describeRest(matching.length, wanted);
  }

  #nextRow(node) {
    while (node?.classList.contains("leaving")) node = node.nextElementSibling;
    return node;
  }

  #createRow(name, animate) {
    const isMe = name === this.#me;
    const row = element("li", `row${isMe ? " me" : ""}${animate ? " joining" : ""}`, avatarOf(name), nameOf(name));
    if (isMe) row.append(element("span", "tag", "you"));
    this.#rows.set(name, row);
    return row;
  }

  #dismiss(name, row, animate) {
    this.#rows.delete(name);
    if (!animate) {
      row.remove();
      return;
    }
    row.classList.remove("joining");
    row.classList.add("leaving");
    row.setAttribute("aria-hidden", "true");
    row.addEventListener("animationend", () => row.remove(), { once: true });
  }

  #describeRest(matching, wanted) {
    const rest = matching - wanted.length;
    let text = "";
    if (rest > 0) text = `and ${rest.toLocaleString()} more`;
    if (rest > 0 && !this.#filter && this.#names.length > 0 && !this.#rows.has(this.#me)) text += ", including you";
    if (matching === 0) text = this.#filter ? `No name contains “${this.#filter}”.` : "Waiting for the list…";
    el.more.textContent = text;
    const long = this.#names.length >= FILTER_FROM || this.#filter !== "";
    el["filter-box"].hidden = !long;
  }
}

/* ----------------------------------------------------------------------------------------------------- the activity */

/** All others "left": nobody has to know whether a browser closed the connection or was silent until the lease ended. */
const LEFT_WORDS = {
  node_lost: "lost with the node",
  kicked: "was removed",
};

/** The last joins and leaves, newest first. */
class Activity {
  #node;

  constructor(node) {
    this.#node = node;
  }

  clear() {
    this.#node.replaceChildren();
    el["activity-empty"].hidden = false;
  }

  add(user, what) {
    el["activity-empty"].hidden = true;
    const time = element("time", "", "now");
    time.dateTime = new Date().toISOString();
    const entry = element("li", what === "joined" ? "joined" : "left");
    entry.append(element("bdi", "", user), element("span", "", what), time);
    this.#node.prepend(entry);
    while (this.#node.childElementCount > MAX_ACTIVITY) this.#node.lastElementChild.remove();
  }

  tick() {
    for (const time of this.#node.querySelectorAll("time")) {
      const text = ageOf(Date.now() - Date.parse(time.dateTime));
      if (time.textContent !== text) time.textContent = text;
    }
  }
}

function ageOf(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

/* --------------------------------------------------------------------------------------------------- the connection */

/** Takes the keyboard focus when the focused element disappears. */
function focusHeadline() {
  el.headline.focus({ preventScroll: true });
}

function showStatus(status) {
  if (status.phase === "online") {
    hideNotice(focusHeadline);
    document.body.dataset.stale = "false";
    el.stale.textContent = "";
    showLabel();
    announceCount("Connected. ");
  }
  if (status.phase === "waiting" || status.phase === "refused") {
    showConnectionProblem(status.cause, () => presence.connection === status);
    markStale();
  }
  showConnection(status);
  showFacts();
}

function markStale() {
  document.body.dataset.stale = "true";
  if (!lobby.ready || el.stale.textContent) return;
  showLabel();
  const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  el.stale.textContent = `as of ${time}`;
}

function showLabel() {
  const isStale = document.body.dataset.stale === "true";
  const label = presence.degraded ? "online" : "online right now";
  el["count-label"].textContent = isStale ? "online when last seen" : label;
}

/** Technical details of the connection. */
function showFacts() {
  const { welcome } = presence;
  const facts = welcome
    ? [`seq ${lobby.seq}`, `tick ${welcome.tick_ms} ms`, `heartbeat ${welcome.heartbeat_ms / 1000} s`, welcome.node]
    : [];
  el.facts.replaceChildren(...facts.map((fact) => element("span", "", fact)));
  if (welcome) el.lease.textContent = `${welcome.ttl_ms / 1000} s`;
}

function announceCount(prefix = "") {
  if (!lobby.ready) return;
  announce(`${prefix}${people(lobby.count)} online.`);
}

/* ----------------------------------------------------------------------------------------------------------- wiring */

const board = new Board(el.board);
const roster = new Roster(el.roster);
const activity = new Activity(el.activity);
/** The present connection and its room; null until there is a name. */
let presence = null;
let lobby = null;

/** Leaves under the present name, if there is one, and joins under `name`. */
function enter(name) {
  presence?.close();
  presence = connect(PRESENCE, { user: name });
  lobby = presence.join(ROOM);
  const mine = presence;
  // Events of the previous connection are ignored.
  const current = (handler) => (event) => mine === presence && handler(event);
  presence.on("phase", current(showStatus));
  presence.on("degraded", current((health) => {
    showDegraded(health);
    showLabel();
  }));
  presence.on("error", current(({ message }) => showNotice("The server refused a message", message)));
  lobby.on("change", current(showChange));

  hideNotice(focusHeadline);
  showDegraded({ degraded: false });
  board.clear();
  activity.clear();
  roster.reset([], name);
  showCount();
  showStatus(presence.connection);
}

function showChange({ joined, left, reset }) {
  const joinedNames = joined.map(({ user }) => user);
  const leftNames = left.map(({ user }) => user);
  for (const user of leftNames) board.remove(user);
  // This user first, to get a cell before the board is full.
  if (joinedNames.includes(presence.user)) board.add(presence.user, true);
  for (const user of joinedNames) board.add(user, false);
  // The first list, and one with many changes, is shown without animation.
  if (reset && (joinedNames.length === lobby.count || joinedNames.length + leftNames.length > MAX_ANIMATED)) {
    roster.reset(lobby.members.keys(), presence.user);
  } else {
    roster.change(joinedNames, leftNames);
  }
  if (!reset) {
    for (const { user, reason } of left.slice(-MAX_ACTIVITY)) activity.add(user, LEFT_WORDS[reason] ?? "left");
    for (const user of joinedNames.slice(-MAX_ACTIVITY)) activity.add(user, "joined");
  }
  showCount();
  showFacts();
  const last = joinedNames.at(-1) ?? leftNames.at(-1);
  announceCount(reset || last === undefined ? "" : `${last} ${joinedNames.length > 0 ? "joined" : "left"}. `);
}

function showCount() {
  const known = lobby.ready;
  el.count.textContent = known ? lobby.count.toLocaleString() : "–";
  el.count.classList.toggle("unknown", !known);
  document.title = `${known ? `(${lobby.count}) ` : ""}rollcall · who is online right now`;
}

el.retry.addEventListener("click", () => presence.connect());
el.filter.addEventListener("input", ({ target }) => roster.filterBy(target.value));
for (const type of ["online", "offline"]) {
  addEventListener(type, () => {
    const cause = presence?.connection.cause;
    if (cause) showConnectionProblem(cause, () => presence.connection.cause);
  });
}
setInterval(() => {
  if (document.hidden || !presence) return;
  showConnection(presence.connection);
  activity.tick();
}, 500);

el["room-name"].textContent = ROOM;
if (ROOM !== "lobby") el["other-tab"].search = `?room=${encodeURIComponent(ROOM)}&user=`;
askName({ enter, focus: focusHeadline });
