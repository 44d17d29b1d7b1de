/**
 * The page at `/`: asks for a name, joins the lobby and shows who is there. The connection and the mirrored room are
 * presence.js; here is only what is seen. Names come from strangers: they reach the page as text, never as markup.
 */

import { avatarOf, element, nameOf } from "/dom.js";
import { askName } from "/name-dialog.js";
import { compareNames, hashOf, hueClass } from "/names.js";
import { announce, el, hideNotice, people, showConnection, showNotice, showTrouble } from "/page.js";
import { connect } from "/presence.js";

const ROOM = "lobby";
/** Rows in the document at once. More are counted, and found with the filter. */
const MAX_ROWS = 300;
/** From here on looking for a name is quicker with the filter than with the eyes. */
const FILTER_FROM = 24;
/** More changes than this in one frame are not animated: movement everywhere says nothing. */
const MAX_ANIMATED = 12;
const MAX_ACTIVITY = 8;
const BOARD_SLOTS = 168;

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/* --------------------------------------------------------------------------------------------------------- the board */

/**
 * A square for everybody. The place is derived from the name; when it is taken the next free one is used, and who finds
 * none waits for one.
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

/* -------------------------------------------------------------------------------------------------------- the roster */

/** All names in order, kept so by insertion; the rows of the first MAX_ROWS of them, patched once per frame. */
class Roster {
  #node;
  #me;
  #names = [];
  #filter = "";
  /** User → row, of those in the document and not on their way out. */
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

  /** Where `name` is, or belongs. */
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
    if (rest > 0 && !this.#filter && this.#names.length > 0 && !this.#rows.has(this.#me)) text += ", you among them";
    if (matching === 0) text = this.#filter ? `Nobody here is called “${this.#filter}”.` : "Waiting for the roll…";
    el.more.textContent = text;
    const long = this.#names.length >= FILTER_FROM || this.#filter !== "";
    el["filter-box"].hidden = !long;
  }
}

/* ------------------------------------------------------------------------------------------------------ the activity */

const LEFT_WORDS = {
  closed: "closed the page",
  timeout: "timed out",
  node_lost: "lost with their node",
  kicked: "was removed",
};

/** The last comings and goings, newest first. */
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
    const entry = element("li", what === "joined" ? "came" : "went");
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

/* ---------------------------------------------------------------------------------------------------- the connection */

/** Where the keyboard goes when what it was on has gone. */
function focusHeadline() {
  el.headline.focus({ preventScroll: true });
}

function showStatus(status) {
  if (status.phase === "online") {
    hideNotice(focusHeadline);
    document.body.dataset.stale = "false";
    el.stale.textContent = "";
    el["count-label"].textContent = "online right now";
    announceCount("Connected. ");
  }
  if (status.phase === "waiting" || status.phase === "refused") {
    showTrouble(status.cause, () => presence.connection === status);
    markStale();
  }
  showConnection(status);
  showWire();
}

function markStale() {
  document.body.dataset.stale = "true";
  if (!lobby.ready || el.stale.textContent) return;
  el["count-label"].textContent = "online when last seen";
  const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  el.stale.textContent = `as of ${time}`;
}

/** The engine's own words, for those who look under the hood. */
function showWire() {
  const { welcome } = presence;
  const facts = welcome
    ? [`seq ${lobby.seq}`, `tick ${welcome.tick_ms} ms`, `heartbeat ${welcome.heartbeat_ms / 1000} s`, welcome.node]
    : [];
  el.wire.replaceChildren(...facts.map((fact) => element("span", "", fact)));
  if (welcome) el.lease.textContent = `${welcome.ttl_ms / 1000} s`;
}

function announceCount(news = "") {
  if (!lobby.ready) return;
  announce(`${news}${people(lobby.count)} online.`);
}

/* ------------------------------------------------------------------------------------------------------ all together */

const board = new Board(el.board);
const roster = new Roster(el.roster);
const activity = new Activity(el.activity);
/** The connection under the present name and its room; null until there is a name. */
let presence = null;
let lobby = null;

/** Comes in under `name`, out under the one before. */
function enter(name) {
  presence?.close();
  presence = connect(undefined, { user: name });
  lobby = presence.join(ROOM);
  const mine = presence;
  // The events of a connection that was left behind must not paint over those of the present one.
  const current = (handler) => (news) => mine === presence && handler(news);
  presence.on("phase", current(showStatus));
  presence.on("error", current(({ message }) => showNotice("The server did not accept that", message)));
  lobby.on("change", current(showChange));

  hideNotice(focusHeadline);
  board.clear();
  activity.clear();
  roster.reset([], name);
  showCount();
  showStatus(presence.connection);
}

function showChange({ joined, left, reset }) {
  const came = joined.map(({ user }) => user);
  const went = left.map(({ user }) => user);
  for (const user of went) board.remove(user);
  // Myself first: on a full board others have to wait for a square, I have one.
  if (came.includes(presence.user)) board.add(presence.user, true);
  for (const user of came) board.add(user, false);
  // A first list is simply there, and a very different one too.
  if (reset && (came.length === lobby.count || came.length + went.length > MAX_ANIMATED)) {
    roster.reset(lobby.members.keys(), presence.user);
  } else {
    roster.change(came, went);
  }
  if (!reset) {
    for (const { user, reason } of left.slice(-MAX_ACTIVITY)) activity.add(user, LEFT_WORDS[reason] ?? "left");
    for (const user of came.slice(-MAX_ACTIVITY)) activity.add(user, "joined");
  }
  showCount();
  showWire();
  const last = came.at(-1) ?? went.at(-1);
  announceCount(reset || last === undefined ? "" : `${last} ${came.length > 0 ? "joined" : "left"}. `);
}

function showCount() {
  const known = lobby.ready;
  el.count.textContent = known ? lobby.count.toLocaleString() : "–";
  el.count.classList.toggle("unknown", !known);
  document.title = known ? `(${lobby.count}) rollcall · who is here, right now` : "rollcall · who is here, right now";
}

el.retry.addEventListener("click", () => presence.connect());
el.filter.addEventListener("input", ({ target }) => roster.filterBy(target.value));
for (const news of ["online", "offline"]) {
  addEventListener(news, () => presence?.connection.cause && showTrouble(presence.connection.cause, () => presence.connection.cause));
}
setInterval(() => {
  if (document.hidden || !presence) return;
  showConnection(presence.connection);
  activity.tick();
}, 500);

askName({ enter, focus: focusHeadline });
