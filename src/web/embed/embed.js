/**
 * A list of the users in a room, with an optional chat, for pages of other sites:
 *   <script type="module" src="https://HOST/embed.js" data-room="support" data-user="alice" data-chat></script>
 * It is inserted after this element, in a shadow root, so that the styles of the page and of the list do not mix. It
 * connects to the host of the script. Visitors without a name only observe the room, until they join. docs/embed.md
 * documents the attributes and `mount`.
 */

import { avatarOf, element, nameOf, setText } from "/dom.js";
import { style } from "/embed-style.js";
import { nameProblem, storeName, storedName, tidyName } from "/names.js";
import { connect } from "/presence.js";
import { PlainRoster } from "/roster.js";

const SERVER = new URL("v1/connect", import.meta.url);
const MAX_MESSAGES = 200;
/** The server accepts 4 KiB of JSON, in which a character can take six bytes. */
const MAX_TEXT_LENGTH = 600;

const sheet = new CSSStyleSheet();
sheet.replaceSync(style);
const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

function withLabel(node, label) {
  node.setAttribute("aria-label", label);
  return node;
}

function button(text) {
  const node = element("button", "", text);
  node.type = "submit";
  return node;
}

/** A form with one input. Calls `submit` with the text, and shows what it returns as a problem. */
function inputForm({ label, action, maxLength, submit }) {
  const input = withLabel(element("input", ""), label);
  Object.assign(input, { placeholder: label, maxLength, autocomplete: "off" });
  const problem = element("p", "problem");
  problem.role = "alert";
  const form = element("form", "input-line", input, button(action), problem);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    const message = text === "" ? "" : submit(text);
    setText(problem, message);
    if (message === "") input.value = "";
  });
  return { form, input, problem };
}

class Embed {
  #options;
  #presence = null;
  #room = null;
  #state = element("span", "state");
  #count = element("span", "count", "–");
  #list = element("ol", "roster");
  #roster = new PlainRoster(this.#list);
  #log = element("div", "log");
  #entry = element("div", "entry");
  #box;

  constructor(node, options) {
    this.#options = options;
    const root = node.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    if (options.theme) node.style.colorScheme = options.theme;
    const room = element("bdi", "room", options.room);
    const head = element("header", "", element("span", "dot"), this.#count, " here", room, this.#state);
    this.#state.role = "status";
    this.#list.tabIndex = 0;
    withLabel(this.#list, "Present");
    this.#log.role = "log";
    this.#log.tabIndex = 0;
    withLabel(this.#log, "Messages");
    const parts = [head, this.#list, ...(options.chat ? [this.#log] : []), this.#entry];
    this.#box = withLabel(element("section", "box", ...parts), `Users in ${options.room}`);
    root.append(this.#box);
    if (options.user || options.token) this.#join(options.user);
    else this.#observe();
  }

  /** Shows the room to a visitor who has no name yet. */
  #observe() {
    const presence = this.#connect(`visitor-${Math.random().toString(36).slice(2, 10)}`);
    this.#room = presence.observe(this.#options.room);
    this.#show();
    presence.on("phase", () => {
      const isRefused = presence === this.#presence && presence.connection.phase === "refused";
      if (isRefused && presence.welcome === null) this.#observeUnnamed();
    });
    const join = element("button", "join", "Join");
    join.type = "button";
    join.addEventListener("click", () => this.#askName());
    this.#entry.replaceChildren(element("div", "input-line single", join));
  }

  /** Where users need a credential, a visitor without one has no name and cannot join (`--anonymous`). */
  #observeUnnamed() {
    this.#presence.close();
    const presence = this.#connect();
    this.#room = presence.observe(this.#options.room);
    // Visitors may be allowed to see the number only.
    let detail = "members";
    this.#room.on("error", ({ code }) => {
      if (code !== "forbidden" || detail === "count") return;
      detail = "count";
      presence.observe(this.#options.room, { detail });
    });
    this.#show();
    this.#entry.replaceChildren();
  }

  #askName() {
    const { form, input } = inputForm({
      label: "Your name",
      action: "Join",
      maxLength: 128,
      submit: (typed) => {
        const name = tidyName(typed);
        const problem = nameProblem(name);
        if (problem) return problem;
        storeName(name);
        this.#presence.close();
        this.#join(name);
        this.#entry.querySelector("input")?.focus();
        return "";
      },
    });
    input.value = storedName();
    this.#entry.replaceChildren(form);
    input.focus();
  }

  #join(user) {
    this.#room = this.#connect(user || undefined).join(this.#options.room);
    this.#show();
    this.#entry.replaceChildren(...(this.#options.chat ? [this.#composer()] : []));
  }

  #connect(user) {
    this.#presence = connect(this.#options.url, { user, token: this.#options.token });
    return this.#presence;
  }

  /** Shows the room of the present connection. */
  #show() {
    const presence = this.#presence;
    const room = this.#room;
    room.on("change", () => this.#roster.show([...room.members.keys()], presence.user));
    room.on("count", (count) => setText(this.#count, count.toLocaleString()));
    room.on("message", (message) => this.#addMessage(message, message.user === presence.user));
    for (const event of ["phase", "degraded"]) {
      presence.on(event, () => presence === this.#presence && this.#showState());
    }
    this.#showState();
  }

  #composer() {
    const { form, problem } = inputForm({
      label: "Write a message",
      action: "Send",
      maxLength: MAX_TEXT_LENGTH,
      submit: (text) => (this.#room.send({ text }) ? "" : "Not connected. Try again in a moment."),
    });
    this.#room.on("error", ({ message }) => setText(problem, `Not sent: ${message}`));
    return form;
  }

  #addMessage({ user, data, ts }, mine) {
    const text = typeof data === "string" ? data : data?.text;
    // Other messages in this room are for the application.
    if (typeof text !== "string") return;
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    const time = element("time", "", timeFormat.format(new Date(ts)));
    const head = element("p", "message-head", nameOf(mine ? "You" : user), time);
    const className = `message${mine ? " mine" : ""}`;
    this.#log.append(element("div", className, avatarOf(user), head, element("p", "message-text", text)));
    while (this.#log.childElementCount > MAX_MESSAGES) this.#log.firstElementChild.remove();
    if (atEnd || mine) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #showState() {
    const { phase, cause } = this.#presence.connection;
    const refused = cause?.kind === "expired" ? "the token has expired" : cause?.reason === "removed" ? "you were removed" : `refused: ${cause?.reason}`;
    const online = this.#presence.degraded ? "may be incomplete" : "";
    const texts = { online, connecting: "connecting…", waiting: "reconnecting…", refused, closed: "closed" };
    this.#box.dataset.phase = phase;
    setText(this.#state, texts[phase] ?? "");
  }

  /** Leaves the room and does not reconnect. */
  close() {
    this.#presence?.close();
  }
}

/** Fetches a token from the application, which knows the user by a cookie of the site: `{"token": "…"}`. */
async function fetchToken(url) {
  const response = await fetch(url, { credentials: "same-origin", cache: "no-store" });
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return (await response.json()).token;
}

/** Shows the list in `node`. All options are optional. */
export function mount(node, { room = "lobby", user = "", chat = false, theme, url = SERVER, token } = {}) {
  return new Embed(node, { room, user, chat, theme, url, token });
}

for (const script of document.querySelectorAll("script[src]")) {
  if (script.src !== import.meta.url) continue;
  const { room, user, chat, theme, tokenUrl } = script.dataset;
  const token = tokenUrl === undefined ? script.dataset.token : () => fetchToken(tokenUrl);
  const place = document.createElement("div");
  if (document.body.contains(script)) script.after(place);
  else document.body.append(place);
  mount(place, { room, user, chat: chat !== undefined, theme, token });
}
