/**
 * What the tests use of a browser, the same for all engines. An engine has
 *   start(), stop()
 *   name, version
 *   restoresPages                 whether pages with a WebSocket come back from the back/forward cache
 *   causeOfRestart                the cause that presence.js reports when the server restarts
 *   open(url) → Tab               in a window of its own, so that the page is visible and its timers run
 *   takeProblems() → [text, …]    since the last call: console errors and warnings, exceptions, what the policy blocked
 *   isNetworkError(text)          whether the browser itself reports an unreachable server with this text
 * A tab has, besides what is here:
 *   goto(url), reload()           return when the page is loaded
 *   back()                        the Back button
 *   evaluate(function, argument)  in the page; awaits a promise; argument and result are JSON
 *   press(key)                    a character, Enter, Tab or Escape
 *   clickAt(x, y)
 *   png()
 *   close()                       as a user closes a tab
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { DEADLINE_MS, root, until } from "../server.mjs";

/** The code points with which WebDriver and WebDriver BiDi name keys. */
const KEYS = { Enter: "\ue007", Tab: "\ue004", Escape: "\ue00c" };

const screenshots = join(root, "target/screenshots");

export class Tab {
  async click(selector) {
    const isVisible = (css) => Boolean(document.querySelector(css)?.checkVisibility());
    await until(`${selector} can be clicked`, () => this.evaluate(isVisible, selector));
    const find = () => this.evaluate((css) => {
      const node = document.querySelector(css);
      node.scrollIntoView({ block: "center", behavior: "instant" });
      const { left, top, width, height } = node.getBoundingClientRect();
      return [left + width / 2, top + height / 2];
    }, selector);
    // What is still being loaded above it can move it.
    let place, before;
    await until(`${selector} stands still`, async () => {
      [place, before] = [await find(), place];
      return String(place) === String(before);
    });
    await this.clickAt(Math.round(place[0]), Math.round(place[1]));
  }

  async type(text) {
    for (const character of text) await this.press(character);
  }

  async screenshot(name) {
    // WebKit shows what it has painted.
    await this.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done()))));
    mkdirSync(screenshots, { recursive: true });
    writeFileSync(join(screenshots, `${name}.png`), await this.png());
  }
}

/** Pressing a key, for WebDriver and WebDriver BiDi. */
export function keyActions(key) {
  const value = KEYS[key] ?? key;
  return { type: "key", id: "keyboard", actions: [{ type: "keyDown", value }, { type: "keyUp", value }] };
}

/** A click, for WebDriver and WebDriver BiDi. */
export function clickActions(x, y) {
  const actions = [{ type: "pointerMove", x, y }, { type: "pointerDown", button: 0 }, { type: "pointerUp", button: 0 }];
  return { type: "pointer", id: "mouse", actions };
}

/** Starts a program in a process group of its own, so that its own child processes can be ended with it. */
export function spawnGroup(command, args, options) {
  return spawn(command, args, { ...options, detached: true });
}

export async function killGroup(child) {
  if (child.pid && child.exitCode === null && child.signalCode === null) {
    const ended = once(child, "exit");
    process.kill(-child.pid, "SIGKILL");
    await ended;
  }
  for (const stream of child.stdio) stream?.destroy();
}

/** The first text that a process prints and that matches, or an error if the process ends before. */
export function printed(child, stream, pattern) {
  return new Promise((found, failed) => {
    let text = "";
    stream.setEncoding("utf8").on("data", (more) => {
      text = (text + more).slice(-10_000);
      const match = pattern.exec(text);
      if (match) found(match[1]);
    });
    const name = child.spawnfile;
    child.once("error", failed);
    child.once("exit", (code) => failed(new Error(`${name} ended with ${code}: ${text}`)));
    setTimeout(() => failed(new Error(`${name} is not ready: ${text}`)), DEADLINE_MS).unref();
  });
}
