/**
 * The page `/docs`: shows `openapi.json`, with a search, an anchor and an example for each operation. It is served
 * without the scripts of the other pages, so it uses none of them.
 */

import { element, prose } from "/docs-elements.js";
import { exampleOf, requestOf, resolve, schemaTree } from "/docs-schema.js";
import { tryIt } from "/docs-try.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const el = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));

// The links to the pages scroll sideways in a narrow window: the one to this page is in view.
const links = document.querySelector(".pages");
if (links) links.scrollLeft = links.scrollWidth;

/** What is shown and hidden together: the section, the entry of the contents, and the text that is searched. */
const shown = [];

/** `readKey` becomes "read key". */
const words = (name) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).replace("api", "API");

/* ------------------------------------------------------------------------------------------------------- operations */

/** The credentials of which an operation needs one. */
function access(security) {
  const line = element("p", "access");
  if (security.length === 0) {
    line.append("Needs no credential.");
    return line;
  }
  const alternatives = security.map((schemes) => Object.keys(schemes).map(words).join(" and ") || "none");
  const last = alternatives.pop();
  const link = element("a", "", alternatives.length > 0 ? `${alternatives.join(", ")} or ${last}` : last);
  link.href = "#credentials";
  line.append("Credential: ", link);
  return line;
}

function parameterList(api, parameters) {
  const list = element("dl", "properties");
  for (const reference of parameters) {
    const { name, in: place, required, description, schema } = resolve(api, reference);
    const tree = schemaTree(api, schema);
    list.append(
      element("dt", "", element("code", "property-name", name), element("span", "type", `${place}, ${tree.type}`),
        ...(required ? [element("span", "required", "required")] : [])),
      element("dd", "", prose(description ?? "")),
    );
  }
  return list;
}

/** Examples of a media type, as text. */
function examples(api, media, type) {
  const values = "example" in media ? [media.example] : Object.values(media.examples ?? {}).map(({ value }) => value);
  if (values.length === 0 && media.schema) values.push(exampleOf(api, media.schema));
  return values.filter((value) => value !== undefined)
    .map((value) => element("pre", "example", type === "application/json" ? JSON.stringify(value, null, 1) : String(value)));
}

function content(api, contents) {
  return Object.entries(contents).flatMap(([type, media], at) => [
    element("p", "media-type", element("code", "", type)),
    // The media types of a form have one schema.
    ...(at === 0 && media.schema ? [schemaTree(api, media.schema).node] : []),
    ...(type.includes("form") ? [] : examples(api, media, type)),
  ]);
}

function responseNode(api, status, reference) {
  const { description, headers = {}, content: contents = {} } = resolve(api, reference);
  const summary = element("summary", "", element("span", `status status-${status[0]}`, status), " ",
    ...prose(description).childNodes[0].childNodes);
  const names = Object.entries(headers).map(([name, header]) => element("p", "response-header", element("code", "", name),
    " ", ...prose(resolve(api, header).description ?? "").childNodes[0].childNodes));
  const inside = [...names, ...content(api, contents)];
  if (inside.length === 0) return element("p", "response-plain", ...summary.childNodes);
  const node = element("details", "response", summary, ...inside);
  node.open = status.startsWith("2");
  return node;
}

function operationNode(api, path, method, operation) {
  const { operationId, summary, description, parameters = [], requestBody, security, responses } = operation;
  const anchor = element("a", "anchor", element("span", `method method-${method}`, method.toUpperCase()), " ",
    element("code", "", path));
  anchor.href = `#${operationId}`;
  const node = element("section", "operation", element("h3", "", anchor), element("p", "summary", summary));
  node.id = operationId;
  node.append(prose(description ?? ""), access(security));
  if (parameters.length > 0) node.append(element("h4", "", "Parameters"), parameterList(api, parameters));
  if (requestBody) node.append(element("h4", "", "Body"), ...content(api, requestBody.content));
  node.append(element("h4", "", "Answers"), ...Object.entries(responses).map(([status, response]) =>
    responseNode(api, status, response)));
  const request = requestOf(api, path, method, operation);
  node.append(element("h4", "", "Example"), element("pre", "example", request.command));
  if (request.hint) node.append(element("p", "hint", request.hint));
  if (request.canBeTried) node.append(tryIt(request));
  return node;
}

/* ------------------------------------------------------------------------------------------------------------- page */

function showSchemes(api) {
  for (const [key, scheme] of Object.entries(api.components.securitySchemes)) {
    const place = scheme.type === "http" ? "Authorization: Bearer …" : `${scheme.in}: ${scheme.name}`;
    el.schemes.append(element("dt", "", words(key), " ", element("code", "", place)),
      element("dd", "", prose(scheme.description)));
  }
}

function showOperations(api) {
  for (const { name, description } of api.tags) {
    const group = element("section", "group", element("h2", "", name), prose(description));
    const entries = element("ul", "");
    const title = element("li", "contents-group", element("span", "contents-tag", name), entries);
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (!METHODS.includes(method) || operation.tags[0] !== name) continue;
        const link = element("a", "", operation.summary);
        link.href = `#${operation.operationId}`;
        const node = operationNode(api, path, method, operation);
        const entry = element("li", "", link);
        const text = [method, path, operation.summary, operation.description ?? "", name].join(" ").toLowerCase();
        shown.push({ nodes: [node, entry], groups: [group, title], text });
        group.append(node);
        entries.append(entry);
      }
    }
    el.operations.append(group);
    el.contents.append(title);
  }
}

/** Shows the operations that contain all words. */
function search() {
  const wanted = el.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const groups = new Map();
  let found = 0;
  for (const { nodes, groups: its, text } of shown) {
    const matches = wanted.every((word) => text.includes(word));
    found += Number(matches);
    for (const node of nodes) node.hidden = !matches;
    for (const group of its) groups.set(group, groups.get(group) || matches);
  }
  for (const [group, matches] of groups) group.hidden = !matches;
  el.found.textContent = wanted.length > 0 ? `${found} of ${shown.length} operations` : "";
}

async function show() {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`the server answers with ${response.status}`);
  const api = await response.json();
  el.version.textContent = api.info.version;
  el.about.append(prose(api.info.description));
  showSchemes(api);
  showOperations(api);
  el.search.addEventListener("input", search);
  // A link to an operation led nowhere before there were operations.
  document.getElementById(fragment())?.scrollIntoView();
}

/** The id in the address; an address that is not encoded properly has none. */
function fragment() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

show().catch((error) => {
  el.problem.hidden = false;
  el.problem.textContent = `openapi.json cannot be shown: ${error.message}`;
});
