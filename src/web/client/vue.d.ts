/**
 * Who is online right now, as composables for Vue 3.3 and later.
 *
 * ```vue
 * <script setup>
 * providePresence("wss://presence.example.org", { user: "alice" });    // in App.vue
 *
 * const { members, send } = usePresence("lobby", { state: { mood: "curious" } });    // in a component in it
 * </script>
 * <template><ul><li v-for="{ user } in members" :key="user">{{ user }}</li></ul></template>
 * ```
 *
 * A room is used as long as a component that names it is mounted. Several components can share a room. The name can be
 * a ref or a getter, and `null` or `undefined` as long as it is not known.
 */

import type { ComputedRef, MaybeRefOrGetter, Ref } from "vue";

import type {
  ConnectionState, Member, Message, Options, Presence, RoomActions, RoomState, State,
} from "./store.js";

export type * from "./store.js";

type Name = MaybeRefOrGetter<string | null | undefined>;

/**
 * One connection for all components in this one, from mounting to unmounting. The arguments are those of `connect` of
 * presence.js. A page that a server renders has no connection.
 */
export function providePresence(url?: string, options?: Options): void;

/** Joins a room. If `state` is a ref or a getter, it is sent again whenever it changes. */
export function usePresence(
  room: Name,
  options?: { state?: MaybeRefOrGetter<State | null | undefined> | undefined },
): { readonly [Part in keyof RoomState]: ComputedRef<RoomState[Part]> } & RoomActions;

/** The members of a room, without joining it. */
export function useMembers(room: Name): Readonly<Ref<readonly Member[]>>;

/** The number of members. If no component needs the members, only the number is requested. */
export function useCount(room: Name): Readonly<Ref<number>>;

/** The last 100 messages since a component began to use the room, the latest one last. */
export function useMessages(room: Name): Readonly<Ref<readonly Message[]>>;

/** The phase of the connection, and the user. */
export function useConnection(): Readonly<Ref<ConnectionState>>;

/** The connection of presence.js, for everything else; `undefined` before the component is mounted. */
export function useClient(): Readonly<Ref<Presence | undefined>>;
