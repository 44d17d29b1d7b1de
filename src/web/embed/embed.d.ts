/**
 * embed.js: a list of the users in a room, with an optional chat, for pages of other sites.
 *
 * ```html
 * <script type="module" src="https://rollcall.example.org/embed.js" data-room="shop" data-chat></script>
 * ```
 */

import type { Token } from "./presence.js";

export interface EmbedOptions {
  /** The room; `lobby` by default. */
  room?: string;
  /** The name of the user, who joins at once. Without it and without a token, visitors see the list and join under a name. */
  user?: string;
  /** Whether to show a chat. */
  chat?: boolean;
  /** By default the list follows the `color-scheme` of the page. */
  theme?: "light" | "dark";
  /** The server; by default the host of the script. */
  url?: string | URL;
  /** A token, or a function that fetches one; see presence.d.ts. The user of the token joins at once. */
  token?: Token;
}

export interface Embed {
  /** Leaves the room and does not reconnect. The list stays until the element is removed. */
  close(): void;
}

/** Shows the list in a shadow root of `node`. */
export function mount(node: Element, options?: EmbedOptions): Embed;
