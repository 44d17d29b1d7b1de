/**
 * Somebody who signs in to the Django project with Chromium and looks at the page: django-page.mjs SITE USER PASSWORD.
 * Tells each change of the page's list; a line `sign out` on its input presses that button, `second window` opens the page again.
 */

import { createInterface } from "node:readline";

import { openBrowser, PATIENCE_MS, say } from "./say.mjs";

const [site, user, password] = process.argv.slice(2);
const browser = await openBrowser();
const context = await browser.newContext();
const page = await context.newPage();
page.setDefaultTimeout(PATIENCE_MS);

page.on("console", (line) => say(line.type() === "log" ? JSON.parse(line.text()) : { complaint: line.text() }));
page.on("pageerror", (error) => say({ complaint: error.message }));
page.on("framenavigated", (frame) => say({ path: new URL(frame.url()).pathname }));
await page.addInitScript(() => {
  const tell = () => {
    const people = [...document.querySelectorAll("[data-user]")];
    console.log(JSON.stringify(Object.fromEntries(people.map((one) => [one.dataset.user, one.querySelector("b")?.textContent]))));
  };
  new MutationObserver(tell).observe(document, { subtree: true, childList: true });
});
await page.goto(`${site}/login`);
await page.fill("[name=username]", user);
await page.fill("[name=password]", password);
await page.click("button");
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "sign out") await page.click("button");
  if (line === "second window") {
    const second = await context.newPage();
    second.on("framenavigated", (frame) => say({ second: new URL(frame.url()).pathname }));
    await second.goto(site);
  }
}
await browser.close();
