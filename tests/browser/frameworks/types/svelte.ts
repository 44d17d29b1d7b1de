// Code that has to compile, and code that must not (`@ts-expect-error`).
import {
  providePresence, useClient, useConnection, useCount, useMembers, useMessages, usePresence, type RoomState,
} from "rollcall-presence/svelte";
import { get, type Readable } from "svelte/store";

providePresence(undefined, { user: "alice" });
const lobby = usePresence("lobby", { state: { mood: "fine" } });
const room: Readable<RoomState> = lobby;
const sent: boolean = lobby.send("hello");
lobby.setState(null);
console.log(get(room).members[0]?.state?.mood, sent, get(useCount("lobby")).toFixed(), get(useConnection()).phase);
console.log(get(useMembers("lobby")).length, get(useMessages("lobby")).at(-1)?.user, get(useClient())?.degraded);

// @ts-expect-error: a name is text
usePresence(null);
// @ts-expect-error: a state is an object
lobby.setState([]);
// @ts-expect-error: these stores cannot be set
useCount("lobby").set(1);
// @ts-expect-error: members cannot be changed
get(room).members.pop();
