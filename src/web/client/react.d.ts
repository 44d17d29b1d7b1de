/**
 * Who is online right now, as hooks for React 18 and 19.
 *
 * ```jsx
 * <PresenceProvider url="wss://presence.example.org" user="alice"><Lobby /></PresenceProvider>
 *
 * function Lobby() {
 *   const { members, send } = usePresence("lobby", { state: { mood: "curious" } });
 *   return <ul>{members.map(({ user }) => <li key={user}>{user}</li>)}</ul>;
 * }
 * ```
 *
 * A room is used as long as a component that names it is mounted. Several components can share a room. A room that is
 * `null` or `undefined` is none, for components that do not know it yet.
 */

import type { ReactElement, ReactNode } from "react";

import type {
  ConnectionState, Member, Message, Options, Presence, RoomActions, RoomState, State,
} from "./store.js";

export type * from "./store.js";

type Name = string | null | undefined;

export interface PresenceProviderProps extends Options {
  /** As in `connect` of presence.js. If it or `user` changes, the provider connects again. */
  url?: string | undefined;
  /**
   * Can change at any time. The new one is used from the next connection on, or at once if it is a string and the last
   * one was refused.
   */
  token?: Options["token"];
  children?: ReactNode;
}

/** One connection for all components in it, from mounting to unmounting. A page that a server renders has none. */
export function PresenceProvider(props: PresenceProviderProps): ReactElement;

/** Joins a room. `state` is sent again whenever it changes; without it, the state is what `setState` sets. */
export function usePresence(room: Name, options?: { state?: State | null | undefined }): RoomState & RoomActions;

/** The members of a room, without joining it. */
export function useMembers(room: Name): readonly Member[];

/** The number of members. If no component needs the members, only the number is requested. */
export function useCount(room: Name): number;

/** The last 100 messages since a component began to use the room, the latest one last. */
export function useMessages(room: Name): readonly Message[];

/** The phase of the connection, and the user. */
export function useConnection(): ConnectionState;

/** The connection of presence.js, for everything else; `undefined` before the provider is mounted. */
export function useClient(): Presence | undefined;
