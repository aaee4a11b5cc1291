// Loaded before the page is drawn, so that a chosen theme does not flash in afterwards.
"use strict";
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be refused by the browser's settings; the system's theme is used then.
}
