/**
 * The page `/debug`: one WebSocket in any protocol, every frame in both directions, and frames to send. Nothing
 * reconnects, so that developers see exactly what the server does.
 */

import { PROTOCOLS } from "/debug-protocols.js";
import { element, setText } from "/dom.js";
import { announce, el, showConnection } from "/page.js";

/** Older frames are dropped. */
const MAX_FRAMES = 500;
const MAX_CHARACTERS = 4_000_000;
/** The part of a frame that its line shows. */
const PREVIEW_CHARACTERS = 300;
/** The part of an opened frame that is shown: a browser cannot lay out much more at once. */
const OPENED_CHARACTERS = 100_000;
const HEARTBEAT_MS = 5_000;
/** Messages that only keep a connection alive. */
const HEARTBEATS = ["heartbeat", "heartbeat_ack", "ping", "pong", "pusher:ping", "pusher:pong"];
const MAX_HEARTBEAT_CHARACTERS = 200;
/** Within this distance of the end, the list follows new frames. */
const FOLLOW_PIXELS = 40;

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit",
  fractionalSecondDigits: 3, hourCycle: "h23" });
const encoder = new TextEncoder();

/* ----------------------------------------------------------------------------------------------------------- fields */

let protocol = PROTOCOLS[0];
/** What was typed, by the name of the field: kept when the protocol changes. */
const typed = new Map();

const values = () => Object.fromEntries(protocol.fields.map(({ name, value }) => [name, typed.get(name) ?? value]));

function fieldOf({ name, label, secret, hint }) {
  const input = element("input", "");
  Object.assign(input, { id: `field-${name}`, type: secret ? "password" : "text", value: values()[name] });
  input.autocomplete = "off";
  input.autocapitalize = "off";
  input.spellcheck = false;
  input.addEventListener("input", () => {
    typed.set(name, input.value);
    showAddress();
    fillTemplate();
  });
  const title = element("label", "", label);
  title.htmlFor = input.id;
  const field = element("p", "field", title, input);
  if (hint) {
    const note = element("span", "hint", hint);
    note.id = `hint-${name}`;
    input.setAttribute("aria-describedby", note.id);
    field.append(note);
  }
  return field;
}

function chooseProtocol() {
  protocol = PROTOCOLS.find(({ id }) => id === el.protocol.value);
  el.fields.replaceChildren(...protocol.fields.map(fieldOf));
  el.template.replaceChildren(...protocol.templates.map(([name]) => element("option", "", name)));
  el["heartbeats-box"].hidden = !protocol.heartbeat;
  showAddress();
  fillTemplate();
}

function webSocketUrl(relative) {
  return new URL(relative, location.href).href.replace(/^http/, "ws");
}

/** The token is not shown. */
function showAddress() {
  const { url, subprotocols } = protocol.connection({ ...values(), ...(values().token && { token: "TOKEN" }) });
  setText(el.address, webSocketUrl(url) + (subprotocols.length ? `  [${subprotocols.join(", ")}]` : ""));
}

/** Replaces the text unless it was edited. */
let filled = "";
function fillTemplate(replace = el.text.value === filled) {
  if (!replace) return;
  const [, message] = protocol.templates[Math.max(0, el.template.selectedIndex)];
  filled = message(values());
  el.text.value = filled;
}

/* ----------------------------------------------------------------------------------------------------------- frames */

/** In order; each has its `line` in the list. */
const frames = [];
let characters = 0;
/** Whether the list follows new frames: unless it was scrolled away from its end. */
let isFollowing = true;
let isPaintDue = false;

const DIRECTIONS = { in: ["↓", "received"], out: ["↑", "sent"], event: ["•", ""] };

function sizeOf(bytes) {
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KB`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function limited(text, limit) {
  return text.length > limit ? `${text.slice(0, limit)}… (${(text.length - limit).toLocaleString()} more characters)` : text;
}

function lineOf({ direction, text, time, bytes }) {
  const [arrow, meaning] = DIRECTIONS[direction];
  const mark = element("span", "frame-mark", arrow);
  mark.setAttribute("aria-hidden", "true");
  const size = element("span", "frame-size", bytes === undefined ? "" : sizeOf(bytes));
  const head = [mark, element("span", "visually-hidden", meaning), element("time", "", time), size,
    element("code", "frame-text", limited(text, PREVIEW_CHARACTERS))];
  if (direction === "event") return element("li", "frame frame-event", element("p", "frame-line", ...head));
  const details = element("details", "", element("summary", "frame-line", ...head));
  details.addEventListener("toggle", () => {
    details.querySelector(".frame-body")?.remove();
    if (!details.open) return;
    const body = element("div", "frame-body", element("pre", "", limited(pretty(text), OPENED_CHARACTERS)));
    const copy = element("button", "button small", "Copy frame");
    copy.type = "button";
    copy.addEventListener("click", () => copyText(text, "The frame is copied"));
    body.append(copy);
    details.append(body);
  });
  return element("li", `frame frame-${direction}`, details);
}

function isHeartbeat(text) {
  if (text.length > MAX_HEARTBEAT_CHARACTERS) return false;
  try {
    const { type, event } = JSON.parse(text);
    return HEARTBEATS.includes(type ?? event);
  } catch {
    return HEARTBEATS.includes(text);
  }
}

function isShown({ direction, text }) {
  if (direction !== "event" && el["hide-heartbeats"].checked && isHeartbeat(text)) return false;
  return text.toLowerCase().includes(el.filter.value.toLowerCase());
}

const isAtEnd = () => el.frames.scrollTop + el.frames.clientHeight >= el.frames.scrollHeight - FOLLOW_PIXELS;

function scrollToEnd() {
  el.frames.scrollTop = el.frames.scrollHeight;
  isFollowing = true;
  el.newest.hidden = true;
}

/** Shows what many frames have changed, once. */
function paintSoon() {
  if (isPaintDue) return;
  isPaintDue = true;
  requestAnimationFrame(() => {
    isPaintDue = false;
    showCount();
    if (isFollowing) scrollToEnd();
  });
}

function add(direction, text, bytes) {
  const frame = { direction, text, bytes, time: timeFormat.format(new Date()) };
  frame.line = lineOf(frame);
  frame.line.hidden = !isShown(frame);
  frames.push(frame);
  characters += text.length;
  el.frames.append(frame.line);
  while (frames.length > MAX_FRAMES || (characters > MAX_CHARACTERS && frames.length > 1)) {
    const oldest = frames.shift();
    characters -= oldest.text.length;
    oldest.line.remove();
  }
  if (!isFollowing && !frame.line.hidden) el.newest.hidden = false;
  paintSoon();
}

function showCount() {
  const shown = frames.filter(({ line }) => !line.hidden).length;
  const all = frames.length.toLocaleString();
  setText(el["frames-count"], shown === frames.length ? all : `${shown.toLocaleString()} of ${all}`);
  setText(el["frames-empty"], frames.length ? "No frame matches." : "Nothing yet. Connect, and every frame appears here.");
  el["frames-empty"].hidden = shown > 0;
}

function filterFrames() {
  for (const frame of frames) frame.line.hidden = !isShown(frame);
  showCount();
  scrollToEnd();
}

function clear() {
  frames.length = characters = 0;
  el.frames.replaceChildren();
  el.newest.hidden = true;
  showCount();
}

async function copyText(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    announce(done);
  } catch {
    // Without TLS, browsers offer the clipboard on localhost only.
    add("event", "The browser does not allow this page to copy");
  }
}

function copyFrames() {
  const shown = frames.filter(({ line }) => !line.hidden);
  const lines = shown.map(({ time, direction, text }) => `${time} ${DIRECTIONS[direction][0]} ${text}`);
  copyText(lines.join("\n"), `${shown.length.toLocaleString()} frames are copied`);
}

/* ------------------------------------------------------------------------------------------------------- connection */

let socket = null;
let heartbeatTimer = 0;

function showPhase(phase) {
  showConnection({ phase, attempt: 0 });
  setText(el.toggle, phase === "connecting" ? "Cancel" : phase === "online" ? "Disconnect" : "Connect");
}

function connect() {
  const { url, subprotocols } = protocol.connection(values());
  let opening;
  try {
    opening = subprotocols.length ? new WebSocket(webSocketUrl(url), subprotocols) : new WebSocket(webSocketUrl(url));
  } catch (error) {
    // For example a token with characters that no subprotocol may have. The message of the browser contains it.
    const isToken = subprotocols.length > 1;
    setText(el["connect-error"], isToken ? "This is not a token: it has other characters than A-Z a-z 0-9 - _ . ~" : String(error));
    return;
  }
  setText(el["connect-error"], "");
  socket = opening;
  showPhase("connecting");
  add("event", `Connecting: ${protocol.name}`);
  const { heartbeat } = protocol;
  opening.onopen = () => {
    showPhase("online");
    add("event", opening.protocol ? `Open, with the subprotocol ${opening.protocol}` : "Open");
    announce("Connected");
    heartbeatTimer = setInterval(() => el.heartbeats.checked && heartbeat && send(heartbeat), HEARTBEAT_MS);
  };
  opening.onmessage = ({ data }) => {
    if (typeof data === "string") add("in", data, encoder.encode(data).length);
    else add("in", "(a binary frame)", data.size);
  };
  opening.onclose = ({ code, reason }) => {
    if (opening !== socket) return;
    socket = null;
    clearInterval(heartbeatTimer);
    showPhase("closed");
    add("event", closeText(code, reason));
    announce(`Closed with ${code}`);
  };
}

function closeText(code, reason) {
  if (code === 1006) return "Closed without a close frame (1006): the server cannot be reached, has refused the request, or was lost";
  return `Closed with ${code}${reason ? `: ${reason}` : ""}`;
}

function send(text) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(text);
  add("out", text, encoder.encode(text).length);
  return true;
}

/* ----------------------------------------------------------------------------------------------------------- events */

el.protocol.append(...PROTOCOLS.map(({ id, name }) => Object.assign(element("option", "", name), { value: id })));
el.protocol.addEventListener("change", chooseProtocol);
// In the back/forward cache, Chromium would keep the socket open, and the user online.
addEventListener("pagehide", ({ persisted }) => persisted && socket?.close(1000));
el["connect-form"].addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket) socket.close(1000);
  else connect();
});
el["send-form"].addEventListener("submit", (event) => {
  event.preventDefault();
  setText(el["send-error"], send(el.text.value) ? "" : "There is no connection.");
});
el.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  el["send-form"].requestSubmit();
});
el.template.addEventListener("change", () => fillTemplate(true));
el.filter.addEventListener("input", filterFrames);
el["hide-heartbeats"].addEventListener("change", filterFrames);
el.clear.addEventListener("click", clear);
el.copy.addEventListener("click", copyFrames);
el.newest.addEventListener("click", scrollToEnd);
el.frames.addEventListener("scroll", () => {
  isFollowing = isAtEnd();
  if (isFollowing) el.newest.hidden = true;
});

el.protocol.value = PROTOCOLS.find(({ id }) => id === new URLSearchParams(location.search).get("protocol"))?.id ?? "native";
chooseProtocol();
showPhase("idle");
showCount();
