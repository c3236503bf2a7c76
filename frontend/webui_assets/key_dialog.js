// The dialog for the API key: opened by its button, and by any answer that asks for a key. Used by both pages.

import { byId } from "./dom.js";
import { apiKey, isKeptForLong, setApiKey } from "./keys.js";

/** @param {() => void} onChange called when the key was changed */
export function installKeyDialog(onChange) {
  const dialog = byId("key-dialog");
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(byId("key").value.trim(), byId("key-keep").checked);
    dialog.close();
    onChange();
  });
  byId("key-cancel").addEventListener("click", () => dialog.close());
  byId("key-button").addEventListener("click", () => openKeyDialog());
}

/** @param {string} [reason] why a key is needed */
export function openKeyDialog(reason = "Sent with each request to this server, and nowhere else. Leave it empty where the server asks for none.") {
  if (byId("key-dialog").open) return;
  byId("key-reason").textContent = reason;
  byId("key").value = apiKey();
  byId("key-keep").checked = isKeptForLong();
  byId("key-dialog").showModal();
  byId("key").select();
}

/**
 * Ask for a key where that is what an error is about.
 * @returns {boolean} whether it was
 */
export function askForKeyAfter(error) {
  if (error.status !== 401) return false;
  const isWrong = Boolean(apiKey());
  openKeyDialog(isWrong ? "The server does not know this key." : "This server asks for an API key. Whoever runs it can give you one.");
  return true;
}
