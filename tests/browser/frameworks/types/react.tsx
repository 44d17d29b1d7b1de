// Code that has to compile, and code that must not (`@ts-expect-error`).
import {
  PresenceProvider, useClient, useConnection, useCount, useMembers, useMessages, usePresence,
  type ConnectionState, type Member, type Message, type PresenceProviderProps, type RoomState,
} from "rollcall-presence/react";

const token = async () => "fresh";
const props: PresenceProviderProps = { url: "wss://here", user: undefined, token, away: true };

export function App({ room }: { room: string | null }) {
  return (
    <PresenceProvider {...props}>
      <Room room={room} />
      text
    </PresenceProvider>
  );
}

function Room({ room }: { room: string | null }) {
  const joined = usePresence(room, { state: { mood: "fine", list: [1, null] } });
  const view: RoomState = usePresence("lobby");
  const members: readonly Member[] = useMembers(room);
  const count: number = useCount(undefined);
  const messages: readonly Message[] = useMessages("lobby");
  const connection: ConnectionState = useConnection();
  const sent: boolean = joined.send({ text: "hello" });
  joined.setState(null);
  useClient()?.watch(["bob"]).close();
  if (connection.phase === "waiting") console.log(connection.retryAt.toFixed(), connection.user?.length);

  // @ts-expect-error: a name is text
  usePresence(7);
  // @ts-expect-error: a state is an object
  usePresence("lobby", { state: "text" });
  // @ts-expect-error: an option that does not exist
  usePresence("lobby", { detial: "count" });
  // @ts-expect-error: members cannot be changed
  members.push({ user: "bob", state: null });
  // @ts-expect-error: only a waiting connection has it
  console.log(connection.retryAt);
  // @ts-expect-error: a function is not JSON
  joined.send(() => {});
  // @ts-expect-error: the user is text
  const wrong = <PresenceProvider user={7} />;

  const [first] = joined.members;
  console.log(sent, view.error?.code, view.ready);
  return <p>{first?.user} {count} {messages.at(-1)?.ts} {wrong}</p>;
}
