// An application with accounts, whose pages show who is online. It issues tokens that rollcall accepts.

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

import { SignJWT } from "jose";

const { PORT = "3000", ROLLCALL_URL = "https://localhost:8000" } = process.env;
const { ROLLCALL_JWT_SECRET_FILE = "../../jwt-secret.txt" } = process.env;
// The first line of the file that rollcall reads with --jwt-secret-file.
const secret = new TextEncoder().encode(readFileSync(ROLLCALL_JWT_SECRET_FILE, "utf8").split("\n")[0].trim());
const page = readFileSync(new URL("page.html", import.meta.url), "utf8").replaceAll("ROLLCALL_URL", ROLLCALL_URL);
const MAX_FORM_BYTES = 4096;
/** Session id → user. Your application has its own sessions. */
const sessions = new Map();

const sessionOf = ({ headers }) => /(?:^|; )session=(\w+)/.exec(headers.cookie ?? "")?.[1];
const userOf = (request) => sessions.get(sessionOf(request));

/** Signs a token for the user of the session. rollcall believes it, so nothing in it may come from the request. */
async function token(request, response) {
  const user = userOf(request);
  if (user === undefined) return answer(response, 401, "sign in first");
  const caps = [{ rooms: ["lobby"], allow: ["join", "observe"] }];
  const claims = new SignJWT({ info: { name: user.toUpperCase() }, caps }).setSubject(user);
  const signed = claims.setProtectedHeader({ alg: "HS256" }).setIssuedAt().setExpirationTime("5m");
  // No Access-Control-Allow-Origin: pages of other sites must not read this answer.
  const headers = { "content-type": "application/json", "cache-control": "no-store" };
  response.writeHead(200, headers).end(JSON.stringify({ token: await signed.sign(secret) }));
}

/** Your application checks a password here. */
async function signIn(request, response) {
  const user = (await form(request))?.get("user") ?? "";
  if (!/^[a-z0-9]{1,32}$/.test(user)) return answer(response, 400, "a name has 1 to 32 letters (a-z) and digits");
  const session = randomBytes(16).toString("hex");
  sessions.set(session, user);
  const cookie = `session=${session}; HttpOnly; SameSite=Lax; Path=/`; // over https add: Secure
  response.writeHead(303, { location: "/", "set-cookie": cookie }).end();
}

function signOut(request, response) {
  sessions.delete(sessionOf(request));
  response.writeHead(303, { location: "/", "set-cookie": "session=; Max-Age=0; Path=/" }).end();
}

async function form(request) {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) {
    text += chunk;
    if (text.length > MAX_FORM_BYTES) return undefined;
  }
  return new URLSearchParams(text);
}

function answer(response, status, text) {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8" }).end(text);
}

function home(request, response) {
  const signedIn = userOf(request) !== undefined;
  const html = page.replace("<body>", `<body class="${signedIn ? "signed-in" : "signed-out"}">`);
  response.writeHead(200, { "content-type": "text/html; charset=utf-8", "cache-control": "no-store" }).end(html);
}

const routes = { "GET /": home, "POST /sign-in": signIn, "POST /sign-out": signOut, "POST /presence-token": token };

const server = createServer((request, response) => {
  const route = routes[`${request.method} ${request.url}`];
  if (!route) return answer(response, 404, "not found");
  Promise.resolve(route(request, response)).catch((error) => {
    console.error(error);
    response.destroy();
  });
});
server.on("error", (error) => {
  const used = error.code === "EADDRINUSE";
  console.error(used ? `port ${PORT} is in use; choose another one: PORT=3001 npm start` : error.message);
  process.exit(1);
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`open http://localhost:${server.address().port}`));
