// What the example does not do: users and rooms that change, components that come and go.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { PresenceProvider, useCount, useMembers, useMessages, usePresence } from "rollcall-presence/react";

import { url } from "./settings.js";

function Page() {
  const [page, setPage] = useState({ user: "alice", room: null });
  window.change = (changes) => setPage((old) => ({ ...old, ...changes }));
  const { user, room, join, list, count, messages } = page;
  return user && (
    <PresenceProvider url={url} user={user}>
      {join && <Join room={room} state={join} />}
      {list && <List room={room} />}
      {count && <Count room={room} />}
      {messages && <Messages room={room} />}
    </PresenceProvider>
  );
}

function Join({ room, state }) {
  usePresence(room, { state });
}

const List = ({ room }) => <ul id="members">{useMembers(room).map(({ user }) => <li key={user}>{user}</li>)}</ul>;
const Count = ({ room }) => <b id="count">{useCount(room)}</b>;
const Messages = ({ room }) => <ul id="messages">{useMessages(room).map(({ data }) => <li key={data}>{data}</li>)}</ul>;

createRoot(document.getElementById("app")).render(<StrictMode><Page /></StrictMode>);
