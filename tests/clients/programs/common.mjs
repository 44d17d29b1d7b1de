/** What the programs share: installed packages, Chromium, and reporting events as lines of JSON. */

import { createRequire } from "node:module";
import { join } from "node:path";

export const packages = process.env.CLIENT_PACKAGES;
export const require = createRequire(join(packages, "package.json"));
export const report = (event) => console.log(JSON.stringify(event));

/** Only failures take this long. The test gives up at the same time. */
export const TIMEOUT_MS = 120_000;

export function openBrowser() {
  const { chromium } = require("playwright-core");
  const args = ["--no-sandbox", "--disable-gpu"];
  return chromium.launch({ executablePath: process.env.CHROMIUM, args, timeout: TIMEOUT_MS });
}

/** The test closes the input when the program should exit. */
export const onEnd = (close) => process.stdin.on("end", close).resume();
