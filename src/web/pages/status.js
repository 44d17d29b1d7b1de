/**
 * The page `/status`: connects and disconnects users of the online-status protocol, and logs every message that they
 * receive. Lost connections are opened again, as a client of this protocol would do.
 */

import { avatarOf, element, nameOf, setText } from "/dom.js";
import { nameProblem } from "/names.js";
import { announce, el, hideNotice, people, PRESENCE, showConnection, showConnectionProblem, showDegraded } from "/page.js";
import { connect } from "/presence.js";
import { ReconnectingSocket } from "/reconnecting-socket.js";
import { PlainRoster } from "/roster.js";

const ROOM = "lobby";
const MAX_CONNECTIONS = 20;
const MAX_LOG_LINES = 200;
const TYPES = ["CONNECTION_ESTABLISHED", "USER_ONLINE", "USER_OFFLINE"];
const MEANINGS = {
  CONNECTION_ESTABLISHED: "one per connection, and per reconnect",
  USER_ONLINE: "a user came online, or was online already",
  USER_OFFLINE: "the last connection of a user ended",
};

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit",
  fractionalSecondDigits: 3, hourCycle: "h23" });

/* --------------------------------------------------------------------------------------------------------- counters */

const counts = new Map();
const counterNodes = new Map();

function count(type, by) {
  counts.set(type, (counts.get(type) ?? 0) + by);
  if (!counterNodes.has(type)) {
    const value = element("dd", "counter-value", "0");
    el.counters.append(element("div", `counter type-${type}`, element("dt", "", type), value,
      element("dd", "counter-hint", MEANINGS[type] ?? "not a message of this protocol")));
    counterNodes.set(type, value);
  }
  setText(counterNodes.get(type), counts.get(type).toLocaleString());
}

/* -------------------------------------------------------------------------------------------------------------- log */

let paused = false;
let notShown = 0;

function log(user, kind, text) {
  if (paused) {
    notShown += 1;
    setText(el.pause, `Resume (${notShown.toLocaleString()})`);
    return;
  }
  const line = element("div", `log-line type-${kind}`, element("time", "", timeFormat.format(new Date())),
    element("bdi", "log-user", user), element("code", "log-text", text));
  el.log.prepend(line);
  while (el.log.childElementCount > MAX_LOG_LINES) el.log.lastElementChild.remove();
}

function togglePause() {
  paused = !paused;
  notShown = 0;
  el.pause.setAttribute("aria-pressed", String(paused));
  setText(el.pause, paused ? "Resume" : "Pause");
}

/* ------------------------------------------------------------------------------------------------------ connections */

/** User id → its connection. */
const users = new Map();

class User {
  #socket;
  #state = element("span", "connection-state");
  #count = element("span", "connection-messages");
  #received = 0;

  constructor(id) {
    this.id = id;
    const button = element("button", "button small", "Disconnect");
    button.type = "button";
    button.setAttribute("aria-label", `Disconnect ${id}`);
    button.addEventListener("click", () => this.leave());
    this.node = element("li", "connection", avatarOf(id), nameOf(id),
      element("span", "connection-facts", this.#state, this.#count), button);
    this.#socket = new ReconnectingSocket(`ws-online-status?userId=${encodeURIComponent(id)}`, {
      onMessage: (message) => this.#receive(message),
      onStatus: (status) => this.#statusChanged(status),
    });
  }

  get status() {
    return this.#socket.status;
  }

  connect() {
    this.#socket.connect();
  }

  leave() {
    users.delete(this.id);
    const next = this.node.nextElementSibling ?? this.node.previousElementSibling;
    const hadFocus = this.node.contains(document.activeElement);
    this.node.remove();
    this.#socket.close();
    if (hadFocus) (next?.querySelector("button") ?? el.user).focus();
  }

  /** Called repeatedly, for the countdown. */
  showState() {
    const { phase, retryAt, cause } = this.status;
    const refused = `refused: ${cause?.reason}`;
    const texts = { connecting: "connecting…", online: "connected", refused, closed: "disconnected" };
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    setText(this.#state, phase === "waiting" ? `lost, reconnecting in ${seconds} s` : texts[phase]);
    this.node.dataset.phase = phase;
  }

  #receive(message) {
    this.#received += 1;
    setText(this.#count, `${this.#received.toLocaleString()} ${this.#received === 1 ? "message" : "messages"}`);
    count(message.type, 1);
    log(this.id, message.type, JSON.stringify(message));
  }

  #statusChanged(status) {
    const { phase, cause } = status;
    this.showState();
    if (phase === "closed") log(this.id, "closed", "disconnected on this page (1000)");
    if (phase === "waiting") {
      const closed = `closed by the server: ${cause.code} ${cause.reason || cause.kind}`;
      log(this.id, "closed", cause.code ? closed : `no connection: ${cause.kind}`);
    }
    showAll();
    if (cause) showConnectionProblem(cause, () => this.status === status && users.has(this.id));
  }
}

/** The status in the header and the notice show the connection with the most serious problem. */
function showAll() {
  const statuses = [...users.values()].map((user) => user.status);
  const first = (phase) => statuses.find((status) => status.phase === phase);
  const worst = first("refused") ?? first("waiting") ?? first("connecting") ?? first("online") ?? { phase: "idle" };
  showConnection(worst);
  const unresolved = statuses.some(({ cause, phase }) => cause || phase === "connecting");
  if (!unresolved) hideNotice(() => el.user.focus());
  el["connections-empty"].hidden = users.size > 0;
  el["disconnect-all"].hidden = users.size < 2;
  if (worst.phase === "online" && users.size > 1) setText(el["connection-text"], `${users.size} connected`);
}

function connectTyped(event) {
  event.preventDefault();
  const ids = [...new Set(el.user.value.split(",").map((id) => id.trim()).filter((id) => id !== ""))];
  const fresh = ids.filter((id) => !users.has(id));
  const problem = problemOf(ids, fresh);
  setText(el["user-error"], problem);
  el.user.setAttribute("aria-invalid", String(problem !== ""));
  if (problem) {
    el.user.focus();
    return;
  }
  for (const id of fresh) {
    const user = new User(id);
    users.set(id, user);
    el.connections.append(user.node);
    user.connect();
  }
  announce(`${fresh.join(", ")} connecting.`);
  // Offer the next number.
  const last = ids.at(-1);
  if (/^\d{1,9}$/.test(last)) el.user.value = String(Number(last) + 1);
  el.user.select();
}

function problemOf(ids, fresh) {
  if (ids.length === 0) return "Enter a user id.";
  if (fresh.length === 0) return `Already connected: ${ids.join(", ")}.`;
  const total = users.size + fresh.length;
  if (total > MAX_CONNECTIONS) {
    return `That would be ${total} connections; the limit of this page is ${MAX_CONNECTIONS}.`;
  }
  return fresh.map(nameProblem).find((problem) => problem !== "") ?? "";
}

/* ----------------------------------------------------------------------------------------------------------- wiring */

for (const type of TYPES) count(type, 0);
el.connect.addEventListener("submit", connectTyped);
el["disconnect-all"].addEventListener("click", () => {
  for (const user of [...users.values()]) user.leave();
  el.user.focus();
});
el.pause.addEventListener("click", togglePause);
el.clear.addEventListener("click", () => el.log.replaceChildren());
el.retry.addEventListener("click", () => users.forEach((user) => user.connect()));
setInterval(() => {
  if (document.hidden) return;
  users.forEach((user) => user.showState());
  showAll();
}, 500);

const roster = new PlainRoster(el.roster);
const observer = connect(PRESENCE, { user: `status-page-${Math.random().toString(36).slice(2, 10)}` });
// Without a connection the list is dimmed, since it may be outdated.
observer.on("phase", ({ phase }) => (document.body.dataset.stale = String(phase !== "online")));
observer.on("degraded", showDegraded);
const lobby = observer.observe(ROOM);
lobby.on("change", () => {
  roster.show([...lobby.members.keys()], "");
  setText(el.count, lobby.members.size.toLocaleString());
  announce(`${people(lobby.members.size)} online.`);
});
