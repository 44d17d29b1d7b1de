/** The same scenarios in three browser engines: Chromium, Firefox and WebKit (Safari). */

import { describe } from "node:test";

import { Chromium } from "./engines/chromium.mjs";
import { clientScenarios } from "./engines/client.mjs";
import { Firefox } from "./engines/firefox.mjs";
import { pageScenarios } from "./engines/pages.mjs";
import { Suite } from "./engines/suite.mjs";
import { WebKit } from "./engines/webkit.mjs";

/** ENGINES=Firefox,WebKit selects some. */
const ENGINES = [Chromium, Firefox, WebKit].filter(({ name }) => (process.env.ENGINES ?? name).includes(name));

// The engines run side by side, the scenarios of each one after the other.
describe("engines", { concurrency: true }, () => {
  for (const Engine of ENGINES) {
    describe(Engine.name, { concurrency: 1 }, () => {
      const suite = new Suite(Engine);
      clientScenarios(suite);
      pageScenarios(suite);
    });
  }
});
