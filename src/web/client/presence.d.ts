/**
 * presence.js: who is online, right now. The client of a rollcall server, for browsers, workers and Node.
 *
 * ```js
 * import { connect } from "/presence.js";
 *
 * const presence = connect("wss://rollcall.example.org", { user: "alice" });
 * const room = presence.join("lobby", { state: { mood: "curious" } });
 * room.on("change", () => console.log([...room.members.keys()]));
 * ```
 */

/** JSON that goes over the wire. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** What a member tells of itself: an object of at most 1 KiB of JSON, nested at most 6 deep. */
export type State = { [key: string]: Json };

/** Takes a handler away again; a second call does nothing. */
export type Off = () => void;

/**
 * The part of a WebSocket class that is used. The browser's, Node's own (from 22) and that of the npm package `ws` fit.
 */
export type WebSocketClass = new (url: string, protocol: string) => object;

export interface Options {
  /** Who comes online: 1 to 128 bytes of UTF-8 without control characters. */
  user: string;
  /** Sent as the query parameter `token` when connecting, for servers and proxies that check it. See {@link Presence.token}. */
  token?: string;
  /**
   * Shows others that the tab is hidden: this object is laid over the state in every joined room for as long.
   * `true` is `{ away: true }`. With several tabs of one user the one that changed last is what is seen.
   */
  away?: boolean | State;
  /** Another WebSocket class, where there is no global one (Node 20) or a different one is wanted. */
  WebSocket?: WebSocketClass;
}

/** Why a connection is gone. */
export interface Cause {
  /**
   * - `unreachable`: it could not be opened
   * - `cut`: it was open and broke
   * - `timeout`: no welcome came within 10 s
   * - `silent`: it was open and nothing came any more
   * - `restarting`: the server goes away and comes back (close code 1012)
   * - `busy`: the server takes no more connections (1013)
   * - `refused`: the server says no for good (1008)
   * - `ended`: closed by the server with another code
   */
  kind: "unreachable" | "cut" | "timeout" | "silent" | "restarting" | "busy" | "refused" | "ended";
  /** The close code, if the connection was closed by the other side. */
  code?: number;
  /** The server's own words. */
  reason?: string;
}

/** On the way to the first, or the `attempt`th next, connection. */
export interface Connecting { phase: "connecting"; attempt: number }
/** Welcomed by the server; `since` is in milliseconds since the epoch, as all times are. */
export interface Online { phase: "online"; since: number }
/** The connection is gone and is tried again at `retryAt`, for the `attempt`th time in a row. */
export interface Waiting { phase: "waiting"; attempt: number; retryAt: number; cause: Cause }
/** The server said no for good: nothing is tried until {@link Presence.connect} is called. */
export interface Refused { phase: "refused"; cause: Cause }
/** After {@link Presence.close}. */
export interface Closed { phase: "closed" }
export type Connection = Connecting | Online | Waiting | Refused | Closed;

/** The server's first message. */
export interface Welcome {
  protocol: string;
  user: string;
  /** Names the connection, for logs and support. */
  connection: string;
  node: string;
  /** Who is silent for this long is gone. */
  ttl_ms: number;
  heartbeat_ms: number;
  /** Changes are told this often. */
  tick_ms: number;
}

/** The server did not carry out what was asked. */
export interface ServerError {
  type: "error";
  code: "unknown_type" | "bad_json" | "bad_field" | "too_large" | "not_joined" | "rate_limited" | "forbidden" | (string & {});
  message: string;
  type_sent?: string;
}

export interface PresenceEvents {
  /** The connection is in another phase: for an indicator. */
  phase: (connection: Connection) => void;
  /** Welcomed by the server, the first time and after each reconnect. Rooms and watches have been asked for again. */
  open: (connection: Online) => void;
  /** The connection is lost or could not be made: at each attempt that fails. Rooms go on showing what they last knew. */
  down: (connection: Waiting | Refused) => void;
  /** What the server says of watched users; {@link Watch} keeps it. */
  status: (users: UserStatus[]) => void;
  /** The server's node has lost sight of the other nodes, or sees them again: what is shown may be old. */
  degraded: (health: { degraded: boolean; since?: number }) => void;
  /** The server refused a message; the connection goes on. */
  error: (error: ServerError) => void;
}

/** One connection to a server, whatever the number of rooms. It comes back by itself. */
export interface Presence {
  readonly user: string;
  /** Used at the next (re)connect: put a fresh one here before the old one expires. */
  token: string | undefined;
  readonly connection: Connection;
  /** What the server last said of itself; `null` until it has. */
  readonly welcome: Welcome | null;
  /** Whether the server's node has lost sight of the others. */
  readonly degraded: boolean;
  on<E extends keyof PresenceEvents>(event: E, handler: PresenceEvents[E]): Off;
  /**
   * Be a member of a room and look at it. A second call gives the same room and changes what it names. At most 100 rooms
   * go on one connection; one more is answered with an `error` event.
   */
  join(room: string, options?: JoinOptions): Room;
  /** Look at a room without being seen. */
  observe(room: string, options?: ObserveOptions): Room;
  /** Follow named users, online or not, at most 1,000 on one connection. */
  watch(users: Iterable<string>): Watch;
  /** Connect now: instead of waiting for the next attempt, after a refusal, or after `close()`. */
  connect(): void;
  /** Leave every room at once and stay away. */
  close(): void;
}

export interface ObserveOptions {
  /** `"count"` asks for the number of members only, which is much cheaper in a large room. */
  detail?: "members" | "count";
}

export interface JoinOptions extends ObserveOptions {
  /** What others see of me; `null` clears it. Not named: nothing, or what it was. */
  state?: State | null;
  /** `false`: be a member without looking. */
  observe?: boolean;
}

export interface Member {
  user: string;
  /** `null` if the member told nothing. */
  state: State | null;
}

export interface Left {
  user: string;
  /** Not there when the leave was found by comparing with a whole list, after a reconnect. */
  reason?: "left" | "closed" | "timeout" | "node_lost" | "kicked";
}

/** What one message of the server changed against what was here. */
export interface Change {
  joined: Member[];
  updated: Member[];
  left: Left[];
  /** It was a whole list: the first one, or one after something was missed. */
  reset: boolean;
}

export interface Message {
  type: "message";
  room: string;
  user: string;
  data: Json;
  /** When it was told. */
  ts: number;
}

export interface RoomEvents {
  /** The members changed, or the first list is here. Once per message of the server; the room is up to date by then. */
  change: (change: Change) => void;
  /** Each member that came; the first list comes with `reset`, as in {@link Change}. */
  join: (member: Member, reset: boolean) => void;
  /** Each member with another state. */
  update: (member: Member, reset: boolean) => void;
  /** Each member that went. */
  leave: (left: Left, reset: boolean) => void;
  /** Somebody said something, oneself included. */
  message: (message: Message) => void;
  /** The number of members is another one, or known for the first time. */
  count: (count: number) => void;
}

/** A room as the server sees it. While there is no connection it shows what was last known. */
export interface Room {
  readonly name: string;
  /** Everybody in the room and their states, in no particular order. Always the same Map. */
  readonly members: ReadonlyMap<string, State | null>;
  /** The number of members, also with `detail: "count"`. */
  readonly count: number;
  /** Whether a list (or count) has come yet. */
  readonly ready: boolean;
  /** The server's sequence number of what is shown. */
  readonly seq: number;
  on<E extends keyof RoomEvents>(event: E, handler: RoomEvents[E]): Off;
  /**
   * Replaces my state, `null` clears it. Kept and sent (again) whenever there is a connection; of no effect in a room that
   * is only observed.
   * @throws TypeError if it is no object, RangeError if it has more than 1 KiB of JSON
   */
  setState(state: State | null): void;
  /**
   * Says something to everybody who looks at the room. Nothing is queued: `false` means that there is no connection, or
   * that it does not take more right now. The room must have been joined.
   * @throws RangeError if it has more than 4,096 bytes of JSON
   */
  send(data: Json): boolean;
  /** Stop being a member, and looking. The room is empty and silent then. */
  leave(): void;
}

export interface Status {
  online: boolean;
  /** Since when, as far as the server knows. */
  since?: number;
  state?: State;
}

export interface UserStatus extends Status {
  user: string;
}

/** Users by name, whatever rooms they are in. */
export interface Watch {
  /** What is known of them; nobody is in it before the server's first answer. */
  readonly users: ReadonlyMap<string, Status>;
  on(event: "change", handler: (changed: UserStatus[]) => void): Off;
  /** Stop following those whom no other watch follows. */
  close(): void;
}

/**
 * Connects, now and again whenever the connection is lost.
 *
 * @param url where the server is: `ws(s)://` or `http(s)://`, or a path on the page's own host; the page's own host if it
 *   is undefined. Without a path `/v1/connect` is meant.
 * @throws TypeError if the url or the user cannot be one
 */
export function connect(url: string | URL | undefined, options: Options): Presence;
