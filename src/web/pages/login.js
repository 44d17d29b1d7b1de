/**
 * The page `/login`: sign in with a name, see the status of all accounts, sign out. Accounts belong to the application;
 * the server has a sign-in of its own only with `--dev-login`. Without it, the page explains this.
 *   POST /login/session → {"user":"alice"} or {"user":null}, with "enabled":false without `--dev-login`
 *   GET /login/users → {"users":["alice",…]}
 *   POST /login {"user":"alice"}    POST /logout
 */

import { avatarOf, element, nameOf, paintAvatar, setText } from "/dom.js";
import { compareNames, nameProblem, tidyName } from "/names.js";
import { announce, el, hideNotice, showConnection, PRESENCE, showNotice, showConnectionProblem, showDegraded } from "/page.js";
import { connect } from "/presence.js";

const ROOM = "lobby";
/** The limit of one connection. */
const MAX_WATCHED = 1_000;
/** Several joins within this time cause one request. */
const REFRESH_DELAY_MS = 300;

const lastSeen = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** The user who is signed in; null without a login, undefined until the server has answered. */
let me;
let presence = null;
let watch = null;
/** Name → { row, badge }. */
const accounts = new Map();
let latestRequest = 0;
/** The request whose answer is shown. */
let shownRequest = 0;
let refreshTimer = 0;

async function call(method, path, body) {
  const request = { method, cache: "no-store", headers: { "content-type": "application/json" } };
  const response = await fetch(path, body ? { ...request, body: JSON.stringify(body) } : request);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `${path} answers ${response.status}`);
  return answer;
}

/* --------------------------------------------------------------------------------------------------------- the list */

/** Requests the known users, and watches those that are new. */
async function refreshUsers() {
  const request = ++latestRequest;
  const { users } = await call("GET", "login/users");
  // The answer to a later request is newer.
  if (request < shownRequest) return;
  shownRequest = request;
  const known = users.slice(0, MAX_WATCHED).sort(compareNames);
  const gone = [...accounts.keys()].filter((name) => !known.includes(name));
  if (gone.length === 0 && known.length === accounts.size && watch) return;
  // Two watches at once could exceed the limit.
  if (gone.length + known.length > MAX_WATCHED) watch?.close();
  gone.forEach((name) => accounts.delete(name));
  for (const name of known) if (!accounts.has(name)) accounts.set(name, createRow(name));
  el.people.replaceChildren(...known.map((name) => accounts.get(name).row));
  // Open the new watch before closing the old one, so that users in both stay watched.
  const previous = watch;
  watch = presence.watch(known);
  previous?.close();
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
  for (const [name, { row, badge }] of accounts) {
    const status = watch.users.get(name);
    // Until this connection has the status of the user, the row stays as it is.
    if (status) {
      row.dataset.online = String(status.online);
      const offline = status.since ? `offline since ${lastSeen.format(status.since)}` : "offline";
      setText(badge, status.online ? "online" : offline);
    }
    online += Number(row.dataset.online === "true");
    row.querySelector(".tag")?.remove();
    if (name === me) badge.before(element("span", "tag", "you"));
  }
  el["people-empty"].hidden = accounts.size > 0;
  const text = accounts.size > 0 ? `${online} of ${accounts.size} online` : "";
  if (el.summary.textContent !== text) announce(text);
  setText(el.summary, text);
}

function refreshSoon() {
  clearTimeout(refreshTimer);
  refreshTimer = setTimeout(() => refreshUsers().catch(failed), REFRESH_DELAY_MS);
}

/* ----------------------------------------------------------------------------------------------- signing in and out */

/** Joins the lobby as `user`, or only observes it if `user` is null. */
function enter(user) {
  presence?.close();
  watch = null;
  me = user;
  presence = connect(PRESENCE, { user: user ?? `login-page-${Math.random().toString(36).slice(2, 10)}` });
  const mine = presence;
  const lobby = user === null ? presence.observe(ROOM) : presence.join(ROOM);
  // After a reconnect, a user may be in the new list whom the server did not know yet when it was asked.
  lobby.on("change", ({ joined, reset }) => (reset || joined.length > 0) && mine === presence && refreshSoon());
  presence.on("phase", (status) => mine === presence && showPhase(status));
  showDegraded({ degraded: false });
  presence.on("degraded", (health) => mine === presence && showDegraded(health));
  showPhase(presence.connection);
  el["sign-in-box"].hidden = user !== null;
  el["signed-in"].hidden = user === null;
  el["people-box"].hidden = false;
  if (user !== null) {
    paintAvatar(el["my-avatar"], user);
    el["my-name"].textContent = user;
  }
  refreshUsers().catch(failed);
}

function showPhase(status) {
  showConnection(status);
  document.body.dataset.stale = String(status.phase !== "online");
  if (status.phase === "online") {
    hideNotice(() => el.headline.focus());
    // The server may have restarted, and then knows other users or no longer knows this login.
    loadSession().catch(failed);
  }
  // The user may have signed out in another tab.
  if (status.phase === "refused" && me !== null) loadSession().catch(failed);
  else if (status.cause) showConnectionProblem(status.cause, () => presence.connection === status);
}

async function signIn(event) {
  event.preventDefault();
  const name = tidyName(el.user.value);
  let problem = nameProblem(name);
  if (!problem) problem = await call("POST", "login", { user: name }).then(() => "", (error) => error.message);
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
  // Close the connection first: the server refuses it after the logout, which would be shown as a problem.
  presence.close();
  await call("POST", "logout");
  enter(null);
  el.user.focus();
}

function failed(error) {
  showNotice("That did not work", error.message);
}

function explainAccounts() {
  presence?.close();
  el["accounts-note"].hidden = false;
  el.connection.hidden = true;
}

/** Requests the session of this browser and shows the page for it. */
async function loadSession() {
  const { user, enabled } = await call("POST", "login/session");
  const refused = presence?.connection.phase === "refused" && presence.connection;
  if (enabled === false) explainAccounts();
  else if (user !== me) enter(user);
  else if (refused) showConnectionProblem(refused.cause, () => presence.connection === refused);
  else await refreshUsers();
}

el["sign-in"].addEventListener("submit", signIn);
el["sign-out"].addEventListener("click", () => signOut().catch(failed));
el.retry.addEventListener("click", () => (presence ? presence.connect() : loadSession().catch(failed)));
setInterval(() => document.hidden || !presence || showConnection(presence.connection), 500);
loadSession().catch(failed);
