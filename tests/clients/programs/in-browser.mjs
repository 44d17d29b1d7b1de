/**
 * Runs scripts in a page of the server in Chromium, in order, and tells what they write to the console:
 * in-browser.mjs SERVER SCRIPT …, where a script is a file, or `npm:` and the path of one in the packages.
 */

import { join } from "node:path";

import { onEnd, openBrowser, PATIENCE_MS, packages, say } from "./say.mjs";

const [server, ...scripts] = process.argv.slice(2);
const browser = await openBrowser();
onEnd(() => browser.close());

const page = await browser.newPage();
page.setDefaultTimeout(PATIENCE_MS);
page.on("console", async (line) => say({ console: await Promise.all(line.args().map((value) => value.jsonValue())) }));
page.on("pageerror", (error) => say({ error: error.message }));
// An answer of the server's that is no page of its own: these scripts come from elsewhere, its pages allow none such.
await page.goto(`${server}/livez`);
for (const script of scripts) {
  const path = script.startsWith("npm:") ? join(packages, "node_modules", script.slice("npm:".length)) : script;
  await page.addScriptTag({ path });
}
