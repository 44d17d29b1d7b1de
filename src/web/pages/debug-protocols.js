/** The protocols of the page `/debug`: the address and the fields of each, and the messages that it offers to send. */

const USER = { name: "user", label: "User id", value: "debugger" };
const ROOM = { name: "room", label: "Room", value: "lobby" };
const TOKEN = { name: "token", label: "Token", secret: true, value: "" };
const IN_QUERY = "In this protocol it is sent in the address: the server needs --token-in-query.";

/** A path with a query of the fields that are not empty. */
function address(path, query) {
  const given = Object.entries(query).filter(([, value]) => value);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

const json = (message) => JSON.stringify(message);
const pusher = (event, data) => json({ event, data });
const signed = (kind, further = {}) => [`Subscribe, ${kind}`, ({ channel, key }) =>
  pusher("pusher:subscribe", { channel: `${kind}-${channel}`, auth: `${key}:SIGNATURE`, ...further })];

/**
 * Each protocol has `fields`; `connection(values)` returns its relative `url` and `subprotocols`; `templates` are pairs
 * of a name and a message for the values of the fields. The `heartbeat` is sent repeatedly if the box is checked.
 */
export const PROTOCOLS = [
  {
    id: "native",
    name: "Native (presence.v1)",
    fields: [USER, ROOM, { ...TOKEN, hint: "Sent as a subprotocol, without the user id." }],
    connection: ({ user, token }) => ({
      url: token ? "v1/connect" : address("v1/connect", { user }),
      subprotocols: ["presence.v1", ...(token ? [`bearer.${token}`] : [])],
    }),
    heartbeat: "heartbeat",
    templates: [
      ["Join", ({ room }) => json({ type: "join", room, state: { mood: "curious" } })],
      ["Observe", ({ room }) => json({ type: "observe", room })],
      ["Observe the count", ({ room }) => json({ type: "observe", room, detail: "count" })],
      ["State", ({ room }) => json({ type: "state", room, state: { mood: "busy" } })],
      ["Message", ({ room }) => json({ type: "message", room, data: { text: "hello" } })],
      ["Watch", ({ user }) => json({ type: "watch", users: [user || "alice"] })],
      ["Unwatch", ({ user }) => json({ type: "unwatch", users: [user || "alice"] })],
      ["Resync", ({ room }) => json({ type: "resync", room })],
      ["Unobserve", ({ room }) => json({ type: "unobserve", room })],
      ["Leave", ({ room }) => json({ type: "leave", room })],
      ["Heartbeat with an answer", () => json({ type: "heartbeat", ack: true })],
      ["Renew the token", () => json({ type: "auth", token: "TOKEN" })],
    ],
  },
  {
    id: "online-users",
    name: "Online users",
    fields: [USER, { ...TOKEN, hint: IN_QUERY }],
    connection: ({ user, token }) => ({ url: address(`ws/${encodeURIComponent(user)}`, { token }), subprotocols: [] }),
    heartbeat: "heartbeat",
    templates: [["Heartbeat", () => "heartbeat"]],
  },
  {
    id: "online-status",
    name: "Online status",
    fields: [{ ...USER, value: "123" }, { ...TOKEN, hint: IN_QUERY }],
    connection: ({ user, token }) => ({ url: address("ws-online-status", { userId: user, token }), subprotocols: [] }),
    templates: [["Any text: the server ignores it", () => "hello"]],
  },
  {
    id: "chat",
    name: "Chat",
    fields: [USER, { ...TOKEN, hint: IN_QUERY }],
    connection: ({ token }) => ({ url: address("ws", { token }), subprotocols: [] }),
    templates: [
      ["Join", ({ user }) => json({ type: "join", payload: { user } })],
      ["Message", () => json({ type: "msg", payload: { text: "Hello everyone" } })],
      ["Ping", () => json({ type: "ping" })],
    ],
  },
  {
    id: "pusher",
    name: "Pusher",
    fields: [
      { name: "key", label: "App key", value: "app-key", hint: "The server must have this app." },
      { name: "channel", label: "Channel", value: "news", hint: "Without private- or presence-." },
    ],
    connection: ({ key }) => ({
      url: address(`app/${encodeURIComponent(key)}`, { protocol: "7", client: "rollcall-debug", version: "1" }),
      subprotocols: [],
    }),
    heartbeat: pusher("pusher:ping", {}),
    templates: [
      ["Subscribe", ({ channel }) => pusher("pusher:subscribe", { channel })],
      signed("private"),
      signed("presence", { channel_data: json({ user_id: "7", user_info: { name: "Ann" } }) }),
      ["Client event", ({ channel }) => json({ event: "client-typing", channel: `private-${channel}`, data: { typing: true } })],
      ["Unsubscribe", ({ channel }) => pusher("pusher:unsubscribe", { channel })],
      ["Sign in", ({ key }) =>
        pusher("pusher:signin", { auth: `${key}:SIGNATURE`, user_data: json({ id: "7", watchlist: ["8"] }) })],
      ["Own channel", () => pusher("pusher:subscribe", { channel: "#server-to-user-7" })],
      ["Ping", () => pusher("pusher:ping", {})],
    ],
  },
];
