/**
 * A WebSocket that comes back by itself, for the protocols that are not `presence.v1`. Its `status` has the form that
 * page.js shows: { phase: "connecting" | "online" | "waiting" | "refused" | "closed", attempt?, retryAt?, cause? }.
 *
 *   const live = new LiveSocket("/ws", { greet: { type: "join", … }, receive, changed });
 *   live.connect(); live.send({ type: "msg", … }); live.close();
 */

/** Full jitter: a delay between nothing and BASE × 2^attempt, at most CAP. */
const BACKOFF_BASE_MS = 1_000;
const BACKOFF_CAP_MS = 30_000;
/** A connection that has lived this long was a good one: the next loss starts again at the base. */
const STABLE_AFTER_MS = 10_000;
/** After 1012 everybody of that server comes back at once. */
const RESTART_SPREAD_MS = 5_000;
/** After 1013 the server has no room: stay away for between one and three times this long. */
const BUSY_DELAY_MS = 10_000;
const OPEN_TIMEOUT_MS = 10_000;
/** The browser says it is back on the network: so do all others of the same office. */
const BACK_ONLINE_SPREAD_MS = 1_000;
/** After so long a silence a sign of life is asked for, and waited for so long. */
const SILENT_MS = 20_000;
const PATIENCE_MS = 5_000;
/** Our own close code for a connection that is given up. */
const CLOSE_GIVEN_UP = 4000;

const CLOSE_KINDS = new Map([[1006, "cut"], [1008, "refused"], [1012, "restarting"], [1013, "busy"]]);

export class LiveSocket {
  status = { phase: "idle" };
  #url;
  #greet;
  #probe;
  #receive;
  #changed;
  #socket = null;
  /** Losses since the last good connection. */
  #attempt = 0;
  #timer = 0;
  #openedAt = Infinity;
  /** Ends the listening for the network; a socket that is closed for good leaves nothing behind. */
  #listening = null;

  /**
   * `greet` is the first message, `probe` one that the server answers, `receive` gets each message, `changed` each status.
   */
  constructor(path, { greet, probe, receive, changed }) {
    this.#url = `${location.origin.replace(/^http/, "ws")}${path}`;
    this.#greet = greet;
    this.#probe = probe;
    this.#receive = receive;
    this.#changed = changed;
  }

  /** Now: the first time, instead of waiting for the next attempt, or again after a refusal. */
  connect() {
    if (this.#socket) return;
    this.#listening ??= this.#listenForTheNetwork();
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#openedAt = Infinity;
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => {
      this.#listen();
      this.#receive(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      const opened = this.#openedAt !== Infinity;
      this.#lost({ kind: code === 1006 && !opened ? "unreachable" : (CLOSE_KINDS.get(code) ?? "ended"), code, reason });
    };
    this.#after(OPEN_TIMEOUT_MS, () => this.#giveUp("timeout"));
    this.#set({ phase: "connecting", attempt: this.#attempt });
  }

  /** Whether it went out: what is said while there is no connection is not kept. */
  send(message) {
    if (this.status.phase !== "online" || this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  close() {
    const socket = this.#detach();
    // Closing before it is open would be an error in the console.
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close(1000);
    else socket?.close(1000);
    this.#listening?.abort();
    this.#listening = null;
    this.#set({ phase: "closed" });
  }

  #listenForTheNetwork() {
    const listening = new AbortController();
    const online = () => {
      if (this.status.phase === "waiting") this.#retryIn(Math.random() * BACK_ONLINE_SPREAD_MS, this.status.cause);
    };
    addEventListener("online", online, { signal: listening.signal });
    return listening;
  }

  #opened() {
    this.#openedAt = Date.now();
    this.#listen();
    if (this.#greet) this.#socket.send(JSON.stringify(this.#greet));
    this.#set({ phase: "online" });
  }

  /** A line that is cut silently tells nobody: whoever hears nothing has to ask. */
  #listen() {
    clearTimeout(this.#timer);
    if (!this.#probe) return;
    this.#after(SILENT_MS, () => {
      this.send(this.#probe);
      this.#after(PATIENCE_MS, () => this.#giveUp("silent"));
    });
  }

  #giveUp(kind) {
    this.#detach().close(CLOSE_GIVEN_UP);
    this.#lost({ kind });
  }

  #lost(cause) {
    this.#detach();
    if (cause.kind === "refused") return this.#set({ phase: "refused", cause });
    if (Date.now() - this.#openedAt > STABLE_AFTER_MS) this.#attempt = 0;
    const delay = this.#delay(cause.kind);
    this.#attempt += 1;
    return this.#retryIn(delay, cause);
  }

  #retryIn(delay, cause) {
    this.#after(delay, () => this.connect());
    this.#set({ phase: "waiting", attempt: this.#attempt, retryAt: Date.now() + delay, cause });
  }

  #delay(kind) {
    if (kind === "busy") return BUSY_DELAY_MS * (1 + 2 * Math.random());
    const longest = kind === "restarting" ? RESTART_SPREAD_MS : Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#attempt);
    return Math.random() * longest;
  }

  /** Takes our hands off the socket and returns it. */
  #detach() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#socket = null;
    return socket;
  }

  #after(ms, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }

  #set(status) {
    this.status = status;
    this.#changed(status);
  }
}
