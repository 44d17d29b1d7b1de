// The rollcall client, documented in presence.d.ts.

const CONNECT_TIMEOUT_MS = 10000;
const BACKOFF_BASE_MS = 1000;
const BACKOFF_CAP_MS = 30000;
const ACK_TIMEOUT_MS = 4000;
const SILENT_HEARTBEATS = 3;
const MAX_DIFFS = 64;
const MAX_STATE_BYTES = 1024;
const MAX_DATA_BYTES = 4096;
const MAX_BUFFERED_BYTES = 1e6;
const MAX_NAMES = 50;
const KINDS = { 1006: "cut", 1008: "refused", 1012: "restarting", 1013: "busy" };

const now = () => Date.now();
const equal = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function checkSize(text, limit) {
  if (new Blob([text]).size > limit) throw new RangeError(`the limit is ${limit} bytes`);
}

function checkName(name) {
  if (typeof name !== "string" || !/^[^\p{Cc}\p{Cs}]+$/u.test(name)) throw new TypeError(`not a name: ${name}`);
  checkSize(name, 128);
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
          setTimeout(() => { throw error; }, 0); // reported as uncaught
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
  let silentHeartbeats = 0;

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

  function enter(name, options) {
    checkName(name);
    if (options.state !== undefined) options.state = checkState(options.state);
    const room = rooms.get(name) ?? createRoom(name);
    rooms.set(name, room);
    room.configure(options);
    return room.room;
  }

  function checkState(state) {
    const text = JSON.stringify(state);
    if (!/^({|null$)/.test(text)) throw new TypeError(`not an object: ${text}`);
    checkSize(JSON.stringify({ ...state, ...away }), MAX_STATE_BYTES);
    return JSON.parse(text);
  }

  function createRoom(name) {
    const { on, emit } = emitter();
    const members = new Map();
    const options = { observe: true, detail: "members", state: away ? null : undefined };
    let epoch, pages, requestedAt;

    const room = {
      name, members, count: 0, seq: 0, ready: false, on,
      setState(state) {
        options.state = checkState(state);
        sendState();
      },
      send(data = null) {
        checkSize(JSON.stringify(data), MAX_DATA_BYTES);
        return !(socket?.bufferedAmount > MAX_BUFFERED_BYTES) && send({ type: "message", room: name, data });
      },
      leave() {
        if (rooms.get(name)?.room !== room) return;
        rooms.delete(name);
        send({ type: options.joined ? "leave" : "unobserve", room: name });
        options.joined = false;
        clear();
      },
    };

    const currentState = () => (away && globalThis.document?.hidden ? { ...options.state, ...away } : options.state);

    function sendState() {
      if (options.joined) send({ type: "state", room: name, state: currentState() });
    }

    function configure(changed) {
      const { detail } = options;
      for (const key in changed) if (changed[key] !== undefined) options[key] = changed[key];
      if (!options.observe || detail !== options.detail) clear();
      request();
    }

    function clear() {
      members.clear();
      epoch = undefined;
      room.count = room.seq = 0;
      room.ready = false;
    }

    function request() {
      const { joined, observe, detail } = options;
      const state = currentState();
      if (!epoch) room.seq = 0;
      pages = undefined;
      requestedAt = observe && !epoch && now();
      const resume = epoch && { epoch, seq: room.seq };
      send({ type: joined ? "join" : "observe", room: name, state, observe, detail, resume });
      if (state === null) sendState(); // null in a join keeps it
    }

    // If one message was lost, so may be the last.
    function check() {
      if (requestedAt ? requestedAt + 2 * heartbeatMs() <= now() : options.observe && lossy) request();
    }

    function resync() {
      if (requestedAt + heartbeatMs() / 5 > now()) return;
      pages = undefined;
      requestedAt = now();
      lossy = true;
      send({ type: "resync", room: name });
    }

    function receive(message) {
      const { type, seq, count } = message;
      if (type === "message") emit(type, message);
      else if (options.detail === "count") {
        if (type !== "count" || seq < room.seq) return;
        room.seq = seq;
        setCount(count);
      } else if (type === "snapshot") receivePage(message);
      else if (type === "diff") receiveDiff(message);
    }

    function receivePage(message) {
      const { seq, page } = message;
      if (message.epoch === epoch && seq <= room.seq) return void (requestedAt = 0);
      const id = message.epoch + seq;
      if (page === 1) pages = { id, next: 1, joined: [], diffs: [] };
      if (pages?.id !== id || pages.next !== page) return resync();
      const { joined, diffs } = pages;
      pages.next++;
      joined.push(...message.members);
      requestedAt = now();
      if (page < message.pages) return;
      const gone = new Set(members.keys());
      for (const { user } of joined) gone.delete(user);
      const left = [...gone].map((user) => ({ user }));
      epoch = message.epoch;
      pages = undefined;
      apply({ seq, joined, left }, true);
      diffs.forEach(receiveDiff);
    }

    function receiveDiff(diff) {
      if (pages) pages.diffs.push(diff) > MAX_DIFFS && resync();
      else if (!epoch || diff.seq > room.seq + 1) resync();
      else if (diff.seq > room.seq) apply(diff, false);
    }

    function apply({ seq, joined = [], updated = [], left = [] }, reset) {
      const change = { joined: [], updated: [], left: left.filter(({ user }) => members.delete(user)), reset };
      for (const { user, state = null } of [...joined, ...updated]) {
        if (!members.has(user)) change.joined.push({ user, state });
        else if (!equal(members.get(user), state)) change.updated.push({ user, state });
        members.set(user, state);
      }
      room.seq = seq;
      setCount(members.size);
      emit("change", change);
      for (const member of change.joined) emit("join", member, reset);
      for (const member of change.updated) emit("update", member, reset);
      for (const member of change.left) emit("leave", member, reset);
    }

    function setCount(count) {
      const changed = !room.ready || count !== room.count;
      requestedAt = 0;
      room.ready = true;
      room.count = count;
      if (changed) emit("count", count);
    }

    return { room, configure, request, check, receive, sendState };
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

    function receive(users) {
      const changed = users.filter(({ user, ...status }) => names.includes(user) && !equal(watch.users.get(user), status));
      for (const { user, ...status } of changed) watch.users.set(user, status);
      if (changed.length) emit("change", changed);
    }

    const inner = { names, receive };
    watches.add(inner);
    sendNames("watch", names);
    return watch;
  }

  function sendNames(type, names) {
    for (let at = 0; at < names.length; at += MAX_NAMES) send({ type, users: names.slice(at, at + MAX_NAMES) });
  }

  function setConnection(connection, event) {
    presence.connection = connection;
    emit("phase", connection);
    if (event) emit(event, connection);
  }

  function schedule(ms, action, argument) {
    clearTimeout(timer);
    timer = setTimeout(action, ms, argument);
  }

  function send(message, text = JSON.stringify(message)) {
    const open = presence.connection.phase === "online" && socket.readyState === 1;
    if (open) socket.send(text);
    return open;
  }

  function connect() {
    if (socket) return;
    address.searchParams.set("user", user);
    address.searchParams.delete("token");
    if (presence.token) address.searchParams.set("token", presence.token);
    socket = new WebSocket(address.href, "presence.v1");
    socket.onmessage = ({ data }) => receive(data);
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => reconnect({ kind: KINDS[code] ?? "ended", code, reason });
    schedule(CONNECT_TIMEOUT_MS, giveUp, "timeout");
    listening ??= new AbortController();
    for (const type of ["online", "offline", "visibilitychange"]) {
      globalThis.addEventListener?.(type, receiveEvent, listening);
    }
    setConnection({ phase: "connecting", attempt });
  }

  function close() {
    const old = detach();
    if (old?.readyState === 0) old.onopen = () => old.close(1000); // avoids a console error
    else old?.close(1000);
    listening?.abort();
    listening = undefined;
    setConnection({ phase: "closed" });
  }

  function receive(data) {
    clearTimeout(ackTimer);
    ackTimer = silentHeartbeats = 0;
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    const type = message?.type;
    if (type === "welcome") receiveWelcome(message);
    else if (type === "status") {
      for (const { receive } of watches) receive(message.users);
      emit(type, message.users);
    } else if (type === "health") receiveHealth(message);
    else if (type === "error") emit(type, message);
    else rooms.get(message?.room)?.receive(message);
  }

  function receiveWelcome(welcome) {
    if (presence.connection.phase === "online") return;
    presence.welcome = welcome;
    presence.connection = { phase: "online", since: now() };
    lossy = false;
    schedule(heartbeatMs() * Math.random(), heartbeat);
    for (const { request } of rooms.values()) request();
    for (const { names } of watches) sendNames("watch", names);
    setConnection(presence.connection, "open");
    receiveHealth({ degraded: false });
  }

  function receiveHealth({ degraded, since }) {
    if (degraded === presence.degraded) return;
    presence.degraded = degraded;
    emit("degraded", { degraded, since });
  }

  function heartbeat() {
    schedule(heartbeatMs(), heartbeat);
    for (const { check } of rooms.values()) check();
    if (++silentHeartbeats > SILENT_HEARTBEATS) probe();
    else send(0, "heartbeat");
  }

  function probe() {
    if (send({ type: "heartbeat", ack: true })) ackTimer ||= setTimeout(giveUp, ACK_TIMEOUT_MS, "silent");
  }

  // 1000 would be a leave.
  function giveUp(kind) {
    socket.close(4000, kind);
    reconnect({ kind });
  }

  function reconnect(cause) {
    const { since } = presence.connection;
    if (cause.code === 1006 && !since) cause.kind = "unreachable";
    const { kind } = cause;
    detach();
    if (since + presence.welcome?.ttl_ms <= now()) attempt = 0;
    if (kind === "refused") return setConnection({ phase: kind, cause }, "down");
    let delay = Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** attempt);
    if (kind === "busy") delay = (BACKOFF_CAP_MS / 3) * (1 + 2 * Math.random());
    if (kind === "restarting" && !attempt) delay = Math.random() * heartbeatMs();
    attempt++;
    schedule(delay, connect);
    setConnection({ phase: "waiting", attempt, retryAt: now() + delay, cause }, "down");
  }

  function detach() {
    const old = socket;
    if (old) old.onmessage = old.onclose = null;
    clearTimeout(timer);
    clearTimeout(ackTimer);
    socket = undefined;
    ackTimer = silentHeartbeats = 0;
    return old;
  }

  function receiveEvent({ type }) {
    const { phase, retryAt } = presence.connection;
    if (away && type === "visibilitychange") for (const { sendState } of rooms.values()) sendState();
    if (phase === "waiting" && (type === "online" || retryAt <= now())) connect();
    probe();
  }

  connect();
  return presence;
}
