// The messages of one conversation, and where the reader is in them: the page follows what is written as long as its
// end is in sight, and stays where it is once somebody scrolls up.

import { alternativesOf, branchOf } from "./conversation.js";
import { byId, h } from "./dom.js";
import { AnswerView, UserMessageView } from "./message_view.js";

const NEAR_PX = 64;
const SUGGESTIONS = [
  "Explain how a bicycle stays upright, in three sentences.",
  "Write a Python function that checks whether a word is a palindrome.",
  "Compare tea and coffee in a small table.",
  "Give me five names for a friendly robot.",
];

export class LogView {
  #actions;
  #onSuggestion;
  #views = [];
  #isFollowing = true;

  /**
   * @param {import("./message_view.js").MessageActions} actions
   * @param {(text: string) => void} onSuggestion
   */
  constructor(actions, onSuggestion) {
    this.#actions = actions;
    this.#onSuggestion = onSuggestion;
    this.scroller = byId("log");
    this.list = byId("messages");
    this.jump = byId("jump");
    this.scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    this.jump.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#follow()).observe(this.scroller);
  }

  /** Show the branch of a conversation from scratch, at its end. */
  show(conversation) {
    this.#views = branchOf(conversation).map((message) => {
      const View = message.role === "user" ? UserMessageView : AnswerView;
      return new View(message, alternativesOf(conversation, message), this.#actions);
    });
    for (const view of this.#views) view.update?.();
    this.list.replaceChildren(...(this.#views.length ? this.#views.map((view) => view.node) : [this.#welcome()]));
    this.toEnd();
  }

  /** Show a branch that has changed, and leave the reader where they are. */
  showAgain(conversation) {
    const { scrollTop } = this.scroller;
    const wasFollowing = this.#isFollowing;
    this.show(conversation);
    if (wasFollowing) return;
    this.scroller.scrollTop = scrollTop;
    this.#look();
  }

  /** @returns {boolean} whether the reader is changing a message */
  get isEditing() {
    return this.list.querySelector(".editor") !== null;
  }

  /** @returns {AnswerView | UserMessageView | undefined} the last message */
  get last() {
    return this.#views.at(-1);
  }

  /** @returns {UserMessageView | undefined} what was asked last */
  get lastQuestion() {
    return this.#views.findLast((view) => view instanceof UserMessageView);
  }

  /** Show what is new of the last message. */
  update(state) {
    this.last?.update(state);
    this.#follow();
  }

  toEnd() {
    this.#isFollowing = true;
    this.#follow();
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.#isFollowing = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.jump.hidden = this.#isFollowing;
  }

  #follow() {
    if (this.#isFollowing) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this.jump.hidden = false;
  }

  #welcome() {
    const suggestion = (text) => h("button", { type: "button", onclick: () => this.#onSuggestion(text) }, text);
    return h("div", { className: "welcome" },
      h("h1", {}, "What can I do for you?"),
      h("p", {}, "Everything runs on this server. Conversations stay in this browser."),
      h("div", { className: "suggestions" }, ...SUGGESTIONS.map(suggestion)));
  }
}
