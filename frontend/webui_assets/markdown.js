// Markdown blocks to a tree: paragraphs, headings, lists, quotes, code, tables, rules. No DOM, no HTML.
// Of a text that grows at its end only the last two blocks can change: `parseBlocks` says where each begins, so that
// markdown_view.js keeps the others. What models write gets the benefit of the doubt (lists indented too little).

import { parseInline } from "./markdown_inline.js";

/**
 * @typedef {{type: string, offset: number}} Block `offset`: where its first line begins in the text. By type:
 *   heading {level, inline}, paragraph {inline}, code {language, text}, quote {blocks}, rule {},
 *   list {isOrdered, start, isLoose, items: {blocks, isDone: boolean | null}[]}, table {aligns, head, rows} of inlines
 */

const MAX_DEPTH = 16;
const FENCE = /^ {0,3}(`{3,64}(?!.*`)|~{3,}) *([^ ]*)/;
const HEADING = /^ {0,3}(#{1,6})(?= |$)/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;

/**
 * @param {string} text whose lines end in \n
 * @returns {Block[]}
 */
export function parseBlocks(text) {
  const lines = text.split("\n");
  const offsets = [];
  let offset = 0;
  for (const line of lines) {
    offsets.push(offset);
    offset += line.length + 1;
  }
  const blocks = parseLines(lines.map((line) => line.replaceAll("\t", "    ")), 0);
  return blocks.map(({ line, ...block }) => ({ ...block, offset: offsets[line] }));
}

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, next] = parseBlock(lines, at, depth);
    blocks.push({ ...block, line: at });
    at = next;
  }
  return blocks;
}

function parseBlock(lines, at, depth) {
  const line = lines[at];
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, inline: headingText(line, heading[0]) }, at + 1];
  if (FENCE.test(line)) return parseCode(lines, at);
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return parseQuote(lines, at, depth);
    if (itemOf(line)) return parseList(lines, at, depth);
  }
  if (isTable(lines, at)) return parseTable(lines, at);
  return parseParagraph(lines, at);
}

function headingText(line, marker) {
  const text = line.slice(marker.length).trim();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1; // a closing sequence
  return parseInline(end === 0 || text[end - 1] === " " ? text.slice(0, end).trimEnd() : text);
}

function parseCode(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  const indent = indentOf(lines[at]);
  const end = new RegExp(`^ {0,3}${fence[0]}{${fence.length},} *$`);
  const content = [];
  let next = at + 1;
  for (; next < lines.length && !end.test(lines[next]); next += 1) content.push(dedent(lines[next], indent));
  return [{ type: "code", language, text: content.join("\n") }, next + 1];
}

function parseQuote(lines, at, depth) {
  const content = [];
  let next = at;
  for (; next < lines.length; next += 1) {
    if (QUOTE.test(lines[next])) content.push(lines[next].replace(QUOTE, ""));
    else if (content.at(-1).trim() && !endsParagraph(lines, next)) content.push(lines[next]);
    else break;
  }
  return [{ type: "quote", blocks: parseLines(content, depth + 1) }, next];
}

/** A list item's first line: its indent, its marker, where its content begins; null for other lines. */
function itemOf(line) {
  const match = ITEM.exec(line);
  if (!match) return null;
  const [, indent, marker, space = " ", content = ""] = match;
  const width = indent.length + marker.length + (space.length > 4 ? 1 : space.length);
  return { indent: indent.length, kind: marker.at(-1), number: parseInt(marker, 10), width, content };
}

function parseList(lines, at, depth) {
  const first = itemOf(lines[at]);
  const items = [];
  let next = at;
  let isLoose = false;
  while (next < lines.length) {
    const item = itemOf(lines[next]);
    if (!item || item.kind !== first.kind || item.indent >= first.indent + 2 || RULE.test(lines[next])) break;
    const [content, end, endsBlank] = itemLines(lines, next, item);
    items.push(listItem(content, depth));
    next = end;
    isLoose ||= endsBlank && next < lines.length && itemOf(lines[next])?.kind === first.kind;
  }
  const isOrdered = !Number.isNaN(first.number);
  return [{ type: "list", isOrdered, start: isOrdered ? first.number : 1, isLoose, items }, next];
}

/** The lines of an item without its indent, the line after it, and whether a blank one came before that. */
function itemLines(lines, at, item) {
  const content = [item.content];
  let width = item.width;
  let isBlank = false;
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    if (!line.trim()) {
      isBlank = true;
      content.push("");
      continue;
    }
    const indent = indentOf(line);
    const isChild = indent >= width || (indent >= item.indent + 2 && (itemOf(line) || FENCE.test(line)));
    const isLazy = !isBlank && !isChild && !itemOf(line) && !endsParagraph(lines, next);
    if (!isChild && !isLazy) break;
    if (isChild) width = Math.min(width, indent);
    content.push(isChild ? dedent(line, width) : line);
    isBlank = false;
  }
  while (content.length > 1 && !content.at(-1)) content.pop();
  return [content, next, isBlank];
}

function listItem(content, depth) {
  const task = /^\[([ xX])\] +/.exec(content[0]);
  const lines = task ? [content[0].slice(task[0].length), ...content.slice(1)] : content;
  return { isDone: task ? task[1] !== " " : null, blocks: parseLines(lines, depth + 1) };
}

function isTable(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length || !lines[at + 1].includes("-")) return false;
  const marks = cellsOf(lines[at + 1]);
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cellsOf(lines[at]).length;
}

function parseTable(lines, at) {
  const head = cellsOf(lines[at]);
  const aligns = cellsOf(lines[at + 1]).map((mark) => {
    if (mark.endsWith(":")) return mark.startsWith(":") ? "center" : "right";
    return "left";
  });
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && lines[next].includes("|") && lines[next].trim(); next += 1) {
    const cells = cellsOf(lines[next]);
    rows.push(head.map((_, column) => parseInline(cells[column] ?? "")));
  }
  return [{ type: "table", aligns, head: head.map(parseInline), rows }, next];
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/);
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function parseParagraph(lines, at) {
  const content = [lines[at].trimStart()];
  let next = at + 1;
  for (; next < lines.length && !endsParagraph(lines, next); next += 1) content.push(lines[next].trimStart());
  return [{ type: "paragraph", inline: parseInline(content.join("\n").trimEnd()) }, next];
}

function endsParagraph(lines, at) {
  const line = lines[at];
  if (!line.trim() || HEADING.test(line) || FENCE.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = itemOf(line);
  return Boolean(item?.content && (Number.isNaN(item.number) || item.number === 1)) || isTable(lines, at);
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function dedent(line, width) {
  return line.slice(Math.min(width, indentOf(line)));
}
