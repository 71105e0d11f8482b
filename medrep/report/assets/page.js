"use strict";
// Print shows what is folded away.
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((one) => {
  one.open = true; one.dataset.printed = "1"; }));
addEventListener("afterprint", () => document.querySelectorAll("details[data-printed]").forEach((one) => {
  one.open = false; delete one.dataset.printed; }));
