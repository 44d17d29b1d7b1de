/**
 * Who is online right now, as stores for Svelte 4 and 5.
 *
 * ```svelte
 * <script>
 *   providePresence("wss://presence.example.org", { user: "alice" });    // in App.svelte
 *
 *   const lobby = usePresence("lobby", { state: { mood: "curious" } });    // in a component in it
 * </script>
 * <ul>{#each $lobby.members as { user } (user)}<li>{user}</li>{/each}</ul>
 * ```
 *
 * Call these functions while a component is created. A room is used as long as such a store is read; `usePresence` uses
 * it as long as the component is mounted. Several components can share a room. If the name changes, create the
 * component again: `{#key name}<Room {name} />{/key}`.
 */

import type { Readable } from "svelte/store";

import type {
  ConnectionState, Member, Message, Options, Presence, RoomActions, RoomState, State,
} from "./store.js";

export type * from "./store.js";

/**
 * One connection for all components in this one, from mounting to unmounting. The arguments are those of `connect` of
 * presence.js. A page that a server renders has no connection.
 */
export function providePresence(url?: string, options?: Options): void;

/** Joins a room with a state, which `setState` changes. */
export function usePresence(
  room: string,
  options?: { state?: State | null | undefined },
): Readable<RoomState> & RoomActions;

/** The members of a room, without joining it. */
export function useMembers(room: string): Readable<readonly Member[]>;

/** The number of members. If no component needs the members, only the number is requested. */
export function useCount(room: string): Readable<number>;

/** The last 100 messages since a component began to use the room, the latest one last. */
export function useMessages(room: string): Readable<readonly Message[]>;

/** The phase of the connection, and the user. */
export function useConnection(): Readable<ConnectionState>;

/** The connection of presence.js, for everything else; `undefined` before the component is mounted. */
export function useClient(): Readable<Presence | undefined>;
