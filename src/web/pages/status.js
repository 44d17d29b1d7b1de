/**
 * The page at `/status`: as many users of the online-status protocol as one likes, connected and disconnected by hand,
 * and every message they are sent. A connection that is lost comes back by itself, as a client of this protocol would.
 */

import { avatarOf, element, nameOf, setText } from "/dom.js";
import { LiveSocket } from "/live-socket.js";
import { nameProblem } from "/names.js";
import { announce, el, hideNotice, people, showConnection, showTrouble } from "/page.js";
import { connect } from "/presence.js";
import { PlainRoster } from "/roster.js";

const ROOM = "lobby";
const MAX_CONNECTIONS = 20;
const MAX_LOG_LINES = 200;
const TYPES = ["CONNECTION_ESTABLISHED", "USER_ONLINE", "USER_OFFLINE"];
const MEANINGS = {
  CONNECTION_ESTABLISHED: "one per connection, and per reconnect",
  USER_ONLINE: "somebody came, or was here already",
  USER_OFFLINE: "the last connection of somebody ended",
};

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit",
  fractionalSecondDigits: 3, hourCycle: "h23" });

/* ---------------------------------------------------------------------------------------------------------- counters */

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

/* --------------------------------------------------------------------------------------------------------------- log */

let paused = false;
let missed = 0;

function log(user, kind, text) {
  if (paused) {
    missed += 1;
    setText(el.pause, `Go on (${missed.toLocaleString()})`);
    return;
  }
  const line = element("li", `wire-line type-${kind}`, element("time", "", timeFormat.format(new Date())),
    element("bdi", "wire-user", user), element("code", "wire-text", text));
  el.log.prepend(line);
  while (el.log.childElementCount > MAX_LOG_LINES) el.log.lastElementChild.remove();
}

function pause() {
  paused = !paused;
  missed = 0;
  el.pause.setAttribute("aria-pressed", String(paused));
  setText(el.pause, paused ? "Go on" : "Pause");
}

/* ------------------------------------------------------------------------------------------------------- connections */

/** User id → its connection. */
const users = new Map();

class User {
  #live;
  #state = element("span", "connection-state");
  #told = element("span", "connection-told");
  #messages = 0;

  constructor(id) {
    this.id = id;
    const button = element("button", "button small", "Disconnect");
    button.type = "button";
    button.setAttribute("aria-label", `Disconnect ${id}`);
    button.addEventListener("click", () => this.leave());
    this.node = element("li", "connection", avatarOf(id), nameOf(id),
      element("span", "connection-facts", this.#state, this.#told), button);
    this.#live = new LiveSocket(`/ws-online-status?userId=${encodeURIComponent(id)}`, {
      receive: (message) => this.#receive(message),
      changed: (status) => this.#changed(status),
    });
  }

  get status() {
    return this.#live.status;
  }

  connect() {
    this.#live.connect();
  }

  leave() {
    users.delete(this.id);
    const next = this.node.nextElementSibling ?? this.node.previousElementSibling;
    const hadFocus = this.node.contains(document.activeElement);
    this.node.remove();
    this.#live.close();
    if (hadFocus) (next?.querySelector("button") ?? el.user).focus();
  }

  /** Once a second, for the countdown. */
  showState() {
    const { phase, retryAt, cause } = this.status;
    const texts = { connecting: "connecting…", online: "connected", refused: `refused: ${cause?.reason}`, closed: "disconnected" };
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    setText(this.#state, phase === "waiting" ? `lost, again in ${seconds} s` : texts[phase]);
    this.node.dataset.phase = phase;
  }

  #receive(message) {
    this.#messages += 1;
    setText(this.#told, `${this.#messages.toLocaleString()} ${this.#messages === 1 ? "message" : "messages"}`);
    count(message.type, 1);
    log(this.id, message.type, JSON.stringify(message));
  }

  #changed(status) {
    const { phase, cause } = status;
    this.showState();
    if (phase === "closed") log(this.id, "closed", "disconnected by hand (1000)");
    if (phase === "waiting" && cause.code) log(this.id, "closed", `closed by the server: ${cause.code} ${cause.reason || cause.kind}`);
    else if (phase === "waiting") log(this.id, "closed", `no connection: ${cause.kind}`);
    showAll();
    if (cause) showTrouble(cause, () => this.status === status && users.has(this.id));
  }
}

/** The page's pill and notice tell of all connections: the worst of them. */
function showAll() {
  const statuses = [...users.values()].map((user) => user.status);
  const worst = ["refused", "waiting", "connecting", "online"].map((phase) => statuses.find((status) => status.phase === phase))
    .find(Boolean) ?? { phase: "idle" };
  showConnection(worst);
  if (!statuses.some(({ cause }) => cause) && !statuses.some(({ phase }) => phase === "connecting")) hideNotice(() => el.user.focus());
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
  // The next number is what one wants next.
  const last = ids.at(-1);
  if (/^\d{1,9}$/.test(last)) el.user.value = String(Number(last) + 1);
  el.user.select();
}

function problemOf(ids, fresh) {
  if (ids.length === 0) return "Please type a user id.";
  if (fresh.length === 0) return `${ids.join(", ")} is connected already.`;
  if (users.size + fresh.length > MAX_CONNECTIONS) return `This page holds ${MAX_CONNECTIONS} connections at most.`;
  return fresh.map(nameProblem).find((problem) => problem !== "") ?? "";
}

/* ------------------------------------------------------------------------------------------------------ all together */

for (const type of TYPES) count(type, 0);
el.connect.addEventListener("submit", connectTyped);
el["disconnect-all"].addEventListener("click", () => {
  for (const user of [...users.values()]) user.leave();
  el.user.focus();
});
el.pause.addEventListener("click", pause);
el.clear.addEventListener("click", () => el.log.replaceChildren());
el.retry.addEventListener("click", () => users.forEach((user) => user.connect()));
setInterval(() => {
  if (document.hidden) return;
  users.forEach((user) => user.showState());
  showAll();
}, 500);

const roster = new PlainRoster(el.roster);
const onlooker = connect(undefined, { user: `status-page-${Math.random().toString(36).slice(2, 10)}` });
// Else what was true when the connection went would look like now.
onlooker.on("phase", ({ phase }) => (document.body.dataset.stale = String(phase !== "online")));
const lobby = onlooker.observe(ROOM);
lobby.on("change", () => {
  roster.show([...lobby.members.keys()], "");
  setText(el.count, lobby.members.size.toLocaleString());
  announce(`${people(lobby.members.size)} online.`);
});
