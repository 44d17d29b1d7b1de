/**
 * The dialog that asks for a name, and the button above the page that shows the present one and opens it again.
 * The page gets each name it may use, at once if there is one already.
 */

import { paintAvatar } from "/dom.js";
import { initialName, nameProblem, storeName, tidyName } from "/names.js";
import { el } from "/page.js";

let present = "";

/** Calls `enter` with a name now or when it is typed, and with each later one; `focus` gets the keyboard afterwards. */
export function askName({ enter, focus }) {
  const take = (name) => {
    present = name;
    paintAvatar(el["me-avatar"], name);
    el["me-name"].textContent = name;
    el["change-name"].hidden = false;
    enter(name);
  };
  el["change-name"].addEventListener("click", () => open());
  el["name-form"].addEventListener("submit", (event) => submit(event, take));
  el["name-cancel"].addEventListener("click", () => el["name-dialog"].close());
  el["name-input"].addEventListener("input", ({ target }) => {
    paintAvatar(el["name-avatar"], tidyName(target.value) || "?");
    showProblem("");
  });
  // Without a name there is nothing to go back to.
  el["name-dialog"].addEventListener("cancel", (event) => present || event.preventDefault());
  el["name-dialog"].addEventListener("close", () => {
    // The browser gives the focus back to the button that opened it, if one did.
    if (!present) open();
    else if (document.activeElement !== el["change-name"]) focus();
  });
  const name = initialName();
  if (name) take(name);
  else open();
}

function open() {
  el["name-input"].value = present;
  el["name-cancel"].hidden = !present;
  el["name-submit"].textContent = present ? "Change name" : "Join the room";
  showProblem("");
  paintAvatar(el["name-avatar"], present || "?");
  el["name-dialog"].showModal();
  el["name-input"].focus();
  el["name-input"].select();
}

function showProblem(problem) {
  el["name-error"].textContent = problem;
  el["name-input"].setAttribute("aria-invalid", String(problem !== ""));
}

function submit(event, take) {
  const name = tidyName(el["name-input"].value);
  const problem = nameProblem(name);
  showProblem(problem);
  if (problem) {
    event.preventDefault();
    el["name-input"].focus();
    return;
  }
  storeName(name);
  if (location.search) history.replaceState(null, "", location.pathname);
  if (name !== present) take(name);
}
