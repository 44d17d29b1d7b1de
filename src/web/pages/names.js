/**
 * Names of people: how they are compared, checked, coloured and kept. No document, so that embed.js can use it too.
 */

/** The server's rule for user ids: 1–128 bytes of UTF-8 without control characters. */
const MAX_NAME_BYTES = 128;
const NAME_KEY = "rollcall.name";
const HUES = 12;

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** The person's own collation, and code units where that finds two names equal. */
export function compareNames(a, b) {
  return collator.compare(a, b) || (a < b ? -1 : Number(a > b));
}

/** FNV-1a: the same name has the same colour and the same place on the board in every browser. */
export function hashOf(name) {
  let hash = 0x811c9dc5;
  for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193);
  return (hash ^ (hash >>> 15)) >>> 0;
}

export const hueClass = (name) => `hue-${hashOf(name) % HUES}`;

/** One or two letters: of the first and the last word. */
export function initialsOf(name) {
  const words = name.split(/[\s._\-@]+/u).filter((word) => /[\p{L}\p{N}\p{Extended_Pictographic}]/u.test(word));
  const picked = words.length > 1 ? [words[0], words.at(-1)] : [words[0] ?? name];
  const withoutMarks = (word) => word.replace(/^[^\p{L}\p{N}\p{Extended_Pictographic}]+/u, "") || word;
  return picked.map((word) => firstGrapheme(withoutMarks(word))).join("");
}

function firstGrapheme(word) {
  if (!Intl.Segmenter) return [...word][0]?.toUpperCase() ?? "";
  const [first] = new Intl.Segmenter().segment(word);
  return first?.segment.toUpperCase() ?? "";
}

/** What is wrong with a name, in the user's words; empty when it is fine. */
export function nameProblem(name) {
  if (name === "") return "Please type a name.";
  if (/\p{Cc}|\p{Cs}/u.test(name)) return "A name cannot hold control characters.";
  const bytes = new TextEncoder().encode(name).length;
  return bytes > MAX_NAME_BYTES ? `That is ${bytes} bytes; a name has ${MAX_NAME_BYTES} at most.` : "";
}

export const tidyName = (typed) => typed.trim().normalize("NFC");

/** This tab's own name first, so that a reload keeps it when another tab took another one. Storage may be forbidden. */
export function storedName() {
  try {
    return sessionStorage.getItem(NAME_KEY) ?? localStorage.getItem(NAME_KEY) ?? "";
  } catch {
    return "";
  }
}

export function storeName(name) {
  try {
    sessionStorage.setItem(NAME_KEY, name);
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // then it is asked for again next time
  }
}

/** `?user=NAME` presets the name, an empty one asks for it whatever is stored. */
export function initialName() {
  const preset = new URLSearchParams(location.search).get("user");
  const name = tidyName(preset ?? storedName());
  return nameProblem(name) === "" ? name : "";
}
