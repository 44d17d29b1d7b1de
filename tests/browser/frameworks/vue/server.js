import { createSSRApp, h } from "vue";
import { renderToString } from "vue/server-renderer";
import { providePresence } from "rollcall-presence/vue";

import Lobby from "./Lobby.vue";

const Page = {
  setup() {
    providePresence("ws://localhost:1", { user: "server" });
    return () => h(Lobby);
  },
};

export const render = () => renderToString(createSSRApp(Page));
