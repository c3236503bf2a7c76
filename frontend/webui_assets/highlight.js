// Colours for code, by what most languages have in common: comments, strings, numbers, keywords. Used by markdown_view.js.
// No more than that is known about any language; a wrong guess only colours a word.

import { h } from "./dom.js";

const MAX_CHARS = 100_000;
const KEYWORDS = new Set(
  (
    "abstract and as assert async await begin bool boolean break case catch char class const continue def default del " +
    "do done double elif else end enum except export extends false False fi finally float fn for foreach from func " +
    "function go if impl implements import in int interface is lambda let long loop match mod module mut new nil None " +
    "not null of or package pass private protected pub public raise return select self short static string struct " +
    "super switch then this throw throws trait true True try type typeof undefined unsigned use using val var void " +
    "where while with yield"
  ).split(" "),
);
const SQL =
  "select from where insert into values update set delete create table drop alter join left right inner outer on group by " +
  "order limit and or not null as distinct having union case when then else end primary key index";
const SQL_KEYWORDS = new Set(SQL.split(" "));
const HASH_COMMENTS = new Set("bash dockerfile ini makefile perl py python r rb ruby sh shell toml yaml yml zsh".split(" "));
const PLAIN = new Set(["", "text", "txt", "plain", "plaintext", "console", "output", "markdown", "md"]);

const STRING = '"""[\\s\\S]*?(?:"""|$)' + '|"(?:[^"\\\\\\n]|\\\\.)*"?' + "|'(?:[^'\\\\\\n]|\\\\.)*'?" + "|`(?:[^`\\\\]|\\\\.)*`?";
const NUMBER = "\\b\\d[\\w.]*";
const WORD = "[A-Za-z_$][\\w$]*";

/**
 * @param {string} text
 * @param {string} language as the fence names it
 * @returns {(string | Node)[]}
 */
export function highlighted(text, language) {
  const name = language.toLowerCase();
  if (PLAIN.has(name) || text.length > MAX_CHARS) return [text];
  const nodes = [];
  let plain = "";
  for (const match of text.matchAll(tokens(name))) {
    const kind = kindOf(match, name);
    if (kind === null) {
      plain += match[0];
      continue;
    }
    nodes.push(plain, h("span", { className: kind, textContent: match[0] }));
    plain = "";
  }
  return [...nodes, plain];
}

/** Groups: comment, string, number, word; everything else one by one. */
function tokens(name) {
  let comment = "//[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)";
  if (HASH_COMMENTS.has(name)) comment = "#[^\\n]*";
  if (name === "sql") comment = "--[^\\n]*";
  if (name === "html" || name === "xml") comment = "<!--[\\s\\S]*?(?:-->|$)";
  return new RegExp(`(${comment})|(${STRING})|(${NUMBER})|(${WORD})|[\\s\\S]`, "g");
}

function kindOf([, comment, string, number, word], name) {
  if (comment !== undefined) return "comment";
  if (string !== undefined) return "string";
  if (number !== undefined) return "number";
  if (word === undefined) return null;
  const isKeyword = name === "sql" ? SQL_KEYWORDS.has(word.toLowerCase()) : KEYWORDS.has(word);
  return isKeyword ? "keyword" : null;
}
