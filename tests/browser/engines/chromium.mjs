/**
 * Chromium, by Playwright. The whole browser, since its headless shell has no back/forward cache. Playwright turns the
 * cache off as well.
 */

import { Browser, NETWORK_ERROR } from "../browser.mjs";
import { Tab } from "./tab.mjs";

const OPTIONS = {
  executablePath: process.env.CHROMIUM_BROWSER ?? "/usr/bin/chromium",
  ignoreDefaultArgs: ["--disable-back-forward-cache"],
};

export class Chromium {
  name = "chromium";
  restoresPages = true;
  causeOfRestart = "restarting";

  async start() {
    this.browser = await Browser.start(OPTIONS);
    this.version = this.browser.chromium.version();
    this.visitor = await this.browser.newVisitor({ ignoreHTTPSErrors: true });
  }

  async open(url) {
    return new ChromiumTab(await this.visitor.open({ url }, "", { path: "", online: false }));
  }

  isNetworkError = (text) => NETWORK_ERROR.test(text);

  takeProblems() {
    return [...this.visitor.violations.splice(0), ...this.visitor.errors.splice(0)];
  }

  async stop() {
    await this.browser?.stop();
  }
}

class ChromiumTab extends Tab {
  #page;

  constructor(page) {
    super();
    this.#page = page;
  }

  async goto(url) {
    await this.#page.goto(url);
  }

  async reload() {
    await this.#page.reload();
  }

  async back() {
    // A page from the cache is not loaded again.
    await this.#page.goBack({ waitUntil: "commit" });
  }

  evaluate(call, argument) {
    return this.#page.evaluate(call, argument);
  }

  async press(key) {
    await this.#page.keyboard.press(key);
  }

  async clickAt(x, y) {
    await this.#page.mouse.click(x, y);
  }

  png() {
    return this.#page.screenshot();
  }

  async close() {
    await this.#page.close();
  }
}
