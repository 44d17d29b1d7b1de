// The example, rendered on a server and then hydrated: server.jsx has the same elements.
import { hydrateRoot } from "react-dom/client";

import { Page } from "./page.jsx";
import { url, userName } from "./settings.js";

hydrateRoot(document.getElementById("app"), <Page url={url} user={userName()} />);
