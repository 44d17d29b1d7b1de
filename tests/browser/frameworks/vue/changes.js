// What the example does not do: users and rooms that change, components that come and go.
import { createApp, h, reactive } from "vue";
import { providePresence, useCount, useMembers, useMessages, usePresence } from "rollcall-presence/vue";

import { url } from "./settings.js";

const page = reactive({ user: "alice", room: null });
window.change = (changes) => Object.assign(page, changes);
const room = () => page.room;

const Join = { setup: () => (usePresence(room, { state: () => page.join || undefined }), () => []) };
const List = {
  setup() {
    const members = useMembers(room);
    return () => h("ul", { id: "members" }, members.value.map(({ user }) => h("li", user)));
  },
};
const Count = {
  setup() {
    const count = useCount(room);
    return () => h("b", { id: "count" }, count.value);
  },
};
const Messages = {
  setup() {
    const messages = useMessages(room);
    return () => h("ul", { id: "messages" }, messages.value.map(({ data }) => h("li", data)));
  },
};
const Provider = {
  setup() {
    providePresence(url, { user: page.user });
    return () => [page.join && h(Join), page.list && h(List), page.count && h(Count), page.messages && h(Messages)];
  },
};

createApp({ render: () => page.user && h(Provider, { key: page.user }) }).mount("#app");
