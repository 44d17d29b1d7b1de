/** What the programs share: packages from where they were installed, and lines of JSON that tell what happens. */

import { createRequire } from "node:module";
import { join } from "node:path";

export const packages = process.env.CLIENT_PACKAGES;
export const require = createRequire(join(packages, "package.json"));
export const say = (what) => console.log(JSON.stringify(what));

/** Only failures take so long: the test gives up at the same time. */
export const PATIENCE_MS = 120_000;

export function openBrowser() {
  const { chromium } = require("playwright-core");
  return chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"], timeout: PATIENCE_MS });
}

/** The test closes our input when the program is to leave. */
export const onEnd = (leave) => process.stdin.on("end", leave).resume();
