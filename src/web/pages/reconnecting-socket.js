/**
 * A WebSocket that reconnects by itself, for protocols other than `presence.v1`. page.js shows its `status`:
 * { phase: "idle" | "connecting" | "online" | "waiting" | "refused" | "closed", attempt?, retryAt?, cause? }.
 *
 *   const socket = new ReconnectingSocket("ws", { greeting: { type: "join", … }, onMessage, onStatus });
 *   socket.connect(); socket.send({ type: "msg", … }); socket.close();
 */

/** Reconnecting waits for a random time up to BASE × 2^attempt, and up to CAP. */
const BACKOFF_BASE_MS = 1_000;
const BACKOFF_CAP_MS = 30_000;
/** After a connection of this length, the backoff starts at the base again. */
const STABLE_AFTER_MS = 10_000;
/** After close code 1012 all clients of that server reconnect. */
const RESTART_SPREAD_MS = 5_000;
/** A page in the back/forward cache reconnects when it is shown again. Until it is frozen, its timers still run. */
const HIDDEN_DELAY_MS = 1e9;
/** After close code 1013 the server is full: wait between one and three times this long. */
const BUSY_DELAY_MS = 10_000;
const OPEN_TIMEOUT_MS = 10_000;
/** When the network comes back, it does so for all clients behind the same router. */
const BACK_ONLINE_SPREAD_MS = 1_000;
/** After this silence a probe is sent, and the connection is given up if nothing arrives within the timeout. */
const SILENT_MS = 20_000;
const PROBE_TIMEOUT_MS = 5_000;
/** The close code for a connection that this client gives up. */
const CLOSE_GIVEN_UP = 4000;

const CLOSE_KINDS = new Map([[1006, "cut"], [1008, "refused"], [1012, "restarting"], [1013, "busy"]]);

export class ReconnectingSocket {
  status = { phase: "idle" };
  #url;
  #greeting;
  #probe;
  #onMessage;
  #onStatus;
  #socket = null;
  /** Failed connections since the last stable one. */
  #attempt = 0;
  #timer = 0;
  #openedAt = Infinity;
  /** Removes the event listeners when the socket is closed for good. */
  #listening = null;

  /**
   * `greeting` is the first message of each connection, `probe` is a message that the server answers. `onMessage` is
   * called with each message, `onStatus` with each status.
   */
  constructor(path, { greeting, probe, onMessage, onStatus }) {
    this.#url = new URL(path, location.href).href.replace(/^http/, "ws");
    this.#greeting = greeting;
    this.#probe = probe;
    this.#onMessage = onMessage;
    this.#onStatus = onStatus;
  }

  /** Connects now: for the first time, before the next attempt is due, or again after a refusal. */
  connect() {
    if (this.#socket) return;
    this.#listening ??= this.#listenToNetwork();
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#openedAt = Infinity;
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => {
      this.#restartProbeTimer();
      this.#onMessage(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      const opened = this.#openedAt !== Infinity;
      this.#lost({ kind: code === 1006 && !opened ? "unreachable" : (CLOSE_KINDS.get(code) ?? "ended"), code, reason });
    };
    this.#after(OPEN_TIMEOUT_MS, () => this.#giveUp("timeout"));
    this.#setStatus({ phase: "connecting", attempt: this.#attempt });
  }

  /** Returns whether the message was sent. Without a connection nothing is queued. */
  send(message) {
    if (this.status.phase !== "online" || this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  close() {
    const socket = this.#detach();
    // Closing a socket before it is open logs an error.
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close(1000);
    else socket?.close(1000);
    this.#listening?.abort();
    this.#listening = null;
    this.#setStatus({ phase: "closed" });
  }

  #listenToNetwork() {
    const listening = new AbortController();
    const online = () => {
      const { phase, cause } = this.status;
      if (phase === "waiting" && cause.kind !== "hidden") this.#retryIn(Math.random() * BACK_ONLINE_SPREAD_MS, cause);
    };
    addEventListener("online", online, { signal: listening.signal });
    // `resume` does not bubble.
    for (const type of ["visibilitychange", "pagehide", "pageshow", "resume"]) {
      addEventListener(type, (event) => this.#check(event), { signal: listening.signal, capture: true });
    }
    return listening;
  }

  #opened() {
    this.#openedAt = Date.now();
    this.#restartProbeTimer();
    if (this.#greeting) this.#socket.send(JSON.stringify(this.#greeting));
    this.#setStatus({ phase: "online" });
  }

  /** The timers of a page that was hidden, frozen or in the cache of the browser are late. */
  #check({ type, persisted }) {
    const { phase, retryAt } = this.status;
    // In the back/forward cache, Chromium would keep the socket open, and the user online.
    if (persisted && type === "pagehide") {
      if (phase !== "refused") this.#giveUp("hidden");
    } else if (phase === "waiting" && (persisted || retryAt <= Date.now())) this.connect();
    else if (phase === "online" && this.#probe) this.#sendProbe();
  }

  /** A connection can break without either side being told, so a silent one is probed. */
  #restartProbeTimer() {
    clearTimeout(this.#timer);
    if (!this.#probe) return;
    this.#after(SILENT_MS, () => this.#sendProbe());
  }

  #sendProbe() {
    this.send(this.#probe);
    this.#after(PROBE_TIMEOUT_MS, () => this.#giveUp("silent"));
  }

  #giveUp(kind) {
    this.#detach()?.close(CLOSE_GIVEN_UP);
    this.#lost({ kind });
  }

  #lost(cause) {
    this.#detach();
    if (cause.kind === "refused") return this.#setStatus({ phase: "refused", cause });
    if (Date.now() - this.#openedAt > STABLE_AFTER_MS) this.#attempt = 0;
    const delay = this.#delay(cause.kind);
    this.#attempt += 1;
    return this.#retryIn(delay, cause);
  }

  #retryIn(delay, cause) {
    this.#after(delay, () => this.connect());
    this.#setStatus({ phase: "waiting", attempt: this.#attempt, retryAt: Date.now() + delay, cause });
  }

  #delay(kind) {
    if (kind === "hidden") return HIDDEN_DELAY_MS;
    if (kind === "busy") return BUSY_DELAY_MS * (1 + 2 * Math.random());
    const backoff = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#attempt);
    return Math.random() * (kind === "restarting" ? RESTART_SPREAD_MS : backoff);
  }

  /** Stops listening to the present socket and returns it. */
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

  #setStatus(status) {
    this.status = status;
    this.#onStatus(status);
  }
}
