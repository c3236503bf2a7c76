// The field where messages are written: it grows with them, Enter sends, and its button stops an answer.

import { byId, icon, isComposing } from "./dom.js";

export class Composer {
  #isWriting = false;

  /**
   * @param {{send(text: string): boolean, stop(): void, editLast(): void}} actions `send` says whether it was taken
   */
  constructor(actions) {
    this.field = byId("prompt");
    this.button = byId("send");
    this.field.addEventListener("input", () => this.#fit());
    this.field.addEventListener("keydown", (event) => this.#onKey(event, actions));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#isWriting) actions.stop();
      else this.#send(actions);
    });
    this.setWriting(false);
  }

  /** While an answer is written the button stops it. */
  setWriting(isWriting) {
    this.#isWriting = isWriting;
    const label = isWriting ? "Stop (Esc)" : "Send (Enter)";
    this.button.replaceChildren(icon(isWriting ? "stop" : "send"));
    this.button.title = label;
    this.button.setAttribute("aria-label", label);
    this.#fit();
  }

  focus() {
    this.field.focus();
  }

  #onKey(event, actions) {
    if (event.key === "Enter" && !event.shiftKey && !isComposing(event)) {
      event.preventDefault();
      if (!this.#isWriting) this.#send(actions);
    } else if (event.key === "ArrowUp" && !this.field.value) {
      event.preventDefault();
      actions.editLast();
    }
  }

  #send(actions) {
    const text = this.field.value;
    if (!text.trim() || !actions.send(text)) return;
    this.field.value = "";
    this.#fit();
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
    this.button.disabled = !this.#isWriting && !this.field.value.trim();
  }
}
