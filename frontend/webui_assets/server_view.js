// What the page shows of the server: whether it is ready, and which models it has. Asked now and then while the page is
// seen, and whenever something went wrong.

import { getJson, serverStatus } from "./api.js";
import { byId, h } from "./dom.js";
import { askForKeyAfter } from "./key_dialog.js";
import { saveSettings } from "./settings.js";

const ASK_EVERY_MS = 10_000;
const ASK_SOON_MS = 1500;

export class ServerView {
  #settings;
  #models = [];
  #timer = 0;
  #needsKey = false;
  #onModels;

  /**
   * @param {import("./settings.js").Settings} settings whose model the reader picks here
   * @param {() => void} onModels called when the models are known, and when another one is picked
   */
  constructor(settings, onModels) {
    this.#settings = settings;
    this.#onModels = onModels;
    this.picker = byId("model");
    this.picker.addEventListener("change", () => {
      settings.model = this.picker.value;
      saveSettings(settings);
      onModels();
    });
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  /** @returns {string} name of the model that answers; empty while none is known */
  get model() {
    return this.picker.value;
  }

  /** @returns {number} tokens that a conversation may have; 0 while that is not known */
  get contextLength() {
    return this.#models.find(({ id }) => id === this.model)?.max_model_len ?? 0;
  }

  /** Ask now, and again after a while. */
  async refresh() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const status = await serverStatus();
    if (status === "ready" && !this.#models.length && !this.#needsKey) await this.#loadModels();
    this.#showStatus(status === "ready" && this.#needsKey ? "needs a key" : status);
    clearTimeout(this.#timer); // another refresh may have come between
    this.#timer = setTimeout(() => this.refresh(), status === "ready" ? ASK_EVERY_MS : ASK_SOON_MS);
  }

  /** After the key was changed: other models may be there. */
  reload() {
    this.#models = [];
    this.#needsKey = false;
    return this.refresh();
  }

  async #loadModels() {
    try {
      this.#models = (await getJson("v1/models")).data;
    } catch (error) {
      this.#needsKey = askForKeyAfter(error); // which is asked once; after anything else the next refresh tries again
      return;
    }
    const wanted = this.#settings.model;
    this.picker.replaceChildren(...this.#models.map(({ id, parent }) => h("option", { value: id }, parent ? `${id} (adapter)` : id)));
    this.picker.disabled = false;
    if (this.#models.some(({ id }) => id === wanted)) this.picker.value = wanted;
    this.#onModels();
  }

  #showStatus(status) {
    const pill = byId("status");
    const kind = status === "ready" ? "good" : status === "unreachable" ? "bad" : "busy";
    pill.className = `pill ${kind}`;
    pill.textContent = status;
  }
}
