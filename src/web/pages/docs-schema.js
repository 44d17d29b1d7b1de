/** Shows the schemas of an OpenAPI document, and makes examples of values and requests. */

import { element, prose } from "/docs-elements.js";

/** What a reference points at; anything else is itself. */
export function resolve(api, value) {
  if (!value?.$ref) return value;
  const target = value.$ref.slice(2).split("/").reduce((part, name) => part[name], api);
  // Next to a reference, a schema may have a description of its own.
  return { ...target, ...value, $ref: undefined };
}

/* ---------------------------------------------------------------------------------------------------------- schemas */

const nameOf = (schema) => schema?.$ref?.split("/").at(-1);

/** The type in a few words: "string, 1 to 128 characters". */
function typeText(api, reference) {
  const schema = resolve(api, reference);
  if (schema.title && !schema.properties) return schema.title;
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives && !schema.type) return alternatives.map((one) => typeText(api, one)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.length > 8 ? schema.type : schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  const types = [schema.type ?? "any value"].flat();
  const { minimum: least, maximum: most, minLength, maxLength, maxItems } = schema;
  const number = (value) => value.toLocaleString("en");
  let text = types.join(" or ");
  if (schema.items) text = `list of ${typeText(api, schema.items)}s`;
  if (least !== undefined && most !== undefined) text += `, ${number(least)} to ${number(most)}`;
  if (maxLength !== undefined) text += `, ${minLength ? `${minLength} to ` : "up to "}${number(maxLength)} characters`;
  if (maxItems !== undefined) text += `, up to ${number(maxItems)}`;
  if (schema.default !== undefined) text += `, default ${number(schema.default)}`;
  return text;
}

/** The schema with properties inside of this one, if any: of an object, of the items of a list, of an alternative. */
function inner(api, reference) {
  const schema = resolve(api, reference) ?? {};
  if (schema.properties) return [schema];
  const values = typeof schema.additionalProperties === "object" ? [schema.additionalProperties] : [];
  const nested = [schema.items, ...values, ...(schema.anyOf ?? schema.oneOf ?? [])].filter(Boolean);
  return nested.flatMap((one) => inner(api, one));
}

function propertyList(api, schema) {
  const list = element("dl", "properties");
  for (const [name, reference] of Object.entries(schema.properties)) {
    const property = resolve(api, reference);
    // What a name is, is said once, at the beginning.
    const description = property.title && !reference.description ? "" : property.description;
    const nested = inner(api, reference).map((one) => propertyList(api, one));
    const needed = schema.required?.includes(name) ? [element("span", "required", "required")] : [];
    list.append(
      element("dt", "", element("code", "property-name", name), element("span", "type", typeText(api, reference)), ...needed),
      element("dd", "", prose(description ?? ""), ...nested),
    );
  }
  return list;
}

/** The type of a schema, and an element that shows its properties. */
export function schemaTree(api, reference) {
  const schemas = inner(api, reference);
  const lists = schemas.flatMap((schema) => [
    ...(schema.title ? [element("p", "schema-title", `${schema.title}:`)] : []), propertyList(api, schema)]);
  return { type: typeText(api, reference), node: element("div", "schema", ...lists) };
}

/** An example of a schema that has none in the document. */
export function exampleOf(api, reference) {
  const schema = resolve(api, reference);
  if (nameOf(reference) === "ErrorText") return undefined;
  if (schema.examples) return schema.examples[0];
  return schema.default;
}

/* --------------------------------------------------------------------------------------------------------- requests */

const quoted = (text) => `'${String(text).replaceAll("'", String.raw`'\''`)}'`;
const SIGNATURE = "auth_key=KEY&auth_timestamp=SECONDS&auth_signature=SIGNATURE";
const FORM = "application/x-www-form-urlencoded";

/** Where the API is: the page may be behind the path prefix of a proxy. */
const base = () => new URL(".", location.href).href.replace(/\/$/, "");

/** A request with the examples of the document, and the command that sends it. */
export function requestOf(api, path, method, operation) {
  const parameters = (operation.parameters ?? []).map((one) => resolve(api, one));
  const needsKey = !operation.security.some((schemes) => Object.keys(schemes).length === 0) && operation.security.length > 0;
  const isSigned = operation.security.some((schemes) => "pusherSignature" in schemes);
  const isSocket = "x-websocket" in operation;
  const json = operation.requestBody?.content["application/json"];
  const value = json?.example ?? Object.values(json?.examples ?? {})[0]?.value;
  const isForm = Boolean(operation.requestBody?.content[FORM]);
  const body = value === undefined ? undefined : isForm ? new URLSearchParams(value).toString() : JSON.stringify(value);
  const type = isForm ? FORM : "application/json";
  const fill = (name, values) => encodeURIComponent(values?.[name] ?? parameters.find((one) => one.name === name).example);
  const url = (values) => {
    const filled = path.replace(/\{(\w+)\}/g, (_, name) => fill(name, values));
    const query = parameters.filter(({ name, in: place }) => place === "query" && (values ? values[name] : name === "user"))
      .map(({ name }) => `${name}=${fill(name, values)}`);
    if (isSigned) query.push(body ? `body_md5=MD5&${SIGNATURE}` : SIGNATURE);
    return base() + filled + (query.length > 0 ? `?${query.join("&")}` : "");
  };
  const parts = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${quoted(url())}`];
  if (needsKey && !isSigned) parts.push(`-H ${quoted("Authorization: Bearer KEY")}`);
  if (body) parts.push(...(isForm ? [] : [`-H ${quoted(`Content-Type: ${type}`)}`]), `-d ${quoted(body)}`);
  const schemes = new Set(operation.security.flatMap(Object.keys));
  const credential = ["apiKey", "readKey"].some((name) => schemes.has(name)) ? "KEY" : schemes.has("token") ? "TOKEN" : undefined;
  // The settings of the server decide whether it is needed, which the document does not know.
  const hint = needsKey || !credential ? "" : `If the server requires it, add -H 'Authorization: Bearer ${credential}'`;
  const socket = `new WebSocket(${JSON.stringify(url().replace(/^http/, "ws"))})`;
  return {
    id: operation.operationId, method: method.toUpperCase(), parameters, body, type, url,
    command: isSocket ? socket : parts.join(" \\\n  "), hint,
    takesKey: credential !== undefined,
    canBeTried: !isSocket && !isSigned && !path.endsWith("/docs"),
  };
}
