// Inline markdown to a tree: code, emphasis, links, line breaks. CommonMark's algorithm (spec 0.31, "phase 2") without
// raw HTML, entities and reference links: what looks like HTML is text. No expression here backtracks over a whole text,
// and nothing nests deeper than MAX_DEPTH, whatever a model writes.
// Next: markdown_view.js, which makes DOM nodes of it.

/**
 * @typedef {{type: "text" | "code", text: string}
 *   | {type: "break"}
 *   | {type: "strong" | "em" | "del", children: Inline[]}
 *   | {type: "link", href: string, children: Inline[]}} Inline
 */

const MAX_DEPTH = 16;
const MAX_RUN = 16;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const BARE_URL = /https?:\/\/[^\s<>"`]+/y;
const ANGLE_URL = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const PLAIN = /[^\\`*_~[\]!<\nh]+/y;
const SAFE_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);

/**
 * @param {string} text of one block
 * @returns {Inline[]}
 */
export function parseInline(text) {
  return new InlineParser(text).parse();
}

/**
 * @param {string} href as an author wrote it
 * @returns {string | null} an absolute http, https or mailto address, or null
 */
export function safeHref(href) {
  const url = URL.parse ? URL.parse(href) : tryUrl(href);
  return url && SAFE_PROTOCOLS.has(url.protocol) ? url.href : null;
}

function tryUrl(href) {
  try {
    return new URL(href);
  } catch {
    return null;
  }
}

class InlineParser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    /** Finished nodes, and delimiter runs `{type: "run", …}` that may yet become emphasis. */
    this.items = [];
    /** Open brackets: `{index, isImage, isActive}`, index into items. */
    this.brackets = [];
    /** Runs of backticks: where the next ones are, and where the last one of each length is. */
    this.runs = [...text.matchAll(/`+/g)].map((match) => ({ at: match.index, length: match[0].length }));
    this.lastRun = new Map(this.runs.map((run) => [run.length, run.at]));
    this.nextRun = 0;
  }

  parse() {
    while (this.at < this.text.length) this.#step();
    return emphasize(this.items);
  }

  #step() {
    const { text } = this;
    const char = text[this.at];
    if (char === "\\") return this.#escape();
    if (char === "`") return this.#code();
    if (char === "*" || char === "_" || char === "~") return this.#run(char);
    if (char === "[") return this.#openBracket(1, false);
    if (char === "!" && text[this.at + 1] === "[") return this.#openBracket(2, true);
    if (char === "]") return this.#closeBracket();
    if (char === "\n") return this.#lineBreak();
    if (char === "<") return this.#angleLink();
    if (char === "h") return this.#bareLink();
    PLAIN.lastIndex = this.at;
    const match = PLAIN.exec(text);
    this.#text(match ? match[0] : char);
  }

  #text(text) {
    const last = this.items.at(-1);
    if (last?.type === "text") last.text += text;
    else this.items.push({ type: "text", text });
    this.at += text.length;
  }

  #escape() {
    const next = this.text[this.at + 1];
    if (next === "\n") {
      this.at += 1;
      this.#lineBreak();
    } else if (next !== undefined && ESCAPABLE.test(next)) {
      this.at += 1;
      this.#text(next);
    } else {
      this.#text("\\");
    }
  }

  #lineBreak() {
    const last = this.items.at(-1);
    if (last?.type === "text") last.text = last.text.trimEnd();
    this.items.push({ type: "break" });
    this.at += 1;
    while (this.text[this.at] === " ") this.at += 1;
  }

  #code() {
    let end = this.at;
    while (this.text[end] === "`") end += 1; // shorter than a run where an escaped backtick begins that
    const length = end - this.at;
    if (!(this.lastRun.get(length) > this.at)) return this.#text("`".repeat(length));
    while (this.runs[this.nextRun].at <= this.at || this.runs[this.nextRun].length !== length) this.nextRun += 1;
    const closer = this.runs[this.nextRun].at;
    let content = this.text.slice(end, closer).replaceAll("\n", " ");
    if (content.trim() && content.startsWith(" ") && content.endsWith(" ")) content = content.slice(1, -1);
    this.items.push({ type: "code", text: content });
    this.at = closer + length;
  }

  #run(char) {
    let end = this.at;
    while (this.text[end] === char) end += 1;
    const count = end - this.at;
    if (count > MAX_RUN || (char === "~" && count !== 2)) return this.#text(char.repeat(count));
    const before = charBefore(this.text, this.at);
    const after = charAfter(this.text, end);
    const left = !isSpace(after) && (!PUNCTUATION.test(after) || isSpace(before) || PUNCTUATION.test(before));
    const right = !isSpace(before) && (!PUNCTUATION.test(before) || isSpace(after) || PUNCTUATION.test(after));
    const isWord = char === "_";
    const canOpen = left && (!isWord || !right || PUNCTUATION.test(before));
    const canClose = right && (!isWord || !left || PUNCTUATION.test(after));
    this.items.push({ type: "run", char, count, length: count, canOpen, canClose });
    this.at = end;
  }

  #openBracket(length, isImage) {
    this.brackets.push({ index: this.items.length, isImage, isActive: true });
    this.items.push({ type: "text", text: this.text.slice(this.at, this.at + length) });
    this.items.push({ type: "text", text: "" }); // so that what follows is no part of the bracket
    this.at += length;
  }

  #closeBracket() {
    const bracket = this.brackets.pop();
    const target = bracket?.isActive ? linkTarget(this.text, this.at + 1) : null;
    if (!target) return this.#text("]");
    const href = safeHref(target.href);
    const children = withoutLinks(emphasize(this.items.splice(bracket.index).slice(1)));
    if (bracket.isImage && !children.length) children.push({ type: "text", text: target.href });
    if (href) this.items.push({ type: "link", href, children, depth: depthOf(children) });
    else this.items.push(...children);
    if (!bracket.isImage) for (const outer of this.brackets) outer.isActive &&= outer.isImage;
    this.at = target.end;
  }

  #angleLink() {
    ANGLE_URL.lastIndex = this.at;
    const match = ANGLE_URL.exec(this.text);
    const href = match && safeHref(match[1]);
    if (!href) return this.#text("<");
    this.items.push({ type: "link", href, children: [{ type: "text", text: match[1].replace(/^mailto:/, "") }] });
    this.at += match[0].length;
  }

  #bareLink() {
    BARE_URL.lastIndex = this.at;
    const match = /[\p{L}\p{N}]/u.test(charBefore(this.text, this.at)) ? null : BARE_URL.exec(this.text);
    const url = match && withoutTrail(match[0]);
    const href = url && safeHref(url);
    if (!href) return this.#text("h");
    this.items.push({ type: "link", href, children: [{ type: "text", text: url }] });
    this.at += url.length;
  }
}

/** The address without what ends the sentence around it: `(see https://x/y).` */
function withoutTrail(url) {
  for (;;) {
    const last = url.at(-1);
    const isUnopened = last === ")" && url.split(")").length > url.split("(").length;
    if (!isUnopened && !/[.,;:!?'*_~\]]/.test(last)) return url;
    url = url.slice(0, -1);
  }
}

/** `(address "title")` at a position, or null; the title is not shown. */
function linkTarget(text, at) {
  if (text[at] !== "(") return null;
  const limit = Math.min(text.length, at + 2048);
  let end = at + 1;
  while (end < limit && /\s/.test(text[end])) end += 1;
  let href = "";
  if (text[end] === "<") {
    const close = text.indexOf(">", end);
    if (close < 0 || close > limit) return null;
    href = text.slice(end + 1, close);
    end = close + 1;
  } else {
    const start = end;
    for (let depth = 0; end < limit && !/\s/.test(text[end]); end += 1) {
      if (text[end] === "(") depth += 1;
      if (text[end] === ")" && depth-- === 0) break;
    }
    href = text.slice(start, end);
  }
  const rest = /^\s*(?:"[^"]*"|'[^']*')?\s*\)/.exec(text.slice(end, limit));
  return rest ? { href, end: end + rest[0].length } : null;
}

/** Pairs delimiter runs and wraps what is between them; the runs that are left become text. */
function emphasize(items) {
  const done = [];
  const bottom = new Map(); // by kind of closer: up to this item of `done` there is no opener for it
  for (const item of items) {
    if (item.type === "run" && item.canClose) closeWith(item, done, bottom);
    if (item.type !== "run" || item.count) done.push(item);
  }
  return asText(done);
}

function closeWith(closer, done, bottom) {
  const kind = `${closer.char}${closer.canOpen}${closer.length % 3}`;
  while (closer.count) {
    const opened = findOpener(closer, done, bottom.get(kind));
    if (opened < 0) {
      bottom.set(kind, done.at(-1));
      return;
    }
    const opener = done[opened];
    const used = closer.char === "~" || (opener.count >= 2 && closer.count >= 2) ? 2 : 1;
    const type = closer.char === "~" ? "del" : used === 2 ? "strong" : "em";
    const children = asText(done.splice(opened + 1));
    const depth = 1 + depthOf(children);
    opener.count -= used;
    closer.count -= used;
    if (!opener.count) done.pop();
    done.push(...(depth > MAX_DEPTH ? children : [{ type, children, depth }]));
  }
}

function findOpener(closer, done, bottom) {
  for (let index = done.length - 1; index >= 0 && done[index] !== bottom; index -= 1) {
    const run = done[index];
    if (run.type !== "run" || run.char !== closer.char || !run.canOpen) continue;
    const isOdd = (run.canClose || closer.canOpen) && (run.length + closer.length) % 3 === 0;
    if (!isOdd || (run.length % 3 === 0 && closer.length % 3 === 0)) return index;
  }
  return -1;
}

function depthOf(nodes) {
  return nodes.reduce((depth, node) => Math.max(depth, node.depth ?? 0), 0);
}

function asText(items) {
  const nodes = [];
  for (const item of items) {
    const node = item.type === "run" ? { type: "text", text: item.char.repeat(item.count) } : item;
    const last = nodes.at(-1);
    if (node.type === "text" && last?.type === "text") nodes[nodes.length - 1] = { type: "text", text: last.text + node.text };
    else if (node.type !== "text" || node.text) nodes.push(node);
  }
  return nodes;
}

function withoutLinks(nodes) {
  return nodes.flatMap((node) => {
    if (node.type === "link") return withoutLinks(node.children);
    return node.children ? [{ ...node, children: withoutLinks(node.children) }] : [node];
  });
}

function charBefore(text, at) {
  if (at === 0) return " ";
  const low = text.charCodeAt(at - 1);
  return low >= 0xdc00 && low <= 0xdfff ? text.slice(at - 2, at) : text[at - 1];
}

function charAfter(text, at) {
  return at < text.length ? String.fromCodePoint(text.codePointAt(at)) : " ";
}

function isSpace(char) {
  return /^\s$/.test(char);
}
