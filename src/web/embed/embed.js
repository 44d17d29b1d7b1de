/**
 * A list of the users in a room, with an optional chat, for pages of other sites:
 *   <script type="module" src="https://HOST/embed.js" data-room="support" data-user="alice" data-chat></script>
 * It is inserted after this element, in a shadow root, so that the styles of the page and of the list do not mix. It
 * connects to the host of the script. docs/embed.md documents the attributes and `mount`.
 */

import { avatarOf, element, nameOf, setText } from "/dom.js";
import { style } from "/embed-style.js";
import { nameProblem, storeName, storedName, tidyName } from "/names.js";
import { connect } from "/presence.js";
import { PlainRoster } from "/roster.js";

const HOST = new URL(import.meta.url).origin;
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
  #log = element("ol", "log");
  #body = element("div", "body");
  #box;

  constructor(node, options) {
    this.#options = options;
    const root = node.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    if (options.theme) node.style.colorScheme = options.theme;
    const room = element("bdi", "room", options.room);
    const head = element("header", "", element("span", "dot"), this.#count, " here", room, this.#state);
    this.#state.role = "status";
    this.#box = withLabel(element("section", "box", head, this.#body), `Users in ${options.room}`);
    root.append(this.#box);
    if (options.user) this.enter(options.user);
    else this.#askName();
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
        this.enter(name);
        return "";
      },
    });
    input.value = storedName();
    this.#body.replaceChildren(form);
  }

  enter(user) {
    this.#presence = connect(this.#options.url, { user, token: this.#options.token });
    this.#room = this.#presence.join(this.#options.room);
    const roster = new PlainRoster(this.#list);
    this.#list.tabIndex = 0;
    withLabel(this.#list, "Present");
    this.#room.on("change", () => {
      roster.show([...this.#room.members.keys()], user);
      setText(this.#count, this.#room.members.size.toLocaleString());
    });
    this.#presence.on("phase", () => this.#showState());
    this.#showState();
    this.#body.replaceChildren(this.#list, ...(this.#options.chat ? this.#chat(user) : []));
  }

  #chat(user) {
    this.#log.role = "log";
    this.#log.tabIndex = 0;
    withLabel(this.#log, "Messages");
    const { form, problem } = inputForm({
      label: "Write a message",
      action: "Send",
      maxLength: MAX_TEXT_LENGTH,
      submit: (text) => (this.#room.send({ text }) ? "" : "Not connected. Try again in a moment."),
    });
    this.#presence.on("error", ({ message }) => setText(problem, `Not sent: ${message}`));
    this.#room.on("message", (message) => this.#addMessage(message, message.user === user));
    return [this.#log, form];
  }

  #addMessage({ user, data, ts }, mine) {
    const text = typeof data === "string" ? data : data?.text;
    // Other messages in this room are for the application.
    if (typeof text !== "string") return;
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    const time = element("time", "", timeFormat.format(new Date(ts)));
    const head = element("p", "message-head", nameOf(mine ? "You" : user), time);
    const className = `message${mine ? " mine" : ""}`;
    this.#log.append(element("li", className, avatarOf(user), head, element("p", "message-text", text)));
    while (this.#log.childElementCount > MAX_MESSAGES) this.#log.firstElementChild.remove();
    if (atEnd || mine) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #showState() {
    const { phase, cause } = this.#presence.connection;
    const refused = `refused: ${cause?.reason}`;
    const texts = { connecting: "connecting…", waiting: "reconnecting…", refused, closed: "closed" };
    this.#box.dataset.phase = phase;
    setText(this.#state, texts[phase] ?? "");
  }

  /** Leaves the room and does not reconnect. */
  close() {
    this.#presence?.close();
  }
}

/** Shows the list in `node`. All options are optional. */
export function mount(node, { room = "lobby", user = "", chat = false, theme, url = HOST, token } = {}) {
  return new Embed(node, { room, user, chat, theme, url, token });
}

for (const script of document.querySelectorAll("script[src]")) {
  if (script.src !== import.meta.url) continue;
  const { room, user, chat, theme, token } = script.dataset;
  const place = document.createElement("div");
  if (document.body.contains(script)) script.after(place);
  else document.body.append(place);
  mount(place, { room, user, chat: chat !== undefined, theme, token });
}
