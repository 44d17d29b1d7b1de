// The composables for Vue 3, documented in vue.d.ts.

import { computed, inject, onMounted, onScopeDispose, provide, shallowRef, toValue, watch } from "vue";

import { CONNECTING, COUNT, createStore, JOIN, NO_MESSAGES, NO_ROOM, OBSERVE } from "./store.js";

const KEY = Symbol("rollcall-presence");

export function providePresence(url, options) {
  const store = createStore(url, options);
  provide(KEY, store);
  whileMounted(() => store.open());
}

// Mounting never happens on a server. `start` returns a function that ends it.
function whileMounted(start) {
  let end;
  onMounted(() => (end = start()));
  onScopeDispose(() => end?.());
}

function useStore() {
  const store = inject(KEY, undefined);
  if (!store) throw new Error("no providePresence() in a component around this one");
  return store;
}

// Uses a room as long as the component is mounted. The room is none if the name is null or undefined.
function useRoom(store, room, wanted, read, initial, state) {
  const value = shallowRef(initial);
  whileMounted(() => watch(() => toValue(room), (name, _, onCleanup) => {
    const update = () => (value.value = read(name));
    if (name != null) onCleanup(store.use(name, wanted, update, toValue(state)));
    update();
  }, { immediate: true }));
  return value;
}

export function usePresence(room, { state } = {}) {
  const store = useStore();
  const value = useRoom(store, room, JOIN, store.room, NO_ROOM, state);
  const setState = (state) => store.setState(toValue(room), state);
  watch(() => toValue(state), (state) => state !== undefined && setState(state), { deep: true });
  const parts = Object.keys(NO_ROOM).map((part) => [part, computed(() => value.value[part])]);
  return { ...Object.fromEntries(parts), setState, send: (data) => store.send(toValue(room), data) };
}

export function useMembers(room) {
  const store = useStore();
  return useRoom(store, room, OBSERVE, (name) => store.room(name).members, NO_ROOM.members);
}

export function useCount(room) {
  const store = useStore();
  return useRoom(store, room, COUNT, (name) => store.room(name).count, 0);
}

export function useMessages(room) {
  const store = useStore();
  return useRoom(store, room, COUNT, store.messages, NO_MESSAGES);
}

// Follows a value of the whole connection.
function useValue(store, read, initial) {
  const value = shallowRef(initial);
  whileMounted(() => {
    const update = () => (value.value = read());
    update();
    return store.subscribe(update);
  });
  return value;
}

export function useConnection() {
  const store = useStore();
  return useValue(store, store.connection, CONNECTING);
}

export function useClient() {
  const store = useStore();
  return useValue(store, store.presence, undefined);
}
