/**
 * The page at `/login`: sign in with a name, see everybody's badge, sign out. Accounts belong to the application; the
 * server signs people in by itself only with `--dev-login`, and without it this page says so.
 *   GET /login/session → {"user":"alice"} or {"user":null}, "enabled":false if nobody can sign in
 *   GET /login/users → {"users":["alice",…]}
 *   POST /login {"user":"alice"}    POST /logout
 */

import { avatarOf, element, nameOf, paintAvatar, setText } from "/dom.js";
import { compareNames, nameProblem, tidyName } from "/names.js";
import { announce, el, hideNotice, showConnection, showNotice, showTrouble } from "/page.js";
import { connect } from "/presence.js";

const ROOM = "lobby";
/** A connection watches so many at most. */
const MAX_WATCHED = 1_000;
/** Several newcomers of one moment are asked for once. */
const ASK_AGAIN_MS = 300;

const lastSeen = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** The name this browser is signed in under, null if it is not; not asked yet at first. */
let me;
let presence = null;
let watch = null;
/** Name → { row, badge }. */
const people = new Map();
let askTimer = 0;

async function call(method, path, body) {
  const request = { method, cache: "no-store", headers: { "content-type": "application/json" } };
  const response = await fetch(path, body ? { ...request, body: JSON.stringify(body) } : request);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(answer.error?.message ?? `${path} answers ${response.status}`), { status: response.status });
  return answer;
}

/* ---------------------------------------------------------------------------------------------------------- the list */

/** Everybody who has signed in since the start; whoever is new is watched from now on. */
async function askWhoIsKnown() {
  const { users } = await call("GET", "/login/users");
  const known = users.slice(0, MAX_WATCHED).sort(compareNames);
  const gone = [...people.keys()].filter((name) => !known.includes(name));
  if (gone.length === 0 && known.length === people.size && watch) return;
  // With both watches at once there would be too many names.
  if (gone.length + known.length > MAX_WATCHED) watch?.close();
  gone.forEach((name) => people.delete(name));
  for (const name of known) if (!people.has(name)) people.set(name, createRow(name));
  el.people.replaceChildren(...known.map((name) => people.get(name).row));
  // The new one first: what is known of those whom both watch goes over to it.
  const before = watch;
  watch = presence.watch(known);
  before?.close();
  watch.on("change", () => showBadges());
  showBadges();
}

function createRow(name) {
  const badge = element("span", "badge", "…");
  const row = element("li", "person", avatarOf(name), nameOf(name), badge);
  row.dataset.online = "false";
  return { row, badge };
}

function showBadges() {
  let online = 0;
  for (const [name, { row, badge }] of people) {
    const status = watch.users.get(name);
    // Not told yet on this connection: what was shown stays.
    if (status) {
      row.dataset.online = String(status.online);
      const offline = status.since ? `offline since ${lastSeen.format(status.since)}` : "offline";
      setText(badge, status.online ? "online" : offline);
    }
    online += Number(row.dataset.online === "true");
    row.querySelector(".tag")?.remove();
    if (name === me) badge.before(element("span", "tag", "you"));
  }
  el["people-empty"].hidden = people.size > 0;
  const text = people.size > 0 ? `${online} of ${people.size} online` : "";
  if (el.summary.textContent !== text) announce(text);
  setText(el.summary, text);
}

function askSoon() {
  clearTimeout(askTimer);
  askTimer = setTimeout(() => askWhoIsKnown().catch(failed), ASK_AGAIN_MS);
}

/* ------------------------------------------------------------------------------------------------- signing in and out */

/** Present as `user`, or only looking when that is null. */
function enter(user) {
  presence?.close();
  watch = null;
  me = user;
  presence = connect(undefined, { user: user ?? `login-page-${Math.random().toString(36).slice(2, 10)}` });
  const mine = presence;
  const lobby = user === null ? presence.observe(ROOM) : presence.join(ROOM);
  lobby.on("join", () => mine === presence && askSoon());
  presence.on("phase", (status) => mine === presence && showPhase(status));
  showPhase(presence.connection);
  el["sign-in-box"].hidden = user !== null;
  el["signed-in"].hidden = user === null;
  el["people-box"].hidden = false;
  if (user !== null) {
    paintAvatar(el["my-avatar"], user);
    el["my-name"].textContent = user;
  }
  askWhoIsKnown().catch(failed);
}

function showPhase(status) {
  showConnection(status);
  document.body.dataset.stale = String(status.phase !== "online");
  if (status.phase === "online") {
    hideNotice(() => el.headline.focus());
    // The server may have begun a new life, in which it knows others and perhaps not me.
    begin().catch(failed);
  }
  // Signed out in another tab, perhaps: then there is nobody to come back as.
  if (status.phase === "refused" && me !== null) begin().catch(failed);
  else if (status.cause) showTrouble(status.cause, () => presence.connection === status);
}

async function signIn(event) {
  event.preventDefault();
  const name = tidyName(el.user.value);
  let problem = nameProblem(name);
  if (!problem) problem = await call("POST", "/login", { user: name }).then(() => "", (error) => error.message);
  setText(el["user-error"], problem);
  el.user.setAttribute("aria-invalid", String(problem !== ""));
  if (problem) {
    el.user.focus();
    return;
  }
  enter(name);
  el["sign-out"].focus();
}

async function signOut() {
  // First away, so that the server's refusal of this connection is not taken for a trouble.
  presence.close();
  await call("POST", "/logout");
  enter(null);
  el.user.focus();
}

function failed(error) {
  showNotice("That did not work", error.message);
}

function explainAccounts() {
  presence?.close();
  el.owned.hidden = false;
  el.connection.hidden = true;
}

/** Who this browser is signed in as, if the server signs anybody in. */
async function begin() {
  const { user, enabled } = await call("GET", "/login/session");
  const refused = presence?.connection.phase === "refused" && presence.connection;
  if (enabled === false) explainAccounts();
  else if (user !== me) enter(user);
  else if (refused) showTrouble(refused.cause, () => presence.connection === refused);
  else await askWhoIsKnown();
}

el["sign-in"].addEventListener("submit", signIn);
el["sign-out"].addEventListener("click", () => signOut().catch(failed));
el.retry.addEventListener("click", () => (presence ? presence.connect() : begin().catch(failed)));
setInterval(() => document.hidden || !presence || showConnection(presence.connection), 500);
begin().catch(failed);
