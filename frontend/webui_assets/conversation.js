// A conversation: a tree of messages, of which one branch is shown. Editing a message and answering again add branches,
// so that nothing is lost. Pure data and functions, no DOM; store.js keeps it, chat.js changes it.

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {string | null} parent id of the message before, null for a first one
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {string} [reasoning]
 * @property {string} [model] which answered
 * @property {string} [finish] stop, length, …; "stopped" by the reader; "error"; none while it is written
 * @property {string} [error] what went wrong
 * @property {object} [stats] see generation.js
 *
 * @typedef {{id: string, title: string, createdAt: number, updatedAt: number, system: string, leaf: string | null,
 *   messages: Message[]}} Conversation `leaf`: last message of the branch that is shown
 */

const FORMAT = "fast-inference-conversations";
const TITLE_CHARS = 60;
const MAX_MESSAGES = 10_000;

/** @returns {Conversation} */
export function newConversation(system) {
  const now = Date.now();
  return { id: newId(), title: "", createdAt: now, updatedAt: now, system, leaf: null, messages: [] };
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12)); // randomUUID is for https and localhost alone
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Add a message behind `parent` and show its branch.
 * @returns {Message}
 */
export function addMessage(conversation, parent, role, content) {
  const message = { id: newId(), parent, role, content };
  conversation.messages.push(message);
  conversation.leaf = message.id;
  conversation.updatedAt = Date.now();
  if (!conversation.title && role === "user") conversation.title = titleOf(content);
  return message;
}

function titleOf(content) {
  const line = content.trim().split("\n", 1)[0];
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS - 1).trimEnd()}…` : line;
}

/** Take out a message that nothing follows, such as an answer that failed before its first word. */
export function removeMessage(conversation, message) {
  conversation.messages = conversation.messages.filter((other) => other !== message);
  if (conversation.leaf === message.id) conversation.leaf = message.parent;
}

/** @returns {Message[]} the branch that ends in a message, from its beginning */
export function branchOf(conversation, leaf = conversation.leaf) {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const branch = [];
  for (let message = byId.get(leaf); message; message = byId.get(message.parent)) branch.unshift(message);
  return branch;
}

/** @returns {Message[]} a message and its alternatives, in the order of their making */
export function alternativesOf(conversation, message) {
  return conversation.messages.filter(({ parent, role }) => parent === message.parent && role === message.role);
}

/** Show the branch through a message, along the latest of what follows it. */
export function showBranch(conversation, id) {
  conversation.leaf = id;
  for (;;) {
    const next = conversation.messages.findLast((message) => message.parent === conversation.leaf);
    if (!next) return;
    conversation.leaf = next.id;
  }
}

/**
 * What the API gets for an answer behind message `leaf`. Answers without a word are left out, and what was asked before
 * and after them becomes one message: many chat templates want turns to alternate.
 * @returns {{role: string, content: string}[]}
 */
export function apiMessages(conversation, leaf) {
  const said = [];
  for (const { role, content } of branchOf(conversation, leaf)) {
    if (role === "assistant" && !content) continue;
    const last = said.at(-1);
    if (role === "user" && last?.role === "user") last.content += `\n\n${content}`;
    else said.push({ role, content });
  }
  return conversation.system.trim() ? [{ role: "system", content: conversation.system }, ...said] : said;
}

/** @returns {string} JSON of conversations, which `imported` reads */
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/**
 * Read a file that `exported` wrote, or anything else: what is taken has the right types, new ids, and nothing besides.
 * @param {string} text
 * @returns {Conversation[]}
 * @throws {Error} with a message for the reader
 */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error("This file holds no conversations that were exported here.");
  }
  return file.conversations.map(checkedConversation);
}

function checkedConversation(given) {
  if (!Array.isArray(given?.messages)) throw new Error("A conversation has no messages.");
  if (given.messages.length > MAX_MESSAGES) throw new Error(`A conversation has more than ${MAX_MESSAGES} messages.`);
  const ids = new Map();
  const messages = [];
  for (const item of given.messages) {
    const message = checkedMessage(item, ids);
    ids.set(String(item.id), message.id);
    messages.push(message);
  }
  const conversation = newConversation(text(given.system));
  const leaf = ids.get(String(given.leaf)) ?? messages.at(-1)?.id ?? null;
  const createdAt = time(given.createdAt);
  return { ...conversation, title: text(given.title), createdAt, updatedAt: time(given.updatedAt), leaf, messages };
}

/** `ids` knows the messages before: a parent comes first, so that there can be no circle. */
function checkedMessage(item, ids) {
  if (item?.role !== "user" && item?.role !== "assistant") throw new Error("A message has an unknown role.");
  const parent = ids.get(String(item.parent)) ?? null;
  if (parent === null && item.role === "assistant") throw new Error("An answer has no question before it.");
  const message = { id: newId(), parent, role: item.role, content: text(item.content) };
  for (const name of ["reasoning", "model", "finish", "error"]) if (typeof item[name] === "string") message[name] = item[name];
  const numbers = Object.entries(item.stats ?? {}).filter(([, value]) => Number.isFinite(value));
  if (numbers.length) message.stats = Object.fromEntries(numbers);
  return message;
}

function text(value) {
  return typeof value === "string" ? value : "";
}

function time(value) {
  return Number.isFinite(value) ? value : Date.now();
}
