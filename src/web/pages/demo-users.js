/**
 * Demo users for a server that nobody uses yet: real connections of this page. For one minute they join, change their
 * state, leave and join again.
 */

import { PRESENCE } from "/page.js";
import { connect } from "/presence.js";

/** A room of their own: nobody else is in it unless they look at the demo. */
export const DEMO_ROOM = "demo";
const DURATION_MS = 60_000;
const ARRIVE_WITHIN_MS = 5_000;
/** Between two actions of a user. */
const PAUSE_MS = { min: 1_500, max: 6_000 };
/** How often a user leaves instead of changing the state. */
const LEAVE_PROBABILITY = 0.3;
const MOODS = ["reading", "typing", "thinking", "on the phone", "having tea"];
const NAMES = ["Ada", "Grace", "Linus", "Margaret", "Ken", "Barbara", "Edsger", "Radia", "Tony", "Frances", "Niklaus",
  "Jean", "Dennis", "Shafi", "Leslie", "Adele", "Yukihiro", "Katherine", "Guido", "Hedy"];

const pause = () => PAUSE_MS.min + Math.random() * (PAUSE_MS.max - PAUSE_MS.min);
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
    if (!this.#presence) this.#join();
    else if (Math.random() < LEAVE_PROBABILITY) this.#leave();
    else this.#room.setState({ mood: pick(MOODS) });
    this.#timer = setTimeout(() => this.#act(), pause());
  }

  #join() {
    this.#presence = connect(PRESENCE, { user: `${this.#name} (demo)` });
    this.#room = this.#presence.join(DEMO_ROOM, { state: { mood: pick(MOODS) } });
  }

  #leave() {
    this.#presence?.close();
    this.#presence = null;
  }

  end() {
    clearTimeout(this.#timer);
    this.#leave();
  }
}

export class DemoUsers {
  static count = NAMES.length;
  #users = [];
  #endsAt = 0;
  #timer;
  #onChange;

  /** `onChange` is called after starting and after stopping. */
  constructor(onChange) {
    this.#onChange = onChange;
    // Without an explicit leave the server keeps them for the grace period, as after a reload.
    addEventListener("pagehide", () => this.stop());
  }

  get secondsLeft() {
    return this.running ? Math.max(0, Math.ceil((this.#endsAt - Date.now()) / 1000)) : 0;
  }

  get running() {
    return this.#users.length > 0;
  }

  start() {
    if (this.running) return;
    this.#users = NAMES.map((name) => new DemoUser(name));
    this.#endsAt = Date.now() + DURATION_MS;
    this.#timer = setTimeout(() => this.stop(), DURATION_MS);
    this.#onChange();
  }

  stop() {
    if (!this.running) return;
    clearTimeout(this.#timer);
    for (const user of this.#users) user.end();
    this.#users = [];
    this.#onChange();
  }
}
