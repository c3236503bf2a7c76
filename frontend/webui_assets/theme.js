// The switch between the colours of the system, light and dark ones. theme_start.js sets what was chosen before.

import { icon } from "./dom.js";

const NAME = "fast-inference.theme";
const NEXT = { system: "dark", dark: "light", light: "system" };
const ICONS = { system: "screen", dark: "moon", light: "sun" };

/**
 * Have a button switch.
 * @param {HTMLButtonElement} button
 * @param {() => void} [onChange] also called when the system changes
 */
export function installTheme(button, onChange = () => undefined) {
  const root = document.documentElement;
  const show = () => {
    const theme = root.dataset.theme ?? "system";
    button.replaceChildren(icon(ICONS[theme]));
    button.title = `Colours: ${theme}`;
    button.setAttribute("aria-label", `Colours: ${theme}. Switch to ${NEXT[theme]}`);
  };
  button.addEventListener("click", () => {
    const theme = NEXT[root.dataset.theme ?? "system"];
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    keep(theme);
    show();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  show();
}

function keep(theme) {
  try {
    if (theme === "system") localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, theme);
  } catch {
    // a browser that keeps nothing: until the page is closed
  }
}
