/**
 * Signs in to the application of docs/node in Chromium and watches the page: node-page.mjs SITE USER.
 * Reports each change of the list and of the state. Reads commands: `sign out` presses the button; `steal URL` opens that
 * page in the same browser and reports its title, once it has one.
 */

import { createInterface } from "node:readline";

import { openBrowser, report, TIMEOUT_MS } from "./common.mjs";

const [site, user] = process.argv.slice(2);
const browser = await openBrowser();
const context = await browser.newContext({ ignoreHTTPSErrors: true });
context.setDefaultTimeout(TIMEOUT_MS);
const page = await context.newPage();
page.on("console", (line) => report(line.type() === "log" ? JSON.parse(line.text()) : { error: line.text() }));
page.on("pageerror", (error) => report({ error: error.message }));
await page.addInitScript(() => {
  const log = () => {
    const people = [...document.querySelectorAll("#people li")].map((line) => line.textContent);
    console.log(JSON.stringify({ people, state: document.getElementById("state")?.textContent }));
  };
  new MutationObserver(log).observe(document, { subtree: true, childList: true });
});
await page.goto(site);
await page.fill("[name=user]", user);
await page.click("#sign-in button");
for await (const line of createInterface({ input: process.stdin })) {
  const [command, url] = line.split(/ (?=http)/);
  if (command === "sign out") await page.click("#online button");
  if (command === "steal") {
    const attack = await context.newPage();
    await attack.goto(url);
    await attack.waitForFunction(() => document.title !== "");
    report({ stolen: await attack.title() });
  }
}
await browser.close();
