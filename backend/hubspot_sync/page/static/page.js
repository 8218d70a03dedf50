// Small comforts of every page. All of it works without them.
"use strict";

// What concerns ticked events waits until one is ticked.
function followTicks() {
  for (const form of document.querySelectorAll("form")) {
    const buttons = form.querySelectorAll("[data-needs-ticked]");
    if (!buttons.length) continue;
    const ticks = [...form.querySelectorAll("input[name=event]")];
    const all = form.querySelector("[data-tick-all]");
    const ticked = ticks.filter((tick) => tick.checked).length;
    for (const button of buttons) button.disabled = !ticked;
    if (all) {
      all.hidden = !ticks.length;
      all.checked = ticked > 0 && ticked === ticks.length;
      all.indeterminate = ticked > 0 && ticked < ticks.length;
    }
  }
}

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-tick-all]")) {
    for (const tick of event.target.form.querySelectorAll("input[name=event]")) tick.checked = event.target.checked;
  }
  followTicks();
});
document.addEventListener("DOMContentLoaded", followTicks);
document.addEventListener("htmx:afterSwap", followTicks);
// A page that the browser kept brings its ticks back after it was loaded.
window.addEventListener("pageshow", followTicks);
