/**
 * Some people who are not there: real connections of this page that come, change their state, go, and come again for a
 * minute, so that there is something to see on a server that nobody uses yet.
 */

import { connect } from "/presence.js";

const ROOM = "lobby";
const DURATION_MS = 60_000;
const ARRIVE_WITHIN_MS = 5_000;
/** Between two things that one of them does. */
const PAUSE_MS = { least: 1_500, most: 6_000 };
/** How often somebody goes instead of changing the state. */
const GOES = 0.3;
const MOODS = ["reading", "typing", "thinking", "on the phone", "having tea"];
const NAMES = ["Ada", "Grace", "Linus", "Margaret", "Ken", "Barbara", "Edsger", "Radia", "Tony", "Frances", "Niklaus", "Jean",
  "Dennis", "Shafi", "Leslie", "Adele", "Yukihiro", "Katherine", "Guido", "Hedy"];

const pause = () => PAUSE_MS.least + Math.random() * (PAUSE_MS.most - PAUSE_MS.least);
const pick = (list) => list[Math.floor(Math.random() * list.length)];

class DemoUser {
  #name;
  #presence = null;
  #room = null;
  #timer;

  constructor(name) {
    this.#name = name;
    this.#timer = setTimeout(() => this.#act(), Math.random() * ARRIVE_WITHIN_MS);
  }

  #act() {
    if (!this.#presence) this.#come();
    else if (Math.random() < GOES) this.#go();
    else this.#room.setState({ mood: pick(MOODS) });
    this.#timer = setTimeout(() => this.#act(), pause());
  }

  #come() {
    this.#presence = connect(undefined, { user: `${this.#name} (demo)` });
    this.#room = this.#presence.join(ROOM, { state: { mood: pick(MOODS) } });
  }

  #go() {
    this.#presence?.close();
    this.#presence = null;
  }

  end() {
    clearTimeout(this.#timer);
    this.#go();
  }
}

export class DemoUsers {
  static count = NAMES.length;
  #users = [];
  #endsAt = 0;
  #timer;
  #changed;

  /** `changed` is called when they come and when the last has gone. */
  constructor(changed) {
    this.#changed = changed;
    // Otherwise the server would keep them for a while, as it keeps everybody who reloads.
    addEventListener("pagehide", () => this.stop());
  }

  get secondsLeft() {
    return this.#users.length > 0 ? Math.max(0, Math.ceil((this.#endsAt - Date.now()) / 1000)) : 0;
  }

  get running() {
    return this.#users.length > 0;
  }

  start() {
    if (this.running) return;
    this.#users = NAMES.map((name) => new DemoUser(name));
    this.#endsAt = Date.now() + DURATION_MS;
    this.#timer = setTimeout(() => this.stop(), DURATION_MS);
    this.#changed();
  }

  stop() {
    if (!this.running) return;
    clearTimeout(this.#timer);
    for (const user of this.#users) user.end();
    this.#users = [];
    this.#changed();
  }
}
