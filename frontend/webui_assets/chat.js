// The chat page: puts the parts together and says what happens when. Read next: conversation.js for what is kept,
// generation.js for an answer, log_view.js for what is seen. Invariant: one answer is written at a time, and what is
// shown is what the store keeps, at most a second later.

import {
  addMessage, alternativesOf, apiMessages, branchOf, exported, imported, newConversation, removeMessage, showBranch,
} from "./conversation.js";
import { Composer } from "./composer.js";
import { byId, drawIcons, h } from "./dom.js";
import { Generation } from "./generation.js";
import { askForKeyAfter, installKeyDialog } from "./key_dialog.js";
import { LogView } from "./log_view.js";
import { announce, notify } from "./notices.js";
import { ServerView } from "./server_view.js";
import { loadSettings } from "./settings.js";
import { installSettings } from "./settings_view.js";
import { installShortcuts } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import { installTheme } from "./theme.js";

const SAVE_EVERY_MS = 1000;

class ChatPage {
  #store;
  #settings = loadSettings();
  #conversation = newConversation(this.#settings.system);
  #generation = null;
  #running = Promise.resolve(); // until the answer that is written has ended, and is kept

  constructor(store) {
    this.#store = store;
    this.server = new ServerView(this.#settings, () => this.#showContext());
    this.composer = new Composer({ send: (text) => this.send(text), stop: () => this.stop(), editLast: () => this.log.lastQuestion?.edit() });
    this.log = new LogView(
      {
        regenerate: (message) => this.#regenerate(message),
        continueAnswer: (message) => this.#continue(message),
        edit: (message, text) => this.#edit(message, text),
        showAlternative: (message, index) => this.#showAlternative(message, index),
      },
      (text) => this.send(text),
    );
    this.sidebar = new Sidebar({
      open: (id) => this.open(id),
      rename: (id, title) => this.#rename(id, title),
      remove: (id) => this.#remove(id),
    });
  }

  async start() {
    drawIcons();
    installTheme(byId("theme"));
    installKeyDialog(() => this.#keyChanged());
    installSettings(this.#settings, (system) => this.#setSystem(system));
    installShortcuts({ newChat: () => this.newChat(), stop: () => this.stop(), focus: () => this.composer.focus() });
    byId("new-chat").addEventListener("click", () => this.newChat());
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
    byId("delete-all").addEventListener("click", () => this.#removeAll());
    addEventListener("hashchange", () => this.open(location.hash.slice(1)));
    this.#store.onChange(() => this.#listConversations());
    if (!this.#store.isLasting) notify("This browser keeps no data for this page: conversations last until it is closed.");
    await this.open(location.hash.slice(1));
    this.server.refresh();
  }

  /** Show a conversation, or a new one where there is none with this id. */
  async open(id) {
    if (id && id === this.#conversation.id) return this.sidebar.close();
    this.stop();
    await this.#running; // so that what is read is all of it
    this.#conversation = (id && (await this.#store.get(id))) || newConversation(this.#settings.system);
    this.#show();
  }

  newChat() {
    this.stop();
    this.#conversation = newConversation(this.#settings.system);
    this.#show();
  }

  /** @returns {boolean} whether it was taken */
  send(text) {
    if (this.#generation) return false;
    if (!this.server.model) {
      notify(`The server is not ready: ${byId("status").textContent}.`);
      return false;
    }
    const question = addMessage(this.#conversation, this.#conversation.leaf, "user", text);
    this.#answer(question);
    return true;
  }

  /** @returns {boolean} whether an answer was being written */
  stop() {
    this.#generation?.stop();
    return this.#generation !== null;
  }

  #show() {
    const { id, leaf, system } = this.#conversation;
    history.replaceState(null, "", leaf ? `#${id}` : location.pathname + location.search);
    byId("system").value = system;
    this.log.show(this.#conversation);
    this.sidebar.close();
    this.#showContext();
    this.#listConversations();
    this.composer.focus();
  }

  async #listConversations() {
    const { id, title } = this.#conversation;
    document.title = title ? `${title} – fast-inference` : "fast-inference";
    this.sidebar.show(await this.#store.all(), id);
  }

  async #save(conversation = this.#conversation) {
    await this.#keep(conversation);
    await this.#listConversations();
  }

  async #keep(conversation) {
    try {
      await this.#store.put(conversation);
    } catch (error) {
      notify(`This browser could not keep the conversation: ${error.message}`);
    }
  }

  // Answers

  #answer(question) {
    const answer = addMessage(this.#conversation, question.id, "assistant", "");
    this.#running = this.#generate(answer, { messages: apiMessages(this.#conversation, question.id) });
  }

  #regenerate(message) {
    if (this.#generation) return;
    const question = branchOf(this.#conversation, message.parent).at(-1);
    if (!message.content) removeMessage(this.#conversation, message);
    this.#answer(question);
  }

  #continue(message) {
    if (this.#generation) return;
    for (const name of ["finish", "error", "stats"]) delete message[name];
    const messages = apiMessages(this.#conversation, message.id);
    this.#running = this.#generate(message, { messages, continue_final_message: true, add_generation_prompt: false });
  }

  #edit(message, text) {
    if (this.#generation) return;
    const question = addMessage(this.#conversation, message.parent, "user", text);
    this.#answer(question);
  }

  #showAlternative(message, index) {
    if (this.#generation) return;
    showBranch(this.#conversation, alternativesOf(this.#conversation, message)[index].id);
    this.#save();
    this.log.show(this.#conversation);
    this.#showContext();
  }

  /** Write an answer behind the last message of what is shown; another conversation may be opened meanwhile. */
  async #generate(message, request) {
    const conversation = this.#conversation;
    const isShown = () => conversation === this.#conversation;
    let note = "";
    let isDrawn = true;
    const draw = () => {
      isDrawn = true;
      if (isShown() && this.#generation === generation) this.log.update({ isWriting: true, note });
    };
    const generation = new Generation(message, (newNote) => {
      if (newNote && !note) this.server.refresh();
      note = newNote;
      if (isDrawn) requestAnimationFrame(draw);
      isDrawn = false;
    });
    message.model = this.server.model;
    this.#generation = generation;
    this.#show();
    this.composer.setWriting(true);
    this.log.update({ isWriting: true });
    announce("Writing an answer.");
    this.#save();
    const saving = setInterval(() => this.#keep(conversation), SAVE_EVERY_MS);
    let error = null;
    try {
      error = await generation.run({ model: message.model, ...this.#settings.sampling, ...request });
    } finally {
      clearInterval(saving);
      this.#generation = null;
      this.composer.setWriting(false);
    }
    await this.#save(conversation);
    if (isShown()) this.#showEnd(message, error);
  }

  #showEnd(message, error) {
    this.log.update({ retryAfterS: error?.retryAfterS });
    this.#showContext();
    announce(error ? message.error : message.content);
    if (!error) return;
    askForKeyAfter(error);
    this.server.refresh();
  }

  #showContext() {
    const { stats } = branchOf(this.#conversation).findLast((message) => message.stats?.tokens) ?? {};
    const size = this.server.contextLength;
    const used = stats ? stats.promptTokens + stats.tokens : 0;
    byId("context").textContent = used && size ? `${used.toLocaleString("en")} of ${size.toLocaleString("en")} tokens of context` : "";
  }

  // What the reader sets and keeps

  async #keyChanged() {
    await this.server.reload();
    const last = branchOf(this.#conversation).at(-1);
    if (last?.error && !last.content) this.#regenerate(last);
  }

  #setSystem(system) {
    this.#conversation.system = system;
    if (this.#conversation.leaf) this.#keep(this.#conversation);
  }

  async #rename(id, title) {
    const conversation = id === this.#conversation.id ? this.#conversation : await this.#store.get(id);
    conversation.title = title;
    await this.#save(conversation);
  }

  async #remove(id) {
    const conversation = await this.#store.get(id);
    if (id === this.#conversation.id) this.newChat();
    await this.#running;
    await this.#store.remove(id);
    await this.#listConversations();
    notify(`Deleted “${conversation.title}”.`, { label: "Undo", run: () => this.#save(conversation) });
  }

  async #removeAll() {
    const conversations = await this.#store.all();
    if (!conversations.length) return;
    this.newChat();
    await this.#running;
    await this.#store.clear();
    await this.#listConversations();
    const run = async () => {
      for (const conversation of conversations) await this.#keep(conversation);
      await this.#listConversations();
    };
    notify(`Deleted all ${conversations.length} conversations.`, { label: "Undo", run });
  }

  async #export() {
    const blob = new Blob([exported(await this.#store.all())], { type: "application/json" });
    const href = URL.createObjectURL(blob);
    h("a", { href, download: `conversations-${new Date().toISOString().slice(0, 10)}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  }

  async #import(input) {
    const file = input.files[0];
    if (!file) return;
    try {
      const conversations = imported(await file.text());
      for (const conversation of conversations) await this.#keep(conversation);
      notify(`Imported ${conversations.length} conversation${conversations.length === 1 ? "" : "s"}.`);
    } catch (error) {
      notify(error.message);
    }
    input.value = "";
    await this.#listConversations();
  }
}

new ChatPage(await openStore()).start();
