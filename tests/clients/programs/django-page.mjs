/**
 * Signs in to the Django project in Chromium and watches the page: django-page.mjs SITE USER PASSWORD.
 * Reports each change of the list. Reads commands: `sign out` presses the button, `second window` opens the page again.
 */

import { createInterface } from "node:readline";

import { openBrowser, report, TIMEOUT_MS } from "./common.mjs";

const [site, user, password] = process.argv.slice(2);
const browser = await openBrowser();
const context = await browser.newContext();
context.setDefaultTimeout(TIMEOUT_MS);
const page = await context.newPage();

// The login form has `autofocus`, which Chromium reports as blocked if Playwright is faster.
const isHarmless = (line) => line.text().startsWith("Autofocus processing was blocked");
page.on("console", (line) => {
  if (!isHarmless(line)) report(line.type() === "log" ? JSON.parse(line.text()) : { error: line.text() });
});
page.on("pageerror", (error) => report({ error: error.message }));
page.on("framenavigated", (frame) => report({ path: new URL(frame.url()).pathname }));
await page.addInitScript(() => {
  const logList = () => {
    const entry = (row) => [row.dataset.user, row.querySelector("b")?.textContent];
    console.log(JSON.stringify(Object.fromEntries([...document.querySelectorAll("[data-user]")].map(entry))));
  };
  new MutationObserver(logList).observe(document, { subtree: true, childList: true });
});
await page.goto(`${site}/login`);
await page.fill("[name=username]", user);
await page.fill("[name=password]", password);
await page.click("button");
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "sign out") await page.click("button");
  if (line === "second window") {
    const second = await context.newPage();
    second.on("framenavigated", (frame) => report({ second: new URL(frame.url()).pathname }));
    await second.goto(site);
  }
}
await browser.close();
