// Server-sent events: pieces of text, cut anywhere, become events and comments. Used by api.js.

/** @typedef {{event: string, data: string} | {comment: string}} SseItem */

export class SseParser {
  #rest = "";
  #event = "";
  #data = [];

  /**
   * Take the next piece of the stream.
   * @param {string} text
   * @returns {SseItem[]} what is complete with it; an event is complete at its empty line
   */
  push(text) {
    const items = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/); // a \r at the end may be half of a line end
    this.#rest = lines.pop();
    for (const line of lines) this.#takeLine(line, items);
    return items;
  }

  #takeLine(line, items) {
    if (line === "") {
      if (this.#data.length) items.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (colon === 0) items.push({ comment: value });
    else if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }
}
