/**
 * The page at `/`: asks for a name, joins the lobby and shows who is there. The connection and the mirrored room are
 * presence.js; here is only what is seen. Names come from strangers: they reach the page as text, never as markup.
 */

import { connect } from "/presence.js";

const ROOM = "lobby";
/** The server's rule for user ids: 1–128 bytes of UTF-8 without control characters. */
const MAX_NAME_BYTES = 128;
const NAME_KEY = "rollcall.name";
/** Rows in the document at once. More are counted, and found with the filter. */
const MAX_ROWS = 300;
/** From here on looking for a name is quicker with the filter than with the eyes. */
const FILTER_FROM = 24;
/** More changes than this in one frame are not animated: movement everywhere says nothing. */
const MAX_ANIMATED = 12;
const MAX_ACTIVITY = 8;
const BOARD_SLOTS = 168;
const HUES = 12;
/** Screen readers are told the last word of a burst, not each change. */
const ANNOUNCE_AFTER_MS = 1_000;
const DIAGNOSE_TIMEOUT_MS = 4_000;

const el = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** The person's own collation, and code units where that finds two names equal. */
function compareNames(a, b) {
  return collator.compare(a, b) || (a < b ? -1 : Number(a > b));
}

/** FNV-1a: the same name has the same colour and the same place on the board in every browser. */
function hashOf(name) {
  let hash = 0x811c9dc5;
  for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193);
  return (hash ^ (hash >>> 15)) >>> 0;
}

const hueClass = (name) => `hue-${hashOf(name) % HUES}`;

/** One or two letters: of the first and the last word. */
function initialsOf(name) {
  const words = name.split(/[\s._\-@]+/u).filter((word) => /[\p{L}\p{N}\p{Extended_Pictographic}]/u.test(word));
  const picked = words.length > 1 ? [words[0], words.at(-1)] : [words[0] ?? name];
  const withoutMarks = (word) => word.replace(/^[^\p{L}\p{N}\p{Extended_Pictographic}]+/u, "") || word;
  return picked.map((word) => firstGrapheme(withoutMarks(word))).join("");
}

function firstGrapheme(word) {
  if (!Intl.Segmenter) return [...word][0]?.toUpperCase() ?? "";
  const [first] = new Intl.Segmenter().segment(word);
  return first?.segment.toUpperCase() ?? "";
}

function paintAvatar(node, name) {
  node.textContent = initialsOf(name);
  node.className = node.className.replace(/ ?hue-\d+/, "") + ` ${hueClass(name)}`;
}

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

/* ---------------------------------------------------------------------------------------------------------- the name */

/** What is wrong with a name, in the user's words; empty when it is fine. */
function nameProblem(name) {
  if (name === "") return "Please type a name.";
  if (/\p{Cc}|\p{Cs}/u.test(name)) return "A name cannot hold control characters.";
  const bytes = new TextEncoder().encode(name).length;
  return bytes > MAX_NAME_BYTES ? `That is ${bytes} bytes; a name has ${MAX_NAME_BYTES} at most.` : "";
}

const tidyName = (typed) => typed.trim().normalize("NFC");

/** This tab's own name first, so that a reload keeps it when another tab took another one. Storage may be forbidden. */
function storedName() {
  try {
    return sessionStorage.getItem(NAME_KEY) ?? localStorage.getItem(NAME_KEY) ?? "";
  } catch {
    return "";
  }
}

function storeName(name) {
  try {
    sessionStorage.setItem(NAME_KEY, name);
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // then it is asked for again next time
  }
}

/** `?user=NAME` presets the name, an empty one asks for it whatever is stored. */
function initialName() {
  const preset = new URLSearchParams(location.search).get("user");
  const name = tidyName(preset ?? storedName());
  return nameProblem(name) === "" ? name : "";
}

function openNameDialog(current) {
  el["name-input"].value = current;
  el["name-cancel"].hidden = !presence;
  el["name-submit"].textContent = presence ? "Change name" : "Join the room";
  showNameProblem("");
  paintAvatar(el["name-avatar"], current || "?");
  el["name-dialog"].showModal();
  el["name-input"].focus();
  el["name-input"].select();
}

function showNameProblem(problem) {
  el["name-error"].textContent = problem;
  el["name-input"].setAttribute("aria-invalid", String(problem !== ""));
}

function submitName(event) {
  const name = tidyName(el["name-input"].value);
  const problem = nameProblem(name);
  showNameProblem(problem);
  if (problem) {
    event.preventDefault();
    el["name-input"].focus();
    return;
  }
  storeName(name);
  if (location.search) history.replaceState(null, "", location.pathname);
  if (name !== presence?.user) enter(name);
}

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
    const avatar = element("span", "avatar");
    avatar.setAttribute("aria-hidden", "true");
    paintAvatar(avatar, name);
    const label = element("bdi", "name", name);
    label.title = name;
    const row = element("li", `row${isMe ? " me" : ""}${animate ? " joining" : ""}`, avatar, label);
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

/** What is wrong and what is done about it: title and text. */
function explain(cause) {
  const host = location.host;
  const isLocal = /^(localhost|127\.|\[::1\])/.test(host);
  if (!navigator.onLine && !isLocal) return ["This device is offline", "Without a network there is no live list."];
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

/** A WebSocket that does not open says nothing about why: does the server answer at all? */
async function diagnose(status) {
  const answered = await fetch("/livez", { cache: "no-store", signal: AbortSignal.timeout(DIAGNOSE_TIMEOUT_MS) })
    .then(() => true, () => false);
  if (presence.connection !== status) return;
  showNotice(...explain(answered ? { ...status.cause, kind: "blocked" } : status.cause));
}

function showNotice(title, text) {
  el.notice.hidden = false;
  // Attempt after attempt ends the same way: that is said once.
  if (el["notice-title"].textContent === title && el["notice-text"].textContent === text) return;
  el["notice-title"].textContent = title;
  el["notice-text"].textContent = text;
  announce(`${title}. ${text}`);
}

function hideNotice() {
  if (el.notice.contains(document.activeElement)) focusHeadline();
  el.notice.hidden = true;
  el["notice-title"].textContent = "";
}

/** Where the keyboard goes when what it was on has gone. */
function focusHeadline() {
  el.headline.focus({ preventScroll: true });
}

function showStatus(status) {
  document.body.dataset.phase = status.phase;
  if (status.phase === "online") {
    hideNotice();
    document.body.dataset.stale = "false";
    el.stale.textContent = "";
    el["count-label"].textContent = "online right now";
    announceCount("Connected. ");
  }
  if (status.phase === "waiting" || status.phase === "refused") {
    if (status.cause.kind === "unreachable") diagnose(status);
    else showNotice(...explain(status.cause));
    markStale();
  }
  showConnection();
  showWire();
}

/** The pill: also called each second, for the countdown. */
function showConnection() {
  const status = presence.connection;
  const texts = { online: "Online", refused: "Offline", closed: "Offline" };
  let text = texts[status.phase];
  if (status.phase === "connecting") text = status.attempt > 0 ? "Reconnecting…" : "Connecting…";
  if (status.phase === "waiting") {
    const seconds = Math.ceil((status.retryAt - Date.now()) / 1000);
    text = seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting…";
  }
  if (el["connection-text"].textContent !== text) el["connection-text"].textContent = text;
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

/* ---------------------------------------------------------------------------------------------------- what is spoken */

let announceTimer = 0;

function announce(text) {
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => (el.announcer.textContent = text), ANNOUNCE_AFTER_MS);
}

function announceCount(news = "") {
  if (!lobby.ready) return;
  announce(`${news}${lobby.count.toLocaleString()} ${lobby.count === 1 ? "person" : "people"} online.`);
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

  paintAvatar(el["me-avatar"], name);
  el["me-name"].textContent = name;
  el["change-name"].hidden = false;
  hideNotice();
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

el["change-name"].addEventListener("click", () => openNameDialog(presence.user));
el["name-form"].addEventListener("submit", submitName);
el["name-cancel"].addEventListener("click", () => el["name-dialog"].close());
el["name-input"].addEventListener("input", ({ target }) => {
  paintAvatar(el["name-avatar"], tidyName(target.value) || "?");
  showNameProblem("");
});
// Without a name there is nothing to go back to.
el["name-dialog"].addEventListener("cancel", (event) => presence || event.preventDefault());
el["name-dialog"].addEventListener("close", () => {
  if (!presence) openNameDialog("");
  else if (document.activeElement === document.body) focusHeadline();
});
el.retry.addEventListener("click", () => presence.connect());
el.filter.addEventListener("input", ({ target }) => roster.filterBy(target.value));
for (const news of ["online", "offline"]) {
  addEventListener(news, () => presence?.connection.cause && showNotice(...explain(presence.connection.cause)));
}
setInterval(() => {
  if (document.hidden || !presence) return;
  showConnection();
  activity.tick();
}, 500);

const name = initialName();
if (name) enter(name);
else openNameDialog("");
