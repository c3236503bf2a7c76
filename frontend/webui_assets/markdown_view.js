// Markdown as DOM nodes, for text that is still being written: blocks that did not change keep their nodes.
// Everything a model says arrives in the document through text nodes; addresses pass `safeHref`.

import { copyButton, h } from "./dom.js";
import { highlighted } from "./highlight.js";
import { parseBlocks } from "./markdown.js";

export class MarkdownView {
  #text = "";
  /** @type {{offset: number, source: string, node: Node}[]} */
  #blocks = [];

  constructor() {
    this.node = h("div", { className: "markdown" });
  }

  /**
   * Show this text. Where it only grew, all but its last two blocks stay as they are.
   * @param {string} text
   */
  update(text) {
    const source = text.replace(/\r\n?/g, "\n");
    const kept = source.startsWith(this.#text) ? Math.max(0, this.#blocks.length - 2) : 0;
    const start = this.#blocks[kept]?.offset ?? 0;
    const tail = source.slice(start);
    const parsed = parseBlocks(tail);
    parsed.forEach((block, index) => {
      const end = parsed[index + 1]?.offset ?? tail.length;
      this.#place(kept + index, block, start + block.offset, tail.slice(block.offset, end));
    });
    for (const gone of this.#blocks.splice(kept + parsed.length)) gone.node.remove();
    this.#text = source;
  }

  #place(index, block, offset, source) {
    const old = this.#blocks[index];
    if (old?.source === source) {
      old.offset = offset;
      return;
    }
    const node = blockNode(block);
    if (old) old.node.replaceWith(node);
    else this.node.append(node);
    this.#blocks[index] = { offset, source, node };
  }
}

function blockNode(block) {
  switch (block.type) {
    case "heading":
      return h(`h${Math.min(6, block.level + 1)}`, {}, ...block.inline.map(inlineNode));
    case "code":
      return codeNode(block);
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, ...block.blocks.map(blockNode));
    case "list":
      return listNode(block);
    case "table":
      return tableNode(block);
    default:
      return h("p", {}, ...block.inline.map(inlineNode));
  }
}

function codeNode({ language, text }) {
  const head = h("figcaption", {}, h("span", {}, language || "text"), copyButton(() => text, "Copy code"));
  const code = h("code", {}, ...highlighted(text, language));
  return h("figure", { className: "code" }, head, h("pre", { tabIndex: 0, "aria-label": `${language || "text"} code` }, code));
}

function listNode({ isOrdered, start, isLoose, items }) {
  const props = isOrdered && start !== 1 ? { start } : {};
  return h(isOrdered ? "ol" : "ul", props, ...items.map((item) => itemNode(item, isLoose)));
}

function itemNode({ isDone, blocks }, isLoose) {
  const children = blocks.flatMap((block) => {
    if (block.type === "paragraph" && !isLoose) return block.inline.map(inlineNode);
    return [blockNode(block)];
  });
  if (isDone === null) return h("li", {}, ...children);
  const box = h("input", { type: "checkbox", checked: isDone, disabled: true, "aria-label": isDone ? "done" : "to do" });
  return h("li", { className: "task" }, box, ...children);
}

function tableNode({ aligns, head, rows }) {
  const row = (tag, cells) =>
    h("tr", {}, ...cells.map((cell, column) => h(tag, { className: aligns[column] }, ...cell.map(inlineNode))));
  const body = rows.map((cells) => row("td", cells));
  return h("div", { className: "table", tabIndex: 0 }, h("table", {}, h("thead", {}, row("th", head)), h("tbody", {}, ...body)));
}

function inlineNode(node) {
  switch (node.type) {
    case "text":
      return node.text;
    case "break":
      return h("br");
    case "code":
      return h("code", { textContent: node.text });
    case "link":
      return linkNode(node);
    default:
      return h(node.type, {}, ...node.children.map(inlineNode));
  }
}

function linkNode({ href, children }) {
  const props = { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" };
  return h("a", props, ...children.map(inlineNode));
}
