/** The form of an operation that sends its request to this server and shows the answer. */

import { element } from "/docs-elements.js";

/** Long answers are cut, so that the page stays fast. */
const MAX_SHOWN_CHARS = 20_000;
/** Of all forms. It stays in the memory of this page. */
let key = "";

function field(id, label, value, tag = "input") {
  const input = element(tag, "");
  input.id = id;
  input.value = value;
  input.autocomplete = "off";
  input.spellcheck = false;
  const title = element("label", "", label);
  title.htmlFor = id;
  return { input, node: element("p", "field", title, input) };
}

function formOf(request) {
  const { id, parameters, takesKey } = request;
  // Of the query, an example is only a suggestion.
  const fields = parameters.map(({ name, in: place, example }) => ({ name,
    ...field(`${id}-${name}`, name, place === "path" ? example : "") }));
  const secret = takesKey ? field(`${id}-key`, "Key or token", key) : null;
  if (secret) secret.input.type = "password";
  const body = request.body === undefined ? null : field(`${id}-body`, "Body", request.body, "textarea");
  const send = element("button", "button small", "Send");
  send.type = "submit";
  const answer = element("pre", "example answer");
  answer.setAttribute("aria-live", "polite");
  answer.hidden = true;
  const form = element("form", "try-form", ...fields.map(({ node }) => node), ...[secret, body].filter(Boolean)
    .map(({ node }) => node), element("p", "", send), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (secret) key = secret.input.value;
    const values = Object.fromEntries(fields.map(({ name, input }) => [name, input.value]));
    answer.hidden = false;
    answer.textContent = "…";
    answer.textContent = await exchange(request, values, body?.input.value).catch((error) => `No answer: ${error.message}`);
  });
  return form;
}

/** Sends a request, and returns its answer as text. */
async function exchange({ method, url, type, takesKey }, values, body) {
  const headers = {};
  if (takesKey && key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = type;
  const response = await fetch(url(values), { method, headers, body, cache: "no-store" });
  const text = await response.text();
  const shown = text.length > MAX_SHOWN_CHARS ? `${text.slice(0, MAX_SHOWN_CHARS)}…` : text;
  const retry = response.headers.get("retry-after");
  return [`${response.status} ${response.statusText}${retry ? `, retry after ${retry} s` : ""}`, shown].join("\n");
}

/** The form, which is made when it is opened. */
export function tryIt(request) {
  const node = element("details", "try", element("summary", "", "Try it"));
  node.addEventListener("toggle", () => node.childElementCount === 1 && node.append(formOf(request)));
  return node;
}
