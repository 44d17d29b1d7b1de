// The client of rollcall; presence.d.ts says what it does.

const CONNECT_TIMEOUT_MS = 10000;
const BACKOFF_BASE_MS = 1000;
const BACKOFF_CAP_MS = 30000;
const ACK_TIMEOUT_MS = 4000;
const SILENT_BEATS = 3;
const MAX_HELD_DIFFS = 64;
const MAX_STATE_BYTES = 1024;
const MAX_DATA_BYTES = 4096;
const MAX_BUFFERED_BYTES = 1e6;
const NAMES_PER_FRAME = 50;
const KINDS = { 1006: "cut", 1008: "refused", 1012: "restarting", 1013: "busy" };

const now = () => Date.now();
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function fit(text, most) {
  if (new Blob([text]).size > most) throw new RangeError(`more than ${most} bytes`);
}

function checkName(name) {
  if (typeof name !== "string" || !/^[^\p{Cc}\p{Cs}]+$/u.test(name)) throw new TypeError(`not a name: ${name}`);
  fit(name, 128);
}

function emitter() {
  const handlers = {};
  return {
    on(event, handler) {
      (handlers[event] ??= new Set()).add(handler);
      return () => void handlers[event].delete(handler);
    },
    emit(event, ...args) {
      for (const handler of [...(handlers[event] ?? [])]) {
        try {
          if (handlers[event].has(handler)) handler(...args);
        } catch (error) {
          setTimeout(() => { throw error; }, 0); // the mirror goes on
        }
      }
    },
  };
}

export function connect(url, { user, token, away, WebSocket = globalThis.WebSocket } = {}) {
  const { on, emit } = emitter();
  const rooms = new Map();
  const watches = new Set();
  let socket, listening, timer, ackTimer, lossy;
  let attempt = 0;
  let silentBeats = 0;

  checkName(user);
  if (away === true) away = { away };
  const address = new URL(url ?? "/", globalThis.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (address.pathname === "/") address.pathname = "/v1/connect";

  const presence = {
    user, token, connection: { phase: "closed" }, welcome: null, degraded: false,
    on, watch, connect, close,
    join: (name, options) => enter(name, { ...options, joined: true }),
    observe: (name, options) => enter(name, { ...options, observe: true }),
  };
  const heartbeatMs = () => presence.welcome?.heartbeat_ms ?? 5000;

  function enter(name, wish) {
    checkName(name);
    if (wish.state !== undefined) wish.state = checkState(wish.state);
    const room = rooms.get(name) ?? createRoom(name);
    rooms.set(name, room);
    room.want(wish);
    return room.room;
  }

  function checkState(state) {
    const text = JSON.stringify(state);
    if (!/^({|null$)/.test(text)) throw new TypeError(`not an object: ${text}`);
    fit(JSON.stringify({ ...state, ...away }), MAX_STATE_BYTES);
    return JSON.parse(text);
  }

  function createRoom(name) {
    const { on, emit } = emitter();
    const members = new Map();
    const wanted = { observe: true, detail: "members", state: away ? null : undefined };
    let epoch, pages, asked;

    const room = {
      name, members, count: 0, seq: 0, ready: false, on,
      setState(state) {
        wanted.state = checkState(state);
        sendState();
      },
      send(data = null) {
        fit(JSON.stringify(data), MAX_DATA_BYTES);
        return !(socket?.bufferedAmount > MAX_BUFFERED_BYTES) && send({ type: "message", room: name, data });
      },
      leave() {
        if (rooms.get(name)?.room !== room) return;
        rooms.delete(name);
        send({ type: wanted.joined ? "leave" : "unobserve", room: name });
        wanted.joined = false;
        forget();
      },
    };

    const shown = () => (away && globalThis.document?.hidden ? { ...wanted.state, ...away } : wanted.state);

    function sendState() {
      if (wanted.joined) send({ type: "state", room: name, state: shown() });
    }

    function want(wish) {
      const { detail } = wanted;
      for (const key in wish) if (wish[key] !== undefined) wanted[key] = wish[key];
      if (!wanted.observe || detail !== wanted.detail) forget();
      ask();
    }

    function forget() {
      members.clear();
      epoch = undefined;
      room.count = room.seq = 0;
      room.ready = false;
    }

    function ask() {
      const { joined, observe, detail } = wanted;
      const state = shown();
      if (!epoch) room.seq = 0;
      pages = undefined;
      asked = observe && !epoch && now();
      const resume = epoch && { epoch, seq: room.seq };
      send({ type: joined ? "join" : "observe", room: name, state, observe, detail, resume });
      if (state === null) sendState(); // in a join it means: as before
    }

    // Where one message was lost, the last one may be too.
    function check() {
      if (asked ? asked + 2 * heartbeatMs() <= now() : wanted.observe && lossy) ask();
    }

    function gap() {
      if (asked + heartbeatMs() / 5 > now()) return;
      pages = undefined;
      asked = now();
      lossy = true;
      send({ type: "resync", room: name });
    }

    function receive(message) {
      const { type, seq, count } = message;
      if (type === "message") emit(type, message);
      else if (wanted.detail === "count") {
        if (type !== "count" || seq < room.seq) return;
        room.seq = seq;
        settle(count);
      } else if (type === "snapshot") takePage(message);
      else if (type === "diff") takeDiff(message);
    }

    function takePage(message) {
      const { seq, page } = message;
      if (message.epoch === epoch && seq <= room.seq) return void (asked = 0);
      const id = message.epoch + seq;
      if (page === 1) pages = { id, next: 1, joined: [], diffs: [] };
      if (pages?.id !== id || pages.next !== page) return gap();
      const { joined, diffs } = pages;
      pages.next++;
      joined.push(...message.members);
      asked = now();
      if (page < message.pages) return;
      const gone = new Set(members.keys());
      for (const { user } of joined) gone.delete(user);
      const left = [...gone].map((user) => ({ user }));
      epoch = message.epoch;
      pages = undefined;
      become({ seq, joined, left }, true);
      diffs.forEach(takeDiff);
    }

    function takeDiff(diff) {
      if (pages) pages.diffs.push(diff) > MAX_HELD_DIFFS && gap();
      else if (!epoch || diff.seq > room.seq + 1) gap();
      else if (diff.seq > room.seq) become(diff, false);
    }

    function become({ seq, joined = [], updated = [], left = [] }, reset) {
      const news = { joined: [], updated: [], left: left.filter(({ user }) => members.delete(user)), reset };
      for (const { user, state = null } of [...joined, ...updated]) {
        if (!members.has(user)) news.joined.push({ user, state });
        else if (!same(members.get(user), state)) news.updated.push({ user, state });
        members.set(user, state);
      }
      room.seq = seq;
      settle(members.size);
      emit("change", news);
      for (const one of news.joined) emit("join", one, reset);
      for (const one of news.updated) emit("update", one, reset);
      for (const one of news.left) emit("leave", one, reset);
    }

    function settle(count) {
      const news = !room.ready || count !== room.count;
      asked = 0;
      room.ready = true;
      room.count = count;
      if (news) emit("count", count);
    }

    return { room, want, ask, check, receive, sendState };
  }

  function watch(users) {
    const { on, emit } = emitter();
    const watch = { users: new Map(), on, close };
    const names = [...new Set(users)];
    names.forEach(checkName);

    function close() {
      if (!watches.delete(inner)) return;
      const others = new Set([...watches].flatMap(({ names }) => names));
      sendNames("unwatch", names.filter((name) => !others.has(name)));
    }

    function tell(told) {
      const news = told.filter(({ user, ...status }) => names.includes(user) && !same(watch.users.get(user), status));
      for (const { user, ...status } of news) watch.users.set(user, status);
      if (news.length) emit("change", news);
    }

    const inner = { names, tell };
    watches.add(inner);
    sendNames("watch", names);
    return watch;
  }

  function sendNames(type, names) {
    for (let at = 0; at < names.length; at += NAMES_PER_FRAME) send({ type, users: names.slice(at, at + NAMES_PER_FRAME) });
  }

  function show(connection, event) {
    presence.connection = connection;
    emit("phase", connection);
    if (event) emit(event, connection);
  }

  function later(ms, action, what) {
    clearTimeout(timer);
    timer = setTimeout(action, ms, what);
  }

  function send(message) {
    if (presence.connection.phase !== "online") return false;
    socket.send(JSON.stringify(message));
    return true;
  }

  function connect() {
    if (socket) return;
    address.searchParams.set("user", user);
    address.searchParams.delete("token");
    if (presence.token) address.searchParams.set("token", presence.token);
    socket = new WebSocket(address.href, "presence.v1");
    socket.onmessage = ({ data }) => receive(data);
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => lost({ kind: KINDS[code] ?? "ended", code, reason });
    later(CONNECT_TIMEOUT_MS, giveUp, "timeout");
    listening ??= new AbortController();
    for (const type of ["online", "offline", "visibilitychange"]) {
      globalThis.addEventListener?.(type, browserSays, listening);
    }
    show({ phase: "connecting", attempt });
  }

  function close() {
    const old = detach();
    if (old?.readyState === 0) old.onopen = () => old.close(1000); // else: a console error
    else old?.close(1000);
    listening?.abort();
    listening = undefined;
    show({ phase: "closed" });
  }

  function receive(data) {
    clearTimeout(ackTimer);
    ackTimer = silentBeats = 0;
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    const type = message?.type;
    if (type === "welcome") welcomed(message);
    else if (type === "status") {
      for (const { tell } of watches) tell(message.users);
      emit(type, message.users);
    } else if (type === "health") takeHealth(message);
    else if (type === "error") emit(type, message);
    else rooms.get(message?.room)?.receive(message);
  }

  function welcomed(welcome) {
    if (presence.connection.phase === "online") return;
    presence.welcome = welcome;
    presence.connection = { phase: "online", since: now() };
    lossy = false;
    later(heartbeatMs() * Math.random(), beat);
    for (const { ask } of rooms.values()) ask();
    for (const { names } of watches) sendNames("watch", names);
    show(presence.connection, "open");
    takeHealth({ degraded: false });
  }

  function takeHealth({ degraded, since }) {
    if (degraded === presence.degraded) return;
    presence.degraded = degraded;
    emit("degraded", { degraded, since });
  }

  function beat() {
    later(heartbeatMs(), beat);
    for (const { check } of rooms.values()) check();
    if (++silentBeats > SILENT_BEATS) probe();
    else socket.send("heartbeat");
  }

  function probe() {
    if (send({ type: "heartbeat", ack: true })) ackTimer ||= setTimeout(giveUp, ACK_TIMEOUT_MS, "silent");
  }

  // Not 1000: that is a leave.
  function giveUp(kind) {
    socket.close(4000, kind);
    lost({ kind });
  }

  function lost(cause) {
    const { since } = presence.connection;
    if (cause.code === 1006 && !since) cause.kind = "unreachable";
    const { kind } = cause;
    detach();
    if (since + presence.welcome?.ttl_ms <= now()) attempt = 0;
    let connection = { phase: kind, cause };
    if (kind !== "refused") {
      let delay = Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** attempt);
      if (kind === "busy") delay = (BACKOFF_CAP_MS / 3) * (1 + 2 * Math.random());
      if (kind === "restarting" && !attempt) delay = Math.random() * heartbeatMs();
      attempt++;
      later(delay, connect);
      connection = { phase: "waiting", attempt, retryAt: now() + delay, cause };
    }
    show(connection, "down");
  }

  function detach() {
    const old = socket;
    if (old) old.onmessage = old.onclose = null;
    clearTimeout(timer);
    clearTimeout(ackTimer);
    socket = undefined;
    ackTimer = silentBeats = 0;
    return old;
  }

  function browserSays({ type }) {
    const { phase, retryAt } = presence.connection;
    if (away && type === "visibilitychange") for (const { sendState } of rooms.values()) sendState();
    if (phase === "waiting" && (type === "online" || retryAt <= now())) connect();
    probe();
  }

  connect();
  return presence;
}
