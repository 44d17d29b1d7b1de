/**
 * The browser's end of the native protocol `presence.v1`: one WebSocket that comes back by itself, and rooms mirrored
 * from snapshots and diffs. It knows nothing of any page, keeps no storage and needs no other module.
 *
 *   const presence = new PresenceClient({ user: "alice" });
 *   presence.addEventListener("status", () => console.log(presence.status.phase));
 *   const lobby = presence.join("lobby");
 *   lobby.addEventListener("change", () => console.log([...lobby.members.keys()]));
 *   presence.connect();
 *
 * A `status` is one of
 *   { phase: "idle" }                                 before connect()
 *   { phase: "connecting", attempt }                  until the server's welcome
 *   { phase: "online", since }
 *   { phase: "waiting", attempt, retryAt, cause }     the connection is gone; tried again at `retryAt` (ms since epoch)
 *   { phase: "refused", cause }                       the server said no for good (1008); connect() tries again
 *   { phase: "closed" }                               after close()
 * and a `cause` is { kind, code?, reason? }, `kind` one of
 *   "unreachable"  the WebSocket could not be opened       "cut"      it was open and broke
 *   "timeout"      no welcome within the deadline          "silent"   it was open and nothing came any more
 *   "restarting"   close code 1012                         "busy"     close code 1013
 *   "refused"      close code 1008                         "ended"    closed by the server with another code
 */

const PROTOCOL = "presence.v1";

/** From `new WebSocket` to the welcome. Browsers themselves wait for minutes. */
const CONNECT_TIMEOUT_MS = 10_000;
/** Full jitter: a delay between nothing and BASE × 2^attempt, at most CAP. */
const BACKOFF_BASE_MS = 1_000;
const BACKOFF_CAP_MS = 30_000;
/** A connection that has lived this long was a good one: the next loss starts again at the base. */
const STABLE_AFTER_MS = 10_000;
/** After 1012 everybody of that server comes back at once: spread, but be back before the lease has ended. */
const RESTART_SPREAD_MS = 5_000;
/** After 1013 the server has no room: stay away for between one and three times this long. */
const BUSY_DELAY_MS = 10_000;
/** When a welcome does not say. */
const DEFAULT_HEARTBEAT_MS = 5_000;
/** A quiet room sends nothing, so after this many silent heartbeats an ack is asked for; each costs the server a write. */
const SILENT_BEATS_BEFORE_ACK = 3;
const ACK_TIMEOUT_MS = 4_000;
/** A resync that was not answered within this time is asked for again. */
const RESYNC_PATIENCE_MS = 5_000;
/** The browser says it is back on the network: so do all others of the same office. */
const BACK_ONLINE_SPREAD_MS = 1_000;
/** Our own close code for a connection that no longer works. Not 1000: that would be a leave, seen by everybody. */
const CLOSE_GIVEN_UP = 4000;

/** How the server's close codes read as a cause. */
const CLOSE_KINDS = new Map([[1006, "cut"], [1008, "refused"], [1012, "restarting"], [1013, "busy"]]);

/** The delay before attempt number `attempt` (0 is the first after a loss), in ms. */
export function reconnectDelay(kind, attempt, ttlMs = 2 * RESTART_SPREAD_MS, random = Math.random) {
  if (kind === "busy") return BUSY_DELAY_MS * (1 + 2 * random());
  if (kind === "restarting" && attempt === 0) return random() * Math.min(RESTART_SPREAD_MS, ttlMs / 2);
  return random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** attempt);
}

/** Where the page's own server takes connections. */
export function defaultUrl(base = globalThis.location) {
  return `${base.protocol === "https:" ? "wss:" : "ws:"}//${base.host}/v1/connect`;
}

/**
 * One room as this client sees it. `change` events carry `{ joined, updated, left, reset }`: members that came or
 * changed, `{ user, reason? }` of those that went, and whether it was a snapshot (all three are against what was here).
 */
export class Room extends EventTarget {
  /** Everybody in the room: user → { user, state? }. Read it, do not write to it. */
  members = new Map();
  epoch = null;
  seq = 0;
  /** Pages of a snapshot that is not complete yet, and the diffs that came between them. */
  #pending = null;

  constructor(name) {
    super();
    this.name = name;
  }

  get count() {
    return this.members.size;
  }

  /** What to ask for after a reconnect; undefined when there is nothing to go on from. */
  get resume() {
    return this.epoch === null ? undefined : { epoch: this.epoch, seq: this.seq };
  }

  /** Half a snapshot is worth nothing on another connection. */
  disconnected() {
    this.#pending = null;
  }

  /** Takes a snapshot page or a diff. False: it does not follow on what is here, ask for a resync. */
  apply(message) {
    return message.type === "snapshot" ? this.#applyPage(message) : this.#applyDiff(message);
  }

  #applyPage({ epoch, seq, members, page = 1, pages = 1 }) {
    if (page === 1) this.#pending = { epoch, seq, members: new Map(), nextPage: 1, diffs: [] };
    const pending = this.#pending;
    if (!pending || pending.epoch !== epoch || pending.seq !== seq || pending.nextPage !== page) return false;
    for (const member of members) pending.members.set(member.user, member);
    pending.nextPage += 1;
    if (page === pages) this.#replace(pending);
    return true;
  }

  #applyDiff(diff) {
    const pending = this.#pending;
    if (pending) {
      const expected = pending.seq + pending.diffs.length + 1;
      if (diff.seq === expected) pending.diffs.push(diff);
      return diff.seq <= expected;
    }
    const known = this.epoch !== null && (diff.epoch === undefined || diff.epoch === this.epoch);
    if (!known || diff.seq > this.seq + 1) return false;
    if (diff.seq === this.seq + 1) this.#emit({ ...this.#patch(diff), reset: false });
    return true;
  }

  #replace({ epoch, seq, members, diffs }) {
    const before = this.members;
    this.members = members;
    this.epoch = epoch;
    this.seq = seq;
    this.#pending = null;
    for (const diff of diffs) this.#patch(diff);
    const joined = [...this.members.values()].filter(({ user }) => !before.has(user));
    const updated = [...this.members.values()].filter(({ user }) => before.has(user));
    const left = [...before.keys()].filter((user) => !this.members.has(user)).map((user) => ({ user }));
    this.#emit({ joined, updated, left, reset: true });
  }

  /** Applies a diff and returns what it really changed; the same one twice changes nothing. */
  #patch({ seq, joined = [], updated = [], left = [] }) {
    const changes = { joined: [], updated: [], left: [] };
    for (const member of [...joined, ...updated]) {
      (this.members.has(member.user) ? changes.updated : changes.joined).push(member);
      this.members.set(member.user, member);
    }
    changes.left = left.filter(({ user }) => this.members.delete(user));
    this.seq = seq;
    return changes;
  }

  #emit(detail) {
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }
}

/**
 * The connection. Events: `status` (detail: the status), `error` (detail: the server's error message).
 * `welcome` holds what the server said last about itself: its node and its intervals.
 */
export class PresenceClient extends EventTarget {
  status = { phase: "idle" };
  welcome = null;
  #url;
  #WebSocket;
  #rooms = new Map();
  /** Room → when its resync was asked for; emptied by the snapshot that answers. */
  #resyncs = new Map();
  #socket = null;
  /** Reconnects since the last stable connection. */
  #attempt = 0;
  #silentBeats = 0;
  /** Purpose → timer. One of each at most. */
  #timers = new Map();
  /** Ends the listeners on window and document. */
  #listening = null;

  constructor({ user, url = defaultUrl(), WebSocket = globalThis.WebSocket }) {
    super();
    this.user = user;
    this.#url = url;
    this.#WebSocket = WebSocket;
  }

  /** Present in `name` and looking at it, now and after every reconnect. */
  join(name) {
    const room = this.#rooms.get(name) ?? new Room(name);
    this.#rooms.set(name, room);
    if (this.status.phase === "online") this.#sendJoin(room);
    return room;
  }

  /** Connects now: the first time, instead of waiting for the next attempt, or again after a refusal. */
  connect() {
    if (this.#socket) return;
    this.#listen();
    this.#stopTimers();
    const socket = new this.#WebSocket(`${this.#url}?user=${encodeURIComponent(this.user)}`, PROTOCOL);
    this.#socket = socket;
    let opened = false;
    socket.onopen = () => (opened = true);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => {
      const kind = code === 1006 && !opened ? "unreachable" : (CLOSE_KINDS.get(code) ?? "ended");
      this.#lost({ kind, code, reason });
    };
    this.#after("deadline", CONNECT_TIMEOUT_MS, () => this.#giveUp("timeout"));
    this.#setStatus({ phase: "connecting", attempt: this.#attempt });
  }

  /** Leaves every room at once and stays away. */
  close() {
    this.#listening?.abort();
    this.#listening = null;
    this.#detach()?.close(1000);
    this.#setStatus({ phase: "closed" });
  }

  get #heartbeatMs() {
    return this.welcome.heartbeat_ms || DEFAULT_HEARTBEAT_MS;
  }

  #receive(data) {
    this.#stop("ack");
    this.#silentBeats = 0;
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return; // not for us: a later protocol may send frames this version cannot read
    }
    const type = message?.type;
    if (type === "welcome") this.#welcomed(message);
    else if (type === "snapshot" || type === "diff") this.#mirror(message);
    else if (type === "error") this.dispatchEvent(new CustomEvent("error", { detail: message }));
  }

  #welcomed(welcome) {
    this.welcome = welcome;
    this.#stop("deadline");
    this.#after("stable", STABLE_AFTER_MS, () => (this.#attempt = 0));
    // The first heartbeat at a random point of the interval: many clients that connect at once do not beat as one.
    this.#after("beat", this.#heartbeatMs * Math.random(), () => this.#beat());
    for (const room of this.#rooms.values()) this.#sendJoin(room);
    this.#setStatus({ phase: "online", since: Date.now() });
  }

  #mirror(message) {
    const room = this.#rooms.get(message.room);
    if (!room) return;
    if (message.type === "snapshot") this.#resyncs.delete(room);
    if (!room.apply(message)) this.#resync(room);
  }

  #resync(room) {
    if (Date.now() - (this.#resyncs.get(room) ?? 0) < RESYNC_PATIENCE_MS) return;
    this.#resyncs.set(room, Date.now());
    this.#send({ type: "resync", room: room.name });
  }

  #sendJoin(room) {
    this.#send({ type: "join", room: room.name, resume: room.resume });
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #beat() {
    this.#after("beat", this.#heartbeatMs, () => this.#beat());
    this.#silentBeats += 1;
    if (this.#silentBeats > SILENT_BEATS_BEFORE_ACK) this.#probe();
    else this.#socket.send("heartbeat");
  }

  /** Asks for a sign of life; whatever comes next counts as one. */
  #probe() {
    this.#send({ type: "heartbeat", ack: true });
    if (!this.#timers.has("ack")) this.#after("ack", ACK_TIMEOUT_MS, () => this.#giveUp("silent"));
  }

  /** The socket is of no use any more, whatever it thinks itself. Its own close event could take minutes. */
  #giveUp(kind) {
    this.#socket.close(CLOSE_GIVEN_UP, kind);
    this.#lost({ kind });
  }

  #lost(cause) {
    this.#detach();
    if (cause.kind === "refused") {
      this.#setStatus({ phase: "refused", cause });
      return;
    }
    const delay = reconnectDelay(cause.kind, this.#attempt, this.welcome?.ttl_ms);
    this.#attempt += 1;
    this.#retryIn(delay, cause);
  }

  #retryIn(delay, cause) {
    this.#after("retry", delay, () => this.connect());
    this.#setStatus({ phase: "waiting", attempt: this.#attempt, retryAt: Date.now() + delay, cause });
  }

  /** Takes our hands off the socket and returns it. */
  #detach() {
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#socket = null;
    this.#stopTimers();
    this.#silentBeats = 0;
    this.#resyncs.clear();
    for (const room of this.#rooms.values()) room.disconnected();
    return socket;
  }

  #setStatus(status) {
    this.status = status;
    this.dispatchEvent(new CustomEvent("status", { detail: status }));
  }

  /** The browser's own news: the network comes and goes, the tab wakes up. */
  #listen() {
    if (this.#listening || !globalThis.addEventListener) return;
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    addEventListener("online", () => this.#networkIsBack(), { signal });
    addEventListener("offline", () => this.#doubt(), { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && this.#woken(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#woken(), { signal });
  }

  #networkIsBack() {
    const { phase, cause } = this.status;
    if (phase === "waiting") this.#retryIn(Math.random() * BACK_ONLINE_SPREAD_MS, cause);
    this.#doubt();
  }

  /** Hidden tabs get their timers late, and a computer that slept gets them later. */
  #woken() {
    const { phase, retryAt } = this.status;
    if (phase === "waiting" && retryAt <= Date.now()) this.connect();
    this.#doubt();
  }

  #doubt() {
    if (this.status.phase === "online") this.#probe();
  }

  #after(purpose, ms, action) {
    this.#stop(purpose);
    const timer = setTimeout(() => {
      this.#timers.delete(purpose);
      action();
    }, ms);
    this.#timers.set(purpose, timer);
  }

  #stop(purpose) {
    clearTimeout(this.#timers.get(purpose));
    this.#timers.delete(purpose);
  }

  #stopTimers() {
    for (const purpose of [...this.#timers.keys()]) this.#stop(purpose);
  }
}
