// Conversations as files: all of them into one, and those of a file among the others. Used by chat.js.

import { exported, imported } from "./conversation.js";
import { h } from "./dom.js";
import { notify } from "./notices.js";

/** Have the browser save all conversations. */
export function download(conversations) {
  const blob = new Blob([exported(conversations)], { type: "application/json" });
  const href = URL.createObjectURL(blob);
  h("a", { href, download: `conversations-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

/**
 * Keep the conversations of the file that was picked.
 * @param {HTMLInputElement} input which is empty then
 * @param {(conversation: object) => Promise<void>} keep
 */
export async function upload(input, keep) {
  const file = input.files[0];
  if (!file) return;
  try {
    const conversations = imported(await file.text());
    for (const conversation of conversations) await keep(conversation);
    notify(`Imported ${conversations.length} conversation${conversations.length === 1 ? "" : "s"}.`);
  } catch (error) {
    notify(error.message);
  }
  input.value = "";
}
