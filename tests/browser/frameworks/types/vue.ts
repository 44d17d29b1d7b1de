// Code that has to compile, and code that must not (`@ts-expect-error`).
import {
  providePresence, useClient, useConnection, useCount, useMembers, useMessages, usePresence, type Member,
} from "rollcall-presence/vue";
import { ref } from "vue";

const name = ref<string | null>(null);

providePresence("wss://here", { token: async () => "fresh" });
const { members, ready, error, send, setState } = usePresence(name, { state: () => ({ mood: "fine" }) });
usePresence(() => name.value, { state: ref({ at: 1 }) });
const first: Member | undefined = members.value[0];
const count: number = useCount("lobby").value;
const text: string = useConnection().value.phase;
console.log(first, count, text, ready.value, error.value?.code, send([1]), setState({ a: null }));
console.log(useMessages(name).value.at(-1)?.data, useClient().value?.welcome, useMembers(name).value.length);

// @ts-expect-error: the url is text
providePresence(7);
// @ts-expect-error: a name is text
usePresence(ref(7));
// @ts-expect-error: a state is an object
usePresence("lobby", { state: "text" });
// @ts-expect-error: members cannot be assigned
members.value = [];
// @ts-expect-error: members cannot be changed
useMembers(name).value.push({ user: "bob", state: null });
