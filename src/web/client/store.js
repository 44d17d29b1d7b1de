// What the bindings for React, Vue and Svelte share: one connection, and the rooms that the parts of a page use.

import { connect } from "./presence.js";

const MAX_MESSAGES = 100;
const NOTHING = Object.freeze([]);

// What is shown without a room or a connection, so also on pages that a server renders.
export const NO_ROOM = Object.freeze({ members: NOTHING, count: 0, ready: false, error: undefined });
export const CONNECTING = Object.freeze({ phase: "connecting", attempt: 0, user: undefined, degraded: false });
export const NO_MESSAGES = NOTHING;

// What a part of a page can want of a room. Messages arrive with the count alone, too.
export const JOIN = { joined: true, detail: "members" };
export const OBSERVE = { joined: false, detail: "members" };
export const COUNT = { joined: false, detail: "count" };

function once(action) {
  let done = false;
  return () => {
    if (!done) action();
    done = true;
  };
}

// Connects when it is opened. Rooms can be used before, since frameworks mount the inner parts of a page first.
export function createStore(url, options) {
  const rooms = new Map();
  const listeners = new Set();
  let opened = 0;
  let presence;
  let connection = CONNECTING;

  // Returns a function that closes. If `open` is called again at once, as in React's StrictMode, the connection stays.
  function open() {
    const close = once(() => {
      opened--;
      queueMicrotask(() => opened || stop());
    });
    opened++;
    try {
      if (!presence) start();
    } catch (error) {
      close();
      throw error;
    }
    return close;
  }

  function start() {
    presence = connect(url, options);
    for (const event of ["phase", "degraded"]) presence.on(event, updateConnection);
    updateConnection();
    for (const name of [...rooms.keys()]) settle(name);
  }

  function stop() {
    presence?.close();
    presence = undefined;
    for (const room of rooms.values()) exit(room);
    notify(listeners);
  }

  function updateConnection() {
    const { user, degraded } = presence;
    connection = { ...presence.connection, user, degraded };
    notify(listeners);
  }

  // A token that is given after a refusal is used at once, a function is not: it may be a new one in each rendering.
  function setToken(token) {
    options = { ...options, token };
    if (!presence || presence.token === token) return;
    presence.token = token;
    if (typeof token === "string" && presence.connection.phase === "refused") presence.connect();
  }

  function subscribe(listener) {
    const use = { listener };
    listeners.add(use);
    return () => void listeners.delete(use);
  }

  // Uses a room until the returned function is called. `state` is the state of the user, for JOIN.
  function use(name, wanted, listener, state) {
    const use = { ...wanted, listener };
    const room = rooms.get(name) ?? { uses: new Set(), offs: [], snapshot: NO_ROOM, messages: NO_MESSAGES };
    const end = once(() => {
      room.uses.delete(use);
      // Later, so that another part of the page can take over the room: nobody sees a leave.
      queueMicrotask(() => settle(name));
    });
    rooms.set(name, room);
    room.uses.add(use);
    try {
      if (state !== undefined) setState(name, state);
      settle(name);
    } catch (error) {
      end();
      throw error;
    }
    return end;
  }

  // Joins, observes or leaves the room, as its uses require. All members are observed as long as the room is used, if
  // one use wanted them.
  function settle(name) {
    const room = rooms.get(name);
    const uses = [...(room?.uses ?? [])];
    const joined = uses.some((use) => use.joined);
    const detail = [room, ...uses].some((one) => one?.detail === "members") ? "members" : "count";
    if (room?.inner && room.joined && !joined) exit(room);
    if (room && uses.length === 0) {
      exit(room);
      rooms.delete(name);
    } else if (room && presence && (!room.inner || room.refused || room.joined !== joined || room.detail !== detail)) {
      enter(name, room, { joined, detail });
    }
  }

  function enter(name, room, { joined, detail }) {
    const { inner } = room;
    const entered = joined ? presence.join(name, { detail, state: room.state }) : presence.observe(name, { detail });
    Object.assign(room, { inner: entered, joined, detail, refused: false, error: undefined });
    // The same room: presence.js counts the calls, and one of them is enough.
    inner?.leave();
    if (!inner) listen(room);
  }

  function listen(room) {
    const { inner } = room;
    room.offs = [
      inner.on("change", () => update(room)),
      // With members, `change` follows.
      inner.on("count", () => room.detail === "count" && update(room)),
      inner.on("message", (message) => {
        room.messages = [...room.messages, message].slice(-MAX_MESSAGES);
        notify(room.uses);
      }),
      inner.on("error", (error) => {
        room.error = error;
        room.refused ||= error.type_sent === "join" || error.type_sent === "observe";
        if (error.type_sent === "state") room.state = undefined;
        update(room);
      }),
    ];
  }

  function exit(room) {
    for (const off of room.offs) off();
    room.offs = [];
    room.inner?.leave();
    room.inner = undefined;
  }

  function update(room) {
    room.snapshot = { ...room.inner.snapshot(), error: room.error };
    notify(room.uses);
  }

  function notify(uses) {
    for (const use of [...uses]) use.listener();
  }

  // Kept for a room that is not joined yet. Equal states are not sent again.
  function setState(name, state) {
    const room = rooms.get(name);
    if (!room || JSON.stringify(state) === JSON.stringify(room.state)) return;
    if (room.inner && room.joined) room.inner.setState(state);
    room.state = state;
  }

  return {
    open, setToken, subscribe, use, setState,
    send: (name, data) => rooms.get(name)?.inner?.send(data) ?? false,
    presence: () => presence,
    connection: () => connection,
    room: (name) => rooms.get(name)?.snapshot ?? NO_ROOM,
    messages: (name) => rooms.get(name)?.messages ?? NO_MESSAGES,
  };
}
