/**
 * presence.js: who is online right now. The client of a rollcall server, for browsers, workers and Node.
 *
 * ```js
 * import { connect } from "/presence.js";
 *
 * const presence = connect("wss://rollcall.example.org", { user: "alice" });
 * const room = presence.join("lobby", { state: { mood: "curious" } });
 * room.on("change", () => console.log([...room.members.keys()]));
 * ```
 */

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** What other users see of a member: an object of at most 1 KiB of JSON, nested at most 7 levels deep. */
export type State = { [key: string]: Json };

/** What the application says about a member in its token: an object, for example with a display name. */
export type Info = { [key: string]: Json };

/** A token, or a function that fetches one. */
export type Token = string | (() => string | Promise<string>);

/** Removes an event handler. Calling it again has no effect. */
export type Off = () => void;

/** A WebSocket class: that of the browser, that of Node (from 22 on) or that of the npm package `ws`. */
export type WebSocketClass = new (url: string, protocols: string[]) => object;

export interface Options {
  /**
   * The id of the user: 1 to 128 bytes of UTF-8, not blank, without control characters. Names are sent in NFC. Not
   * needed if the server knows the user from a token or from the application; if given, it must be that user.
   */
  user?: string | undefined;
  /**
   * A token of the application, or a function that fetches one. The function is called before each connection, and
   * again after 60 to 90 % of the time that a token is valid. If it fails, it is called again later. It must return a new
   * token each time. See {@link Presence.token}.
   */
  token?: Token | undefined;
  /**
   * While the tab is hidden, the properties of this object are added to the state in every joined room. `true` stands
   * for `{ away: true }`. If a user has several tabs, others see the state of the tab that changed last.
   */
  away?: boolean | State | undefined;
  /** The WebSocket class to use. Needed where there is no global one, as in Node 20: there, pass that of npm's `ws`. */
  WebSocket?: WebSocketClass | undefined;
}

/** Why the connection was lost. */
export interface Cause {
  /**
   * - `unreachable`: the connection could not be opened
   * - `cut`: the open connection broke
   * - `timeout`: the server sent no welcome within 10 s
   * - `silent`: the server stopped sending on an open connection
   * - `hidden`: the browser put the page into its back/forward cache; the client connects again when the page is shown
   * - `restarting`: the server restarts (close code 1012)
   * - `busy`: the server accepts no more connections (close code 1013)
   * - `refused`: the server refuses this client (close code 1008)
   * - `expired`: the token has expired (close code 4401)
   * - `token`: the function `token` failed, or returned an old token
   * - `ended`: the server closed the connection with another code
   */
  kind: "unreachable" | "cut" | "timeout" | "silent" | "restarting" | "busy" | "refused" | "expired" | "token"
    | "hidden" | "ended";
  /** The close code, if there was one. */
  code?: number;
  /** The close reason of the server, or the error of the function `token`. */
  reason?: string;
}

/** A connection is being opened. `attempt` counts the failures since the last good connection. */
export interface Connecting { phase: "connecting"; attempt: number }
/** The server has sent its welcome. `since`, like all times, is in milliseconds since the Unix epoch. */
export interface Online { phase: "online"; since: number }
/** The connection was lost, or could not be opened. The next attempt is at `retryAt`. */
export interface Waiting { phase: "waiting"; attempt: number; retryAt: number; cause: Cause }
/**
 * The server refused the connection, or the token has expired and there is no function that fetches another one. There
 * are no more attempts until {@link Presence.connect} is called.
 */
export interface Refused { phase: "refused"; cause: Cause }
/** {@link Presence.close} was called. */
export interface Closed { phase: "closed" }
export type Connection = Connecting | Online | Waiting | Refused | Closed;

/** The first message of the server. */
export interface Welcome {
  protocol: string;
  /** Missing for visitors whom the server lets observe without a credential. */
  user?: string;
  /** Identifies the connection in logs. */
  connection: string;
  node: string;
  /** A client that is silent for this long is gone. */
  ttl_ms: number;
  heartbeat_ms: number;
  /** The interval at which changes are sent. */
  tick_ms: number;
  /** How long the credential of the connection is valid, if it expires. */
  expires_in_ms?: number;
}

/** The server could not carry out a message. It is not sent again. */
export interface ServerError {
  type: "error";
  code:
    | "unknown_type" | "bad_json" | "bad_field" | "too_large" | "not_joined" | "rate_limited" | "forbidden"
    | "bad_token" | (string & {});
  message: string;
  /** The type of the message that was refused, for example `join`, `state` or `watch`. */
  type_sent?: string;
  /** The room of that message. */
  room?: string;
}

/** A message of the application to this user. Clients cannot send such messages. */
export interface UserMessage {
  type: "message";
  data: Json;
  /** When the server sent it. */
  ts: number;
}

export interface PresenceEvents {
  /** The phase of the connection changed. */
  phase: (connection: Connection) => void;
  /** The connection is open, for the first time or again. Rooms and watches have been requested again. */
  open: (connection: Online) => void;
  /** The connection was lost, or an attempt failed. Rooms keep their last members. */
  down: (connection: Waiting | Refused) => void;
  /** The server sent the status of watched users. {@link Watch} keeps it. */
  status: (users: UserStatus[]) => void;
  /** The application sent a message to this user: to all connections of the user. */
  message: (message: UserMessage) => void;
  /** The node lost contact with the other nodes, or has it again. While it is lost, the members may be outdated. */
  degraded: (health: { degraded: boolean; since?: number }) => void;
  /** The server refused a message. The connection stays open. Errors about a room are events of the room as well. */
  error: (error: ServerError) => void;
}

/** One connection to a server, for any number of rooms. Reconnects by itself. */
export interface Presence {
  /** The user: from the options, and after the first welcome as the server says. */
  readonly user: string | undefined;
  /**
   * The token, or the function that fetches it. An assigned one is used from the next connection on. A token is never
   * sent again after the server said that it has expired.
   * @throws TypeError if a token has other characters than `A-Z a-z 0-9 - _ . ~`
   */
  token: Token | undefined;
  readonly connection: Connection;
  /** The last welcome; `null` before the first. */
  readonly welcome: Welcome | null;
  /** Whether the node has lost contact with the other nodes. */
  readonly degraded: boolean;
  on<E extends keyof PresenceEvents>(event: E, handler: PresenceEvents[E]): Off;
  /**
   * Joins a room and observes it. If it is joined or observed already, returns the same object and changes the given
   * options; several parts of a page can share a room this way, see {@link Room.leave}. The limit is 100 rooms per
   * connection; above it the server answers with an `error` event.
   */
  join(room: string, options?: JoinOptions): Room;
  /** Observes a room without joining it. A room that is joined already stays joined. */
  observe(room: string, options?: ObserveOptions): Room;
  /**
   * Watches the status of users, in whichever rooms they are. The limit is 1,000 users per connection. Users whom the
   * server refuses with an `error` event stay without a status; call `watch` again to try again.
   */
  watch(users: Iterable<string>): Watch;
  /** Connects now, instead of at the next attempt, after a refusal or after `close()`. */
  connect(): void;
  /** Leaves all rooms at once and does not reconnect. */
  close(): void;
}

export interface ObserveOptions {
  /** `"count"` requests only the number of members, which costs much less in large rooms. */
  detail?: "members" | "count" | undefined;
}

export interface JoinOptions extends ObserveOptions {
  /** The state of this user; `null` clears it. By default it stays as it is, at first none. */
  state?: State | null | undefined;
  /** `false`: join without observing. */
  observe?: boolean | undefined;
}

export interface Member {
  user: string;
  /** `null` if the member has no state. */
  state: State | null;
  /** What the application says about the member. Missing if it says nothing. */
  info?: Info;
}

export interface Left {
  user: string;
  /** Missing if the leave was found by comparing snapshots after a reconnect. */
  reason?: "left" | "closed" | "timeout" | "node_lost" | "kicked";
}

/** The difference between the members before and after one message of the server. */
export interface Change {
  joined: Member[];
  updated: Member[];
  left: Left[];
  /** True if the message was a snapshot: the first one, or one after missed changes. */
  reset: boolean;
}

export interface Message {
  type: "message";
  room: string;
  /** The member who sent it. Missing if the application did: clients cannot send such messages. */
  user?: string;
  data: Json;
  /** When the server sent it. */
  ts: number;
}

export interface RoomEvents {
  /** The members changed, or the first snapshot arrived. Emitted once per message, after the room is updated. */
  change: (change: Change) => void;
  /** A member joined. `reset` is as in {@link Change}. */
  join: (member: Member, reset: boolean) => void;
  /** The state or the info of a member changed. */
  update: (member: Member, reset: boolean) => void;
  /** A member left. */
  leave: (left: Left, reset: boolean) => void;
  /** A member, or the application, sent a message. Own messages are included. */
  message: (message: Message) => void;
  /** The number of members changed, or is known for the first time. */
  count: (count: number) => void;
  /**
   * The server refused a message of this room. After a refused `join` or `observe` the room is empty, and is requested
   * again only if `join` or `observe` is called again. A refused state is forgotten.
   */
  error: (error: ServerError) => void;
}

/** The members of a room at one moment. It never changes; a member that does not change stays the same object. */
export interface Snapshot {
  /** In no particular order. Empty with `detail: "count"`. */
  readonly members: readonly Member[];
  /** See {@link Room.count}. */
  readonly count: number;
  /** See {@link Room.ready}. */
  readonly ready: boolean;
}

/** A room as the server sees it. Without a connection it keeps the last members. */
export interface Room {
  readonly name: string;
  /** The members and their states, in no particular order. Always the same Map. */
  readonly members: ReadonlyMap<string, State | null>;
  /**
   * What the application says about a member in its token; `undefined` if nothing. Other users cannot change it, unlike
   * the state.
   */
  info(user: string): Info | undefined;
  /**
   * The members at this moment, for frameworks that compare what they show. The same object until the members or the
   * count change. Changes are reported by the events `change` and `count`, except that a room that you leave, or whose
   * `detail` you change, is emptied without an event.
   */
  snapshot(): Snapshot;
  /** The number of members, also with `detail: "count"`. */
  readonly count: number;
  /** Whether the first snapshot or count has arrived. */
  readonly ready: boolean;
  /** The sequence number of the members or the count. */
  readonly seq: number;
  on<E extends keyof RoomEvents>(event: E, handler: RoomEvents[E]): Off;
  /**
   * Replaces the state of this user; `null` clears it. The state is kept and sent again after a reconnect. Has no
   * effect in a room that is only observed. In strings, halves of surrogate pairs (a text cut inside an emoji) are
   * sent as U+FFFD.
   * @throws TypeError if it is not an object, RangeError if it is more than 1 KiB of JSON or more than 7 levels deep
   */
  setState(state: State | null): void;
  /**
   * Sends a message to all observers of a joined room. Messages are not queued: returns `false` if there is no
   * connection, if the room is not joined, or if too much data waits to be sent. If the server refuses the message, for
   * example because more than 10 are sent per second, it is dropped and reported as an `error` event.
   * @throws TypeError if it is not JSON, RangeError if it is more than 4,096 bytes of JSON or more than 7 levels deep
   */
  send(data: Json): boolean;
  /**
   * Undoes one call of `join` or `observe`. With the last one, leaves the room and stops observing it. The room is then
   * empty and emits no more events.
   */
  leave(): void;
}

export interface Status {
  online: boolean;
  /** Since when, if the server knows it. */
  since?: number;
  state?: State;
}

export interface UserStatus extends Status {
  user: string;
}

/** The status of users, in whichever rooms they are. */
export interface Watch {
  /** The status of each user. Empty until the server has answered. */
  readonly users: ReadonlyMap<string, Status>;
  on(event: "change", handler: (changed: UserStatus[]) => void): Off;
  /** Stops watching the users, except those of other watches. */
  close(): void;
}

/**
 * Connects to a server, and reconnects whenever the connection is lost.
 *
 * @param url the server: `ws(s)://`, `http(s)://` or a path on the host of the page, by default the host of the page.
 *   If the url has no path, the path is `/v1/connect`.
 * @throws TypeError if the url, the user or the token is not valid, or if there is no WebSocket class
 */
export function connect(url: string | URL | undefined, options?: Options): Presence;
