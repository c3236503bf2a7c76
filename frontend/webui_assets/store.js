// Conversations in the browser's IndexedDB, one record each. Where a browser keeps nothing for this page they live in
// memory, and `isLasting` says so. Other tabs are told of each change.

const DATABASE = "fast-inference";
const TABLE = "conversations";

/** @returns {Promise<ConversationStore>} */
export async function openStore() {
  try {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(TABLE, { keyPath: "id" });
    return new ConversationStore(await resultOf(opening));
  } catch {
    return new ConversationStore(null);
  }
}

export class ConversationStore {
  #database;
  #memory = new Map();
  #channel = new BroadcastChannel(DATABASE);

  /** @param {IDBDatabase | null} database */
  constructor(database) {
    this.#database = database;
  }

  get isLasting() {
    return this.#database !== null;
  }

  /** Call back when another tab has changed a conversation. */
  onChange(callback) {
    this.#channel.onmessage = callback;
  }

  /** @returns {Promise<import("./conversation.js").Conversation[]>} all of them, the latest first */
  async all() {
    const found = this.#database ? await resultOf(this.#table("readonly").getAll()) : [...this.#memory.values()];
    return found.sort((one, other) => other.updatedAt - one.updatedAt);
  }

  /** @returns {Promise<import("./conversation.js").Conversation | undefined>} */
  async get(id) {
    return this.#database ? resultOf(this.#table("readonly").get(id)) : this.#memory.get(id);
  }

  /** Keep a conversation as it is now. */
  async put(conversation) {
    if (this.#database) await resultOf(this.#table("readwrite").put(conversation));
    else this.#memory.set(conversation.id, structuredClone(conversation));
    this.#channel.postMessage("changed");
  }

  /** Forget one. */
  async remove(id) {
    if (this.#database) await resultOf(this.#table("readwrite").delete(id));
    else this.#memory.delete(id);
    this.#channel.postMessage("changed");
  }

  /** Forget all. */
  async clear() {
    if (this.#database) await resultOf(this.#table("readwrite").clear());
    else this.#memory.clear();
    this.#channel.postMessage("changed");
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }
}

function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
