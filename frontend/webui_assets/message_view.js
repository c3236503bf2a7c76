// One message as it is shown: what was asked, or an answer with its reasoning, figures, errors and buttons.
// log_view.js has the list of them.

import { copyButton, h, iconButton, isComposing } from "./dom.js";
import { MarkdownView } from "./markdown_view.js";

/**
 * What the buttons of a message do; `index` counts the alternatives of a message.
 * @typedef {{regenerate(message): void, continueAnswer(message): void, edit(message, text: string): void,
 *   showAlternative(message, index: number): void}} MessageActions
 */

export class UserMessageView {
  #message;
  #actions;
  #alternatives;

  /** @param {import("./conversation.js").Message[]} alternatives of this message, itself among them */
  constructor(message, alternatives, actions) {
    this.#message = message;
    this.#actions = actions;
    this.#alternatives = alternatives;
    this.node = h("article", { className: "message user", "aria-label": "Your message" });
    this.#show();
  }

  /** Let the reader change it and send it again, as another branch. */
  edit() {
    const { node } = this;
    const field = h("textarea", { value: this.#message.content, rows: 1, "aria-label": "Edit your message" });
    const cancel = () => this.#show();
    const send = () => {
      if (field.value.trim()) this.#actions.edit(this.#message, field.value);
    };
    field.addEventListener("keydown", (event) => {
      if (isComposing(event)) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      }
    });
    const buttons = h("div", { className: "row end" },
      h("button", { type: "button", onclick: cancel }, "Cancel"),
      h("button", { type: "button", className: "primary", onclick: send }, "Send"));
    node.replaceChildren(h("div", { className: "editor" }, field, buttons));
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  #show() {
    const text = h("div", { className: "bubble", textContent: this.#message.content });
    const footer = h("footer", {},
      ...alternativeButtons(this.#message, this.#alternatives, this.#actions),
      copyButton(() => this.#message.content, "Copy message"),
      iconButton("pencil", "Edit and send again", () => this.edit()));
    this.node.replaceChildren(text, footer);
  }
}

export class AnswerView {
  #actions;
  #alternatives;
  #markdown = new MarkdownView();
  #reasoning = new MarkdownView();
  #isOpenByReader = null;

  constructor(message, alternatives, actions) {
    this.message = message;
    this.#actions = actions;
    this.#alternatives = alternatives;
    this.thoughts = h("details", { className: "reasoning", hidden: true }, h("summary"), this.#reasoning.node);
    this.thoughts.firstChild.addEventListener("click", () => (this.#isOpenByReader = !this.thoughts.open));
    this.note = h("p", { className: "note", hidden: true });
    this.failure = h("div", { className: "failure", role: "alert", hidden: true });
    this.footer = h("footer");
    const parts = [this.thoughts, this.#markdown.node, this.note, this.failure, this.footer];
    this.node = h("article", { className: "message answer", "aria-label": "Answer" }, ...parts);
  }

  /**
   * Show the message as it is now.
   * @param {{isWriting?: boolean, note?: string, retryAfterS?: number}} [state]
   */
  update({ isWriting = false, note = "", retryAfterS = 0 } = {}) {
    const { message } = this;
    this.node.classList.toggle("writing", isWriting);
    this.node.setAttribute("aria-busy", String(isWriting));
    this.#markdown.update(message.content);
    this.#showReasoning(isWriting);
    this.note.hidden = !note;
    this.note.textContent = note;
    this.#showFailure(retryAfterS);
    const figures = h("span", { className: "figures", title: detailsOf(message) }, figuresOf(message, isWriting));
    this.footer.replaceChildren(figures, h("span", { className: "actions" }, ...(isWriting ? [] : this.#buttons())));
  }

  #showReasoning(isWriting) {
    const { reasoning, content } = this.message;
    this.thoughts.hidden = !reasoning;
    if (!reasoning) return;
    const isThinking = isWriting && !content;
    this.thoughts.firstChild.textContent = isThinking ? "Thinking …" : "Reasoning";
    this.thoughts.open = this.#isOpenByReader ?? isThinking;
    this.#reasoning.update(reasoning);
  }

  #showFailure(retryAfterS) {
    const { error } = this.message;
    if (this.failure.dataset.error === error) return;
    this.failure.hidden = !error;
    if (!error) return;
    this.failure.dataset.error = error;
    const retry = h("button", { type: "button", onclick: () => this.#actions.regenerate(this.message) }, "Try again");
    if (retryAfterS) countDown(retry, retryAfterS);
    this.failure.replaceChildren(h("span", {}, error), retry);
  }

  #buttons() {
    const { message } = this;
    const canGoOn = message.content && ["length", "stopped", "error", undefined].includes(message.finish);
    const goOn = () => this.#actions.continueAnswer(message);
    return [
      canGoOn && h("button", { type: "button", className: "text-button", onclick: goOn }, "Continue"),
      ...alternativeButtons(message, this.#alternatives, this.#actions),
      message.content && copyButton(() => message.content, "Copy answer"),
      iconButton("refresh", "Answer again", () => this.#actions.regenerate(message)),
    ];
  }
}

/** ‹ 2/3 › where there is more than one. */
function alternativeButtons(message, alternatives, actions) {
  if (alternatives.length < 2) return [];
  const index = alternatives.indexOf(message);
  const step = (name, label, by) =>
    iconButton(name, label, () => actions.showAlternative(message, index + by), { disabled: !alternatives[index + by] });
  return [
    step("left", "Earlier version", -1),
    h("span", { className: "count" }, `${index + 1}/${alternatives.length}`),
    step("right", "Later version", 1),
  ];
}

const ENDS = { length: "cut off: no more tokens allowed", stopped: "stopped", content_filter: "filtered" };

function figuresOf({ stats = {}, finish, error }, isWriting) {
  const parts = [];
  if (stats.tokensPerSecond) parts.push(`${stats.tokensPerSecond.toFixed(1)} tok/s`);
  if (stats.ttftMs) parts.push(`first token ${duration(stats.ttftMs)}`);
  if (stats.tokens) parts.push(`${stats.tokens.toLocaleString("en")} token${stats.tokens === 1 ? "" : "s"}`);
  if (ENDS[finish]) parts.push(ENDS[finish]);
  else if (!finish && !isWriting && !error) parts.push("interrupted");
  return parts.join(" · ");
}

/** What the pointer over the figures tells. */
function detailsOf({ stats = {}, model = "" }) {
  const parts = [model];
  if (stats.promptTokens) parts.push(`prompt: ${stats.promptTokens} tokens, ${stats.cachedTokens ?? 0} of them from the cache`);
  if (stats.decodeMs !== undefined) {
    parts.push(`queue ${duration(stats.queueMs)}, prefill ${duration(stats.prefillMs)}, decode ${duration(stats.decodeMs)}`);
  }
  return parts.filter(Boolean).join("\n");
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Keep a button disabled for so long, and say how long yet. */
function countDown(button, seconds) {
  const label = button.textContent;
  button.disabled = true;
  const tick = () => {
    button.disabled = seconds > 0;
    button.textContent = seconds > 0 ? `${label} in ${Math.ceil(seconds)} s` : label;
    if (seconds > 0) setTimeout(tick, 1000);
    seconds -= 1;
  };
  tick();
}
