/**
 * Who is here, and a chat if one wants it, in somebody else's page:
 *   <script type="module" src="https://HOST/embed.js" data-room="support" data-user="alice" data-chat></script>
 * Everything is inside a shadow root after that element, so that neither page changes the other's look, and connects to
 * the host the script came from. The attributes and `mount` are in docs/embed.md.
 */

import { avatarOf, element, nameOf, setText } from "/dom.js";
import { style } from "/embed-style.js";
import { nameProblem, storeName, storedName, tidyName } from "/names.js";
import { connect } from "/presence.js";
import { PlainRoster } from "/roster.js";

const HOST = new URL(import.meta.url).origin;
const MAX_MESSAGES = 200;
/** The server takes 4 KiB as JSON, in which a character may have six bytes. */
const MAX_TEXT_LENGTH = 600;

const sheet = new CSSStyleSheet();
sheet.replaceSync(style);
const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

function labelled(node, label) {
  node.setAttribute("aria-label", label);
  return node;
}

function button(text) {
  const node = element("button", "", text);
  node.type = "submit";
  return node;
}

/** A line to type in: calls `take` with the text; what that returns is shown as a problem. */
function lineForm({ label, action, maxLength, take }) {
  const input = labelled(element("input", ""), label);
  Object.assign(input, { placeholder: label, maxLength, autocomplete: "off" });
  const problem = element("p", "problem");
  problem.role = "alert";
  const form = element("form", "line", input, button(action), problem);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    const wrong = text === "" ? "" : take(text);
    setText(problem, wrong);
    if (wrong === "") input.value = "";
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
    const head = element("header", "", element("span", "dot"), this.#count, " here", element("bdi", "room", options.room), this.#state);
    this.#state.role = "status";
    this.#box = labelled(element("section", "box", head, this.#body), `Who is in ${options.room}`);
    root.append(this.#box);
    if (options.user) this.enter(options.user);
    else this.#askName();
  }

  #askName() {
    const { form, input } = lineForm({
      label: "Your name",
      action: "Join",
      maxLength: 128,
      take: (typed) => {
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
    labelled(this.#list, "Present");
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
    labelled(this.#log, "Messages");
    const { form, problem } = lineForm({
      label: "Say something",
      action: "Send",
      maxLength: MAX_TEXT_LENGTH,
      take: (text) => (this.#room.send({ text }) ? "" : "Not connected: try again in a moment."),
    });
    this.#presence.on("error", ({ message }) => setText(problem, `Not sent: ${message}`));
    this.#room.on("message", (message) => this.#say(message, message.user === user));
    return [this.#log, form];
  }

  #say({ user, data, ts }, mine) {
    const text = typeof data === "string" ? data : data?.text;
    // Whatever else an application sends in this room is not for people to read.
    if (typeof text !== "string") return;
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    const head = element("p", "who", nameOf(mine ? "You" : user), element("time", "", timeFormat.format(new Date(ts))));
    this.#log.append(element("li", `message${mine ? " mine" : ""}`, avatarOf(user), head, element("p", "said", text)));
    while (this.#log.childElementCount > MAX_MESSAGES) this.#log.firstElementChild.remove();
    if (atEnd || mine) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #showState() {
    const { phase, cause } = this.#presence.connection;
    const texts = { connecting: "connecting…", waiting: "reconnecting…", refused: `refused: ${cause?.reason}`, closed: "closed" };
    this.#box.dataset.phase = phase;
    setText(this.#state, texts[phase] ?? "");
  }

  /** Leaves at once and stays away. */
  close() {
    this.#presence?.close();
  }
}

/** Puts it into `node`: `{ room, user, chat, theme, url, token }`, all optional. */
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
