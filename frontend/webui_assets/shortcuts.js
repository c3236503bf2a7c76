// The keys of the chat page, wherever the focus is. Fields have keys of their own (composer.js, message_view.js).

import { byId, isComposing } from "./dom.js";

/** @param {{newChat(): void, stop(): boolean, focus(): void}} actions `stop` says whether there was something to stop */
export function installShortcuts(actions) {
  document.addEventListener("keydown", (event) => {
    if (isComposing(event) || document.querySelector("dialog[open]")) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      actions.newChat();
    } else if (event.key === "Escape") {
      if (!actions.stop()) closePanels();
    } else if (!isTyping(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      if (event.key === "/") {
        event.preventDefault();
        actions.focus();
      } else if (event.key === "?") {
        byId("help-dialog").showModal();
      }
    }
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is that of the conversation
    actions.focus();
  });
  byId("help-button").addEventListener("click", () => byId("help-dialog").showModal());
  byId("help-close").addEventListener("click", () => byId("help-dialog").close());
}

function isTyping(target) {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}

function closePanels() {
  document.body.classList.remove("sidebar-open");
  if (document.body.classList.contains("settings-open")) byId("close-settings").click();
}
