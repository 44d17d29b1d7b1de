/** User names: comparing, checking, colours, initials and storage. Shared by the pages and embed.js. */

/** The server accepts user ids of 1 to 128 bytes of UTF-8 without control characters and invisible ones. */
const MAX_NAME_BYTES = 128;
const NAME_KEY = "rollcall.name";
const HUES = 12;

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** By the collation of the browser's language; by code units where that treats two names as equal. */
export function compareNames(a, b) {
  return collator.compare(a, b) || (a < b ? -1 : Number(a > b));
}

/** FNV-1a, so that a name has the same colour and the same cell of the board in every browser. */
export function hashOf(name) {
  let hash = 0x811c9dc5;
  for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193);
  return (hash ^ (hash >>> 15)) >>> 0;
}

export const hueClass = (name) => `hue-${hashOf(name) % HUES}`;

/** The first letters of the first and the last word. */
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

/** What is wrong with a name, as a text for the user; empty if the name is valid. */
export function nameProblem(name) {
  if (name === "") return "Enter a name.";
  if (/\p{Cc}|\p{Cs}/u.test(name)) return "A name cannot contain control characters.";
  // Joiners and tags are part of emoji and of scripts; the server knows where they belong.
  if (/(?![\u200c\u200d\u{e0020}-\u{e007f}])\p{Cf}/u.test(name)) return "A name cannot contain invisible characters.";
  const bytes = new TextEncoder().encode(name).length;
  return bytes > MAX_NAME_BYTES ? `The name is ${bytes} bytes; the limit is ${MAX_NAME_BYTES}.` : "";
}

export const tidyName = (typed) => typed.trim().normalize("NFC");

/** Prefers the name of this tab, so that a reload keeps it if another tab uses another name. */
export function storedName() {
  try {
    return sessionStorage.getItem(NAME_KEY) ?? localStorage.getItem(NAME_KEY) ?? "";
  } catch {
    return ""; // storage can be disabled
  }
}

export function storeName(name) {
  try {
    sessionStorage.setItem(NAME_KEY, name);
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // Without storage the name is asked for again on the next visit.
  }
}

/** `?user=NAME` sets the name; `?user=` ignores the stored name, so that the dialog opens. */
export function initialName() {
  const preset = new URLSearchParams(location.search).get("user");
  const name = tidyName(preset ?? storedName());
  return nameProblem(name) === "" ? name : "";
}
