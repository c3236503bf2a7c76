// The list of conversations: open, search, rename, delete. It changes nothing by itself; chat.js does what it asks for.

import { byId, h, iconButton, isComposing } from "./dom.js";

const DAY_MS = 86_400_000;

/**
 * @typedef {{open(id: string): void, rename(id: string, title: string): void, remove(id: string): void}} SidebarActions
 */

export class Sidebar {
  #actions;
  #conversations = [];
  #current = "";
  #drawn = "";

  /** @param {SidebarActions} actions */
  constructor(actions) {
    this.#actions = actions;
    this.list = byId("conversations");
    this.search = byId("search");
    this.search.addEventListener("input", () => this.#draw());
    const toggle = (isOpen) => document.body.classList.toggle("sidebar-open", isOpen);
    byId("open-sidebar").addEventListener("click", () => toggle(true));
    byId("close-sidebar").addEventListener("click", () => toggle(false));
    byId("backdrop").addEventListener("click", () => toggle(false));
  }

  /**
   * @param {import("./conversation.js").Conversation[]} conversations the latest first
   * @param {string} current id of the one that is open
   */
  show(conversations, current) {
    this.#conversations = conversations;
    this.#current = current;
    this.#draw();
  }

  /** On a narrow page it covers the conversation. */
  close() {
    document.body.classList.remove("sidebar-open");
  }

  #draw() {
    if (this.list.querySelector("input")) return; // a title is being typed; it is drawn after that
    const words = this.search.value.trim().toLowerCase();
    const found = this.#conversations.filter((conversation) => !words || isAbout(conversation, words));
    const drawn = JSON.stringify([words, this.#current, found.map(({ id, title, updatedAt }) => [id, title, ageOf(updatedAt)])]);
    if (drawn === this.#drawn) return; // so that the focus stays where it is
    this.#drawn = drawn;
    const nodes = [];
    let age = "";
    for (const conversation of found) {
      const newAge = ageOf(conversation.updatedAt);
      if (newAge !== age) nodes.push(h("li", { className: "age" }, newAge));
      age = newAge;
      nodes.push(this.#entry(conversation));
    }
    if (!nodes.length) nodes.push(h("li", { className: "empty" }, words ? "Nothing found." : "No conversations yet."));
    this.list.replaceChildren(...nodes);
  }

  #entry({ id, title }) {
    const name = title || "Untitled";
    const isCurrent = id === this.#current;
    const open = h("a", { href: `#${id}`, title: name, "aria-current": isCurrent ? "page" : undefined }, name);
    open.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.#actions.open(id);
    });
    const entry = h("li", { className: isCurrent ? "entry current" : "entry" }, open);
    const rename = () => this.#rename(entry, id, name);
    entry.append(
      iconButton("pencil", `Rename “${name}”`, rename),
      iconButton("trash", `Delete “${name}”`, () => this.#actions.remove(id)),
    );
    open.addEventListener("dblclick", rename);
    return entry;
  }

  #rename(entry, id, name) {
    const field = h("input", { value: name, maxLength: 200, "aria-label": "New title" });
    let isOver = false;
    this.#drawn = "";
    const finish = (isWanted) => {
      if (isOver) return;
      isOver = true;
      const title = field.value.trim();
      field.remove();
      this.#draw();
      if (isWanted && title) this.#actions.rename(id, title);
    };
    field.addEventListener("blur", () => finish(true));
    field.addEventListener("keydown", (event) => {
      if (isComposing(event)) return;
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        finish(false);
      }
    });
    entry.replaceChildren(field);
    field.select();
  }
}

function isAbout({ title, messages }, words) {
  return title.toLowerCase().includes(words) || messages.some(({ content }) => content.toLowerCase().includes(words));
}

function ageOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY_MS) return "Yesterday";
  return time >= today - 7 * DAY_MS ? "This week" : "Earlier";
}
