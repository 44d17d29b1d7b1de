/** The dialog that asks for a name, and the button in the header that shows the present name and opens the dialog. */

import { paintAvatar } from "/dom.js";
import { initialName, nameProblem, storeName, tidyName } from "/names.js";
import { el } from "/page.js";

let present = "";

/**
 * Calls `enter` with the name, at once if one is stored, and again whenever it is changed. `focus` is called when the
 * dialog closes, to move the keyboard focus into the page.
 */
export function askName({ enter, focus }) {
  const use = (name) => {
    present = name;
    paintAvatar(el["me-avatar"], name);
    el["me-name"].textContent = name;
    el["change-name"].hidden = false;
    enter(name);
  };
  el["change-name"].addEventListener("click", () => open());
  el["name-form"].addEventListener("submit", (event) => submit(event, use));
  el["name-cancel"].addEventListener("click", () => el["name-dialog"].close());
  el["name-input"].addEventListener("input", ({ target }) => {
    paintAvatar(el["name-avatar"], tidyName(target.value) || "?");
    showProblem("");
  });
  // Without a name the dialog stays open.
  el["name-dialog"].addEventListener("cancel", (event) => present || event.preventDefault());
  el["name-dialog"].addEventListener("close", () => {
    // If the button opened the dialog, the browser has given it the focus back.
    if (!present) open();
    else if (document.activeElement !== el["change-name"]) focus();
  });
  const name = initialName();
  if (name) use(name);
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

function submit(event, use) {
  const name = tidyName(el["name-input"].value);
  const problem = nameProblem(name);
  showProblem(problem);
  if (problem) {
    event.preventDefault();
    el["name-input"].focus();
    return;
  }
  storeName(name);
  const query = new URLSearchParams(location.search);
  query.delete("user");
  history.replaceState(null, "", `${location.pathname}${query.toString() && `?${query}`}`);
  if (name !== present) use(name);
}
