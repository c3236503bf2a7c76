// Conversations in the browser's IndexedDB, one record each. Where a browser keeps nothing for this page they live in
// memory, and `isLasting` says so. Other tabs are told of each change.
// Invariant: two tabs may write the same conversation: none takes out a message that another has added.

const DATABASE = "fast-inference";
const TABLE = "conversations";

/** @returns {Promise<ConversationStore>} */
export async function openStore() {
  const store = new ConversationStore();
  await store.open();
  return store;
}

export class ConversationStore {
  #opening;
  #memory = new Map();
  #channel = new BroadcastChannel(DATABASE);
  /** Of each conversation: ids of the messages that it has had, and of those that came from other tabs. */
  #ids = new WeakMap();

  /** Open the database; again when it was closed because its data was cleared. */
  async open() {
    this.#opening = openDatabase(() => this.open());
    this.isLasting = (await this.#opening) !== null;
  }

  /** Call back when another tab has changed a conversation, with its id; with null where it was all of them. */
  onChange(callback) {
    this.#channel.onmessage = ({ data }) => callback(data);
  }

  /** @returns {Promise<import("./conversation.js").Conversation[]>} all of them, the latest first */
  async all() {
    const table = await this.#table("readonly");
    const found = table ? await resultOf(table.getAll()) : [...this.#memory.values()];
    return found.sort((one, other) => other.updatedAt - one.updatedAt);
  }

  /** @returns {Promise<import("./conversation.js").Conversation | undefined>} */
  async get(id) {
    const table = await this.#table("readonly");
    return table ? resultOf(table.get(id)) : this.#memory.get(id);
  }

  /** Keep a conversation as it is now; what other tabs have added to it since it was read is added to it here. */
  async put(conversation) {
    const table = await this.#table("readwrite");
    if (table) {
      const isDone = endOf(table.transaction);
      const ids = this.#idsOf(conversation);
      this.#takeIn(conversation, await resultOf(table.get(conversation.id)), ids);
      table.put(conversation);
      await isDone;
    } else {
      this.#memory.set(conversation.id, structuredClone(conversation));
    }
    this.#channel.postMessage(conversation.id);
  }

  /** @returns {boolean} whether a conversation holds messages of other tabs, which may go on there */
  isShared(conversation) {
    return this.#idsOf(conversation).foreign.size > 0;
  }

  /** Forget one. */
  async remove(id) {
    await this.#change((table) => table.delete(id), () => this.#memory.delete(id));
    this.#channel.postMessage(id);
  }

  /** Forget all. */
  async clear() {
    await this.#change((table) => table.clear(), () => this.#memory.clear());
    this.#channel.postMessage(null);
  }

  #idsOf(conversation) {
    if (!this.#ids.has(conversation)) this.#ids.set(conversation, { known: new Set(), foreign: new Set() });
    const ids = this.#ids.get(conversation);
    for (const { id } of conversation.messages) ids.known.add(id);
    return ids;
  }

  /** What other tabs have written since: new messages, others that have grown, and some that are gone again. */
  #takeIn(conversation, stored, { known, foreign }) {
    if (!stored) return;
    const now = new Map(stored.messages.map((message) => [message.id, message]));
    const ours = conversation.messages.map((message) => (foreign.has(message.id) ? now.get(message.id) : message));
    const added = stored.messages.filter(({ id }) => !known.has(id));
    for (const { id } of added) {
      known.add(id);
      foreign.add(id);
    }
    conversation.messages = [...ours.filter(Boolean), ...added];
  }

  async #change(changeTable, changeMemory) {
    const table = await this.#table("readwrite");
    if (!table) return changeMemory();
    const isDone = endOf(table.transaction);
    changeTable(table);
    return isDone;
  }

  async #table(mode) {
    const database = await this.#opening;
    return database && database.transaction(TABLE, mode).objectStore(TABLE);
  }
}

/** @returns {Promise<IDBDatabase | null>} */
async function openDatabase(onClose) {
  try {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(TABLE, { keyPath: "id" });
    const database = await resultOf(opening);
    database.onclose = onClose;
    database.onversionchange = () => {
      database.close(); // somebody deletes it
      onClose();
    };
    return database;
  } catch {
    return null;
  }
}

/** Until what was written is kept: a full disk is noticed after the requests have succeeded. */
function endOf(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("nothing was written"));
  });
}

function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
