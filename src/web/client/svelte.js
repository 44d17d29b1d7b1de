// The stores for Svelte 4 and 5, documented in svelte.d.ts.

import { getContext, onMount, setContext } from "svelte";
import { readable } from "svelte/store";

import { COUNT, createStore, JOIN, OBSERVE } from "./store.js";

const KEY = Symbol.for("rollcall-presence");

export function providePresence(url, options) {
  const store = createStore(url, options);
  setContext(KEY, store);
  // Never called on a server, so rooms that are read there open no connection.
  onMount(() => store.open());
}

function useStore() {
  const store = getContext(KEY);
  if (!store) throw new Error("no providePresence() in a component around this one");
  return store;
}

// A store of Svelte that has the value of `read` and starts with its first subscriber.
function follow(read, start) {
  return readable(read(), (set) => {
    const end = start(() => set(read()));
    set(read());
    return end;
  });
}

export function usePresence(name, { state } = {}) {
  const store = useStore();
  const room = follow(() => store.room(name), (listener) => store.use(name, JOIN, listener, state));
  // A component that only joins need not read the store.
  onMount(() => room.subscribe(() => {}));
  const setState = (changed) => store.setState(name, (state = changed));
  return { subscribe: room.subscribe, setState, send: (data) => store.send(name, data) };
}

export function useMembers(name) {
  const store = useStore();
  return follow(() => store.room(name).members, (listener) => store.use(name, OBSERVE, listener));
}

export function useCount(name) {
  const store = useStore();
  return follow(() => store.room(name).count, (listener) => store.use(name, COUNT, listener));
}

export function useMessages(name) {
  const store = useStore();
  return follow(() => store.messages(name), (listener) => store.use(name, COUNT, listener));
}

export function useConnection() {
  const store = useStore();
  return follow(store.connection, store.subscribe);
}

export function useClient() {
  const store = useStore();
  return follow(store.presence, store.subscribe);
}
