/** What the bindings for React, Vue and Svelte have in common. */

import type { Connection, Json, Options, Presence, ServerError, Snapshot, State } from "./presence.js";

export type { Connection, Json, Member, Message, Options, Presence, ServerError, Snapshot, State } from "./presence.js";

/** The members of a room at one moment. Without a room or a connection: no members, not `ready`. */
export interface RoomState extends Snapshot {
  /** The last message of this room that the server refused, for example a join without the permission. */
  readonly error: ServerError | undefined;
}

/** What this user can do in a joined room. These functions stay the same. */
export interface RoomActions {
  /** See `Room.setState` of presence.js. Equal states are not sent again. */
  setState(state: State | null): void;
  /** See `Room.send` of presence.js. */
  send(data: Json): boolean;
}

/** The phase of the connection: `connecting` at first, and on a server that renders the page. */
export type ConnectionState = Connection & {
  /** Known from the options or after the first welcome. */
  readonly user: string | undefined;
  /** Whether the node has lost contact with the other nodes. */
  readonly degraded: boolean;
};
