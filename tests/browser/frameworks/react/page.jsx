import { StrictMode } from "react";
import { PresenceProvider } from "rollcall-presence/react";

import { Lobby } from "./Lobby.jsx";

export const Page = ({ url, user }) => (
  <StrictMode>
    <PresenceProvider url={url} user={user}>
      <Lobby />
    </PresenceProvider>
  </StrictMode>
);
