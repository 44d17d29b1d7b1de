// The rollcall client, documented in presence.d.ts.

const CONNECT_TIMEOUT_MS = 10000;
const MIN_BACKOFF_MS = 1000;
const MAX_BACKOFF_MS = 30000;
const ACK_TIMEOUT_MS = 4000;
const MAX_SILENT = 3;
const MAX_DIFFS = 64;
const MAX_BUFFERED_BYTES = 1e6;
const MAX_NAMES = 50;
const MAX_LEVELS = 7;
const KINDS = { 1006: "cut", 1008: "refused", 1012: "restarting", 1013: "busy", 4401: "expired" };

const now = () => Date.now();
const equal = (a, b) => JSON.stringify(a) === JSON.stringify(b);
// JSON.stringify escapes a surrogate only if it is not part of a pair, and no server can store it.
const encode = (value) => JSON.stringify(value)?.replace(/\\(?:ud[89a-f]..|.)/g, (escape) => (escape[2] ? "\ufffd" : escape));
const levels = (value) => (Object(value) === value ? 1 + Math.max(0, ...Object.values(value).map(levels)) : 0);

function checkSize(text, limit) {
  if (new Blob([text]).size > limit) throw new RangeError(`the limit is ${limit} bytes`);
}

function checkData(data, limit) {
  const text = encode(data);
  if (!text) throw new TypeError(`not JSON: ${String(data)}`);
  checkSize(text, limit);
  if (levels(JSON.parse(text)) > MAX_LEVELS) throw new RangeError(`the limit is ${MAX_LEVELS} levels`);
}

// Returns the form in which the server sends the name back.
function checkName(name) {
  if (typeof name !== "string" || name !== name.trim() || !/^[^\p{Cc}\p{Cs}]+$/u.test(name)) {
    throw new TypeError(`not a name: ${name}`);
  }
  name = name.normalize();
  checkSize(name, 128);
  return name;
}

// As a part of a subprotocol, in which other characters are not allowed.
function checkToken(token) {
  if (typeof token !== "string" || !/^[\w.~-]+$/.test(token)) throw new TypeError("not a token");
  return token;
}

function emitter() {
  const handlers = {};
  return {
    on(event, handler) {
      (handlers[event] ??= new Set()).add(handler);
      return () => void handlers[event].delete(handler);
    },
    emit(event, ...args) {
      for (const handler of new Set(handlers[event])) {
        try {
          if (handlers[event].has(handler)) handler(...args);
        } catch (error) {
          // Reported as uncaught.
          setTimeout(() => { throw error; }, 0);
        }
      }
    },
  };
}

export function connect(url, { user, token, away, WebSocket = globalThis.WebSocket } = {}) {
  const { on, emit } = emitter();
  const rooms = new Map();
  const watches = new Set();
  let socket, listening, timer, ackTimer, lossy, watchRefused, unclearAt, asked, sent, expired, renewTimer, renewAt;
  let silentHeartbeats = 0;
  let attempt = 0;

  if (away === true) away = { away };
  if (!WebSocket) throw new TypeError("no WebSocket: pass the class of npm's ws");
  // React Native's URL has no setters, and adds a slash to the path.
  const { href } = new URL(url ?? "/", globalThis.location?.href);
  url = /^\w+:/.test(url) ? String(url) : href;
  url = url.replace(/^http/, "ws").replace(/^(\w+:..[^/?]+)\/?(\?|$)/, "$1/v1/connect$2");
  if (user !== undefined) {
    user = checkName(user);
    url = url.replace(/\?|$/, (mark) => "?user=" + encodeURIComponent(user) + (mark && "&"));
  }

  const presence = {
    user, connection: {}, welcome: null, degraded: false,
    on, watch, connect, close,
    get token() {
      return token;
    },
    set token(value) {
      if (value !== undefined && typeof value !== "function") checkToken(value);
      token = value;
    },
    join: (name, options) => enter(name, { ...options, joined: true }),
    observe: (name, options) => enter(name, { ...options, observe: true }),
  };
  presence.token = token;
  const heartbeatMs = () => presence.welcome?.heartbeat_ms ?? 5000;

  function enter(name, options) {
    name = checkName(name);
    if (options.state !== undefined) options.state = checkState(options.state);
    const room = rooms.get(name) ?? createRoom(name);
    rooms.set(name, room);
    room.configure(options);
    return room.room;
  }

  function checkState(state) {
    const text = JSON.stringify(state);
    if (!/^({|null$)/.test(text)) throw new TypeError(`not an object: ${text}`);
    checkData({ ...state, ...away }, 1024);
    return JSON.parse(text);
  }

  function createRoom(name) {
    const { on, emit } = emitter();
    const members = new Map();
    // The same, with the infos. A member that does not change stays the same object.
    const list = new Map();
    const options = { joined: false, observe: true, detail: "members", state: away ? null : undefined };
    let uses = 0;
    let epoch, pages, requestedAt, refused, snapshot;

    const room = {
      name, members, count: 0, seq: 0, ready: false, on,
      info: (user) => list.get(user)?.info,
      snapshot: () => (snapshot ??= { members: [...list.values()], count: room.count, ready: room.ready }),
      setState(state) {
        options.state = checkState(state);
        sendState();
      },
      send(data = null) {
        checkData(data, 4096);
        return isMember() && !(socket?.bufferedAmount > MAX_BUFFERED_BYTES) && send({ type: "message", room: name, data });
      },
      leave() {
        if (rooms.get(name)?.room !== room || --uses) return;
        rooms.delete(name);
        if (!refused) send({ type: options.joined ? "leave" : "unobserve", room: name });
        options.joined = false;
        clear();
      },
    };

    const isMember = () => !refused && options.joined;
    const currentState = () => (away && globalThis.document?.hidden ? { ...options.state, ...away } : options.state);

    function sendState() {
      if (isMember()) send({ type: "state", room: name, state: currentState() });
    }

    function configure(changed) {
      const { detail } = options;
      uses++;
      refused = false;
      for (const key in changed) if (changed[key] !== undefined) options[key] = changed[key];
      if (!options.observe || detail !== options.detail) clear();
      request();
    }

    function clear() {
      members.clear();
      list.clear();
      epoch = snapshot = undefined;
      room.ready = false;
      room.count = room.seq = 0;
    }

    function request() {
      if (refused) return;
      const { joined, observe, detail } = options;
      const state = currentState();
      if (!epoch) room.seq = 0;
      pages = undefined;
      requestedAt = observe && !epoch && now();
      const resume = epoch && { epoch, seq: room.seq };
      send({ type: joined ? "join" : "observe", room: name, state, observe, detail, resume });
      // null in a join keeps it.
      if (state === null) sendState();
    }

    // If one message was lost, so may be the last. An error that does not say what it is about may be the answer.
    function check() {
      if (unclearAt >= requestedAt) requestedAt = 0;
      if (requestedAt ? requestedAt + 2 * heartbeatMs() <= now() : options.observe && lossy) request();
    }

    function receiveError(error) {
      const { type_sent: type } = error;
      if (type === "state") options.state = undefined;
      if (type === "join" || type === "observe") {
        refused = true;
        if (room.ready) apply({ seq: 0 }, true);
        clear();
        requestedAt = 0;
      }
      emit("error", error);
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
      if (type === "error") receiveError(message);
      else if (type === "message") emit(type, message);
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
      epoch = message.epoch;
      pages = undefined;
      apply({ seq, joined }, true);
      diffs.forEach(receiveDiff);
    }

    function receiveDiff(diff) {
      if (pages) pages.diffs.push(diff) > MAX_DIFFS && resync();
      else if (!epoch || diff.seq > room.seq + 1) resync();
      else if (diff.seq > room.seq) apply(diff, false);
    }

    function apply({ seq, joined = [], updated = [], left = [] }, reset) {
      // A snapshot has all members.
      if (reset) {
        const gone = new Set(members.keys());
        for (const { user } of joined) gone.delete(user);
        left = [...gone].map((user) => ({ user }));
      }
      const change = { joined: [], updated: [], left: left.filter(({ user }) => list.delete(user) && members.delete(user)), reset };
      // In `updated`, a member without info keeps it.
      joined = joined.map((member) => ({ info: null, ...member }));
      for (const { user, state = null, info = room.info(user) } of [...joined, ...updated]) {
        const member = info ? { user, state, info } : { user, state };
        if (!members.has(user)) change.joined.push(member);
        else if (!equal(list.get(user), member)) change.updated.push(member);
        else continue;
        members.set(user, state);
        list.set(user, member);
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
      snapshot = undefined;
      room.count = count;
      room.ready = true;
      if (changed) emit("count", count);
    }

    return { room, configure, request, check, receive, sendState };
  }

  function watch(users) {
    const { on, emit } = emitter();
    const watch = { users: new Map(), on, close };
    const answered = new Set();
    let names = [...new Set([...users].map(checkName))];

    function close() {
      if (!watches.delete(inner)) return;
      const others = new Set([...watches].flatMap(({ names }) => names()));
      sendNames("unwatch", names.filter((name) => !others.has(name)));
    }

    function receive(users) {
      const changed = users.filter(({ user, ...status }) => names.includes(user) && !equal(watch.users.get(user), status));
      for (const { user } of users) answered.add(user);
      for (const { user, ...status } of changed) watch.users.set(user, status);
      if (changed.length) emit("change", changed);
    }

    // Without the names that were not answered, if some were refused.
    function request(refused) {
      if (refused) names = names.filter((name) => answered.has(name));
      answered.clear();
      sendNames("watch", names);
    }

    const inner = { names: () => names, receive, request };
    watches.add(inner);
    request();
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

  function schedule(...timeout) {
    clearTimeout(timer);
    timer = setTimeout(...timeout);
  }

  function send(message, text = encode(message)) {
    const open = presence.connection.phase === "online" && socket.readyState === 1;
    if (open) socket.send(text);
    return open;
  }

  function connect() {
    if (socket || asked) return;
    if (typeof token === "function") ask(open, (error) => reconnect({ kind: "token", reason: String(error) }));
    else if (token && token === expired) return refuse({ kind: "expired" });
    else open(token);
    schedule(giveUp, CONNECT_TIMEOUT_MS, "timeout");
    if (!listening) listen();
    setConnection({ phase: "connecting", attempt });
  }

  function open(credential) {
    sent = credential;
    socket = new WebSocket(url, ["presence.v1", ...(sent ? ["bearer." + sent] : [])]);
    socket.onmessage = ({ data }) => receive(data);
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => reconnect({ kind: KINDS[code] ?? "ended", code, reason });
  }

  // Calls `use` with a new token, unless the connection ends meanwhile.
  async function ask(use, fail) {
    const id = (asked = {});
    let result;
    try {
      // A function that throws fails as late as one that rejects.
      await 0;
      result = checkToken(await token());
      if (result === (socket ? sent : expired)) throw new TypeError("not a new token");
    } catch (error) {
      [use, result] = [fail, error];
    }
    if (id !== asked) return;
    asked = undefined;
    use(result);
  }

  function renewIn(ms) {
    clearTimeout(renewTimer);
    renewAt = undefined;
    if (!(ms >= 0) || typeof token !== "function") return;
    renewAt = now() + ms;
    // The longest time that a timer can wait.
    renewTimer = setTimeout(renew, Math.min(ms, 2 ** 31 - 1));
  }

  function renew() {
    renewIn();
    ask((fresh) => {
      sent = fresh;
      send({ type: "auth", token: fresh });
    }, () => renewIn(backoff(attempt++)));
  }

  function listen() {
    listening = new AbortController();
    const { signal } = listening;
    for (const type of ["online", "offline", "visibilitychange", "pagehide", "pageshow", "resume"]) {
      // `resume` does not bubble.
      globalThis.addEventListener?.(type, receiveEvent, { signal, capture: true });
    }
  }

  function close() {
    const old = detach();
    // Avoids an error in the console.
    if (old?.readyState === 0) old.onopen = () => old.close(1000);
    else old?.close(1000);
    listening = listening?.abort();
    setConnection({ phase: "closed" });
  }

  function receive(data) {
    clearTimeout(ackTimer);
    ackTimer = silentHeartbeats = 0;
    let message;
    try {
      message = JSON.parse(data);
    } catch {}
    const type = message?.type;
    if (type === "welcome") receiveWelcome(message);
    else if (type === "authenticated") receiveAuthenticated(message);
    else if (type === "status") {
      for (const { receive } of watches) receive(message.users);
      emit(type, message.users);
    } else if (type === "health") receiveHealth(message);
    else if (type === "error") receiveError(message);
    else if (type === "message" && !message.room) emit(type, message);
    else rooms.get(message?.room)?.receive(message);
  }

  function receiveWelcome(welcome) {
    if (presence.connection.phase === "online") return;
    presence.welcome = welcome;
    presence.user = welcome.user ?? user;
    presence.connection = { phase: "online", since: now() };
    lossy = false;
    unclearAt = undefined;
    schedule(heartbeat, heartbeatMs() * Math.random());
    receiveAuthenticated(welcome);
    setConnection(presence.connection, "open");
    receiveHealth({ degraded: false });
  }

  // The token may allow less than the former one: the server has then ended rooms and watches, and refuses them now.
  function receiveAuthenticated({ expires_in_ms }) {
    renewIn(expires_in_ms * (0.6 + 0.3 * Math.random()));
    for (const { request } of [...rooms.values(), ...watches]) request(watchRefused);
    watchRefused = false;
  }

  function receiveError(error) {
    const room = rooms.get(error.room);
    if (error.type_sent === "watch") watchRefused = true;
    if (!error.type_sent) unclearAt = now();
    emit("error", error);
    room?.receive(error);
  }

  function receiveHealth({ degraded, since }) {
    if (degraded === presence.degraded) return;
    presence.degraded = degraded;
    emit("degraded", { degraded, since });
  }

  function heartbeat() {
    schedule(heartbeat, heartbeatMs());
    for (const { check } of rooms.values()) check();
    if (++silentHeartbeats > MAX_SILENT) probe();
    else send(0, "heartbeat");
  }

  function probe() {
    if (send({ type: "heartbeat", ack: true })) ackTimer ||= setTimeout(giveUp, ACK_TIMEOUT_MS, "silent");
  }

  const backoff = (failures) => Math.random() * Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** failures);
  const refuse = (cause) => setConnection({ phase: "refused", cause }, "down");

  // 1000 would be a leave.
  function giveUp(kind) {
    socket?.close(4000, kind);
    reconnect({ kind });
  }

  function reconnect(cause) {
    const { since } = presence.connection;
    if (cause.kind === "cut" && !since) cause.kind = "unreachable";
    const { kind } = cause;
    if (kind === "expired") expired = sent;
    detach();
    if (since + presence.welcome?.ttl_ms <= now()) attempt = 0;
    if (kind === "refused" || (kind === "expired" && token === expired)) return refuse(cause);
    let delay = backoff(attempt);
    if (kind === "expired" && (since || !attempt)) delay = 0;
    if (kind === "busy") delay = (MAX_BACKOFF_MS / 3) * (1 + 2 * Math.random());
    if (kind === "restarting" && !attempt) delay = heartbeatMs() * Math.random();
    // Timers may run until the page is frozen.
    if (kind === "hidden") delay = 1e9;
    attempt++;
    schedule(connect, delay);
    setConnection({ phase: "waiting", attempt, retryAt: now() + delay, cause }, "down");
  }

  function detach() {
    const old = socket;
    if (old) old.onmessage = old.onclose = null;
    clearTimeout(timer);
    clearTimeout(ackTimer);
    renewIn();
    socket = asked = undefined;
    ackTimer = silentHeartbeats = 0;
    return old;
  }

  function receiveEvent({ type, persisted }) {
    const { phase, retryAt, cause } = presence.connection;
    // In the back/forward cache, Chromium would keep the socket open, and the user online.
    if (persisted && type === "pagehide" && phase !== "refused") return giveUp("hidden");
    if (away && type === "visibilitychange") for (const { sendState } of rooms.values()) sendState();
    if (retryAt && (persisted || (type === "online" && cause.kind !== "hidden") || retryAt <= now())) connect();
    if (renewAt <= now()) renew();
    probe();
  }

  connect();
  return presence;
}
