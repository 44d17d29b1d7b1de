/**
 * A plain list of the users in a room, for embed.js and all pages except `/`, whose list is made for thousands.
 * Rows of users who stay are reused, so that nothing flickers and the focus is kept.
 */

import { avatarOf, element, nameOf } from "/dom.js";
import { compareNames } from "/names.js";

const MAX_ROWS = 200;

export class PlainRoster {
  #node;
  /** Name → row. */
  #rows = new Map();
  #frame = 0;
  #names = [];
  #me = "";

  constructor(node) {
    this.#node = node;
  }

  /** Shows these names at the next animation frame. */
  show(names, me) {
    if (me !== this.#me) this.#rows.clear();
    this.#me = me;
    this.#names = names;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#render();
    });
  }

  #render() {
    const shown = [...this.#names].sort(compareNames).slice(0, MAX_ROWS);
    const rows = new Map(shown.map((name) => [name, this.#rows.get(name) ?? this.#createRow(name)]));
    this.#rows = rows;
    const rest = this.#names.length - shown.length;
    const more = rest > 0 ? [element("li", "more", `and ${rest.toLocaleString()} more`)] : [];
    this.#node.replaceChildren(...rows.values(), ...more);
  }

  #createRow(name) {
    const row = element("li", "row", avatarOf(name), nameOf(name));
    if (name === this.#me) row.append(element("span", "tag", "you"));
    return row;
  }
}
