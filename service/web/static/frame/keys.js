// Whether single keys, such as "1" or "?", do something. Whoever speaks to the computer, or presses
// keys by mistake, can switch them off (WCAG 2.2, 2.1.4).
import { html, signal } from "/static/vendor/ui.js";
import { Field } from "./parts.js";

const KEPT = "single-keys";

function kept() {
  try {
    return localStorage.getItem(KEPT) !== "off";
  } catch {
    return true;
  }
}

export const singleKeys = signal(kept());

/** The switch, as it stands in lists of keys. */
export function KeySwitch() {
  const change = (event) => {
    singleKeys.value = event.target.checked;
    try { localStorage.setItem(KEPT, singleKeys.value ? "on" : "off"); } catch { /* it lasts until the page is left */ }
  };
  return html`<${Field} type="checkbox" role="switch" label="Single keys do something" checked=${singleKeys.value} onChange=${change}
    hint="Switch them off if you speak to your computer, or press keys by mistake." />`;
}
