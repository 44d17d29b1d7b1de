import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { PresenceProvider } from "rollcall-presence/react";

import { Lobby } from "./Lobby.jsx";
import { url, userName } from "./settings.js";

createRoot(document.getElementById("app")).render(
  <StrictMode>
    <PresenceProvider url={url} user={userName()}>
      <Lobby />
    </PresenceProvider>
  </StrictMode>,
);
