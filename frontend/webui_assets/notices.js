// Short messages at the edge of the page, spoken by screen readers, which go by themselves.

import { byId, h } from "./dom.js";

const SHOWN_MS = 6000;

/**
 * @param {string} text
 * @param {{label: string, run: () => void}} [action] something that can still be done about it
 */
export function notify(text, action) {
  const notice = h("div", { className: "notice" }, h("span", {}, text));
  if (action) {
    const run = () => {
      notice.remove();
      action.run();
    };
    notice.append(h("button", { type: "button", onclick: run }, action.label));
  }
  byId("notices").append(notice);
  setTimeout(() => notice.remove(), SHOWN_MS);
}

/** Have screen readers say something that is on the page already. */
export function announce(text) {
  byId("announcer").textContent = text;
}
