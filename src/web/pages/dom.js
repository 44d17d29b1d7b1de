/** Creates elements, for the pages and embed.js. Texts of other users are inserted as text, never as HTML. */

import { hueClass, initialsOf } from "/names.js";

export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function paintAvatar(node, name) {
  node.textContent = initialsOf(name);
  node.className = node.className.replace(/ ?hue-\d+/, "") + ` ${hueClass(name)}`;
}

export function avatarOf(name) {
  const avatar = element("span", "avatar");
  avatar.setAttribute("aria-hidden", "true");
  paintAvatar(avatar, name);
  return avatar;
}

/** A name in any script and direction. */
export function nameOf(name) {
  const label = element("bdi", "name", name);
  label.title = name;
  return label;
}
