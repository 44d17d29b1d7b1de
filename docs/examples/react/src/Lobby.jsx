import { useState } from "react";
import { useConnection, useCount, useMessages, usePresence } from "rollcall-presence/react";

export function Lobby() {
  const { phase, user } = useConnection();
  const [text, setText] = useState("");
  // The others see who is typing.
  const { members, ready, error, send } = usePresence("lobby", { state: { typing: text !== "" } });
  const messages = useMessages("lobby");

  function submit(event) {
    event.preventDefault();
    if (send(text)) setText("");
  }

  return (
    <main>
      <h1>Lobby</h1>
      <p>
        {user} is <span id="phase">{phase}</span>; <Count /> online
      </p>
      {error && <p role="alert">{error.message}</p>}
      <ul id="members" aria-busy={!ready}>
        {members.map(({ user, state }) => (
          <li key={user}>{user}{state?.typing && " …"}</li>
        ))}
      </ul>
      <ul id="messages">
        {messages.map(({ user, data }, index) => (
          <li key={index}>{user}: {String(data)}</li>
        ))}
      </ul>
      <form onSubmit={submit}>
        <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
        <button disabled={phase !== "online" || text === ""}>Send</button>
      </form>
    </main>
  );
}

function Count() {
  return <strong id="count">{useCount("lobby")}</strong>;
}
