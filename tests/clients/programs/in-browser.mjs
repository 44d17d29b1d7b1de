/**
 * Runs scripts in Chromium on a page of the server, and reports what they log: in-browser.mjs SERVER SCRIPT …
 * A script is a file, or `npm:` and a path in the installed packages. The scripts run in order.
 */

import { join } from "node:path";

import { onEnd, openBrowser, packages, report, TIMEOUT_MS } from "./common.mjs";

const [server, ...scripts] = process.argv.slice(2);
const browser = await openBrowser();
onEnd(() => browser.close());

const page = await browser.newPage();
page.setDefaultTimeout(TIMEOUT_MS);
const values = (line) => Promise.all(line.args().map((value) => value.jsonValue()));
page.on("console", async (line) => report({ console: await values(line) }));
page.on("pageerror", (error) => report({ error: error.message }));
// Not one of the pages, since their Content-Security-Policy allows only scripts of the server.
await page.goto(`${server}/livez`);
for (const script of scripts) {
  const path = script.startsWith("npm:") ? join(packages, "node_modules", script.slice("npm:".length)) : script;
  await page.addScriptTag({ path });
}
