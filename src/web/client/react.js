"use client";
// The hooks for React 18 and 19, documented in react.d.ts.

import {
  createContext, createElement, useCallback, useContext, useEffect, useMemo, useRef, useSyncExternalStore,
} from "react";

import { CONNECTING, COUNT, createStore, JOIN, NO_MESSAGES, NO_ROOM, OBSERVE } from "./store.js";

const Context = createContext(undefined);

export function PresenceProvider({ url, user, token, away, WebSocket, children }) {
  // The other options are read when it connects.
  const store = useMemo(() => createStore(url, { user, token, away, WebSocket }), [url, user]);
  useEffect(() => store.setToken(token), [store, token]);
  useEffect(() => store.open(), [store]);
  return createElement(Context.Provider, { value: store }, children);
}

function useStore() {
  const store = useContext(Context);
  if (!store) throw new Error("no <PresenceProvider> around this component");
  return store;
}

// Uses a room as long as the component is mounted. The room is none if the name is null or undefined.
function useRoom(name, wanted, read, initial, state) {
  const store = useStore();
  const latest = useRef(state);
  // Before the effect of useSyncExternalStore, which calls `subscribe`.
  useEffect(() => void (latest.current = state));
  const subscribe = useCallback(
    (listener) => (name == null ? () => {} : store.use(name, wanted, listener, latest.current)),
    [store, name, wanted],
  );
  return useSyncExternalStore(subscribe, () => read(store, name), () => initial);
}

const readRoom = (store, name) => store.room(name);
const readMembers = (store, name) => store.room(name).members;
const readCount = (store, name) => store.room(name).count;
const readMessages = (store, name) => store.messages(name);

export function usePresence(name, { state } = {}) {
  const store = useStore();
  const room = useRoom(name, JOIN, readRoom, NO_ROOM, state);
  useEffect(() => {
    if (state !== undefined) store.setState(name, state);
  }, [store, name, JSON.stringify(state)]);
  const actions = useMemo(
    () => ({ setState: (state) => store.setState(name, state), send: (data) => store.send(name, data) }),
    [store, name],
  );
  return useMemo(() => ({ ...room, ...actions }), [room, actions]);
}

export function useMembers(name) {
  return useRoom(name, OBSERVE, readMembers, NO_ROOM.members);
}

export function useCount(name) {
  return useRoom(name, COUNT, readCount, 0);
}

export function useMessages(name) {
  return useRoom(name, COUNT, readMessages, NO_MESSAGES);
}

export function useConnection() {
  const store = useStore();
  return useSyncExternalStore(store.subscribe, store.connection, () => CONNECTING);
}

export function useClient() {
  const store = useStore();
  return useSyncExternalStore(store.subscribe, store.presence, () => undefined);
}
