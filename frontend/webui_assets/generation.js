// One answer while it is written: a stream becomes the text, the reasoning, the end and the figures of a message.
// chat.js starts it and shows what changes; api.js has the requests.

import { ApiError, serverStatus, streamChat } from "./api.js";

const SILENCE_MS = 1500;
const WATCH_MS = 500;

/**
 * @typedef {object} Stats
 * @property {number} [ttftMs] from sending to the first token
 * @property {number} [tokensPerSecond] of the answer, without the time to its first token
 * @property {number} [promptTokens]
 * @property {number} [cachedTokens] of the prompt, which did not have to be computed
 * @property {number} [tokens] of the answer
 * @property {number} [queueMs] what the engine needed, by its own clock: until it began,
 * @property {number} [prefillMs] to the first token,
 * @property {number} [decodeMs] and for the others
 */

export class Generation {
  #abort = new AbortController();
  #onUpdate;
  #sentAt = performance.now();
  #saidAt = this.#sentAt; // when the latest chunk came; comments say nothing
  #hasPinged = false;
  #firstAt = 0;
  #tokensAtFirst = 0;
  #isWatching = false;

  /**
   * @param {import("./conversation.js").Message} message which is filled
   * @param {(note: string) => void} onUpdate called after each change, with what the reader should know of a pause
   */
  constructor(message, onUpdate) {
    this.message = message;
    this.#onUpdate = onUpdate;
  }

  /** End it; what has been written stays. */
  stop() {
    this.#abort.abort();
  }

  /**
   * Run to the end. What goes wrong is told by the message (`finish`, `error`) and by the error that comes back.
   * @param {object} body of POST /v1/chat/completions
   * @returns {Promise<ApiError | null>}
   */
  async run(body) {
    const { message } = this;
    const options = { timings: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
    const watch = setInterval(() => this.#watch(), WATCH_MS);
    try {
      for await (const item of streamChat({ ...body, ...options }, this.#abort.signal)) this.#take(item);
      return null;
    } catch (error) {
      if (error.name === "AbortError") {
        message.finish = "stopped";
        return null;
      }
      if (!(error instanceof ApiError)) throw error;
      message.finish = "error";
      message.error = error.message;
      return error;
    } finally {
      clearInterval(watch);
    }
  }

  #take(item) {
    this.#hasPinged = "comment" in item;
    if (this.#hasPinged) return;
    this.#saidAt = performance.now();
    const { choices: [choice] = [], usage, timings } = item.chunk;
    const { content, reasoning_content: reasoning } = choice?.delta ?? {};
    if (reasoning) this.message.reasoning = (this.message.reasoning ?? "") + reasoning;
    if (content) this.message.content += content;
    if (choice?.finish_reason) this.message.finish = choice.finish_reason;
    if (usage) this.#count(usage, Boolean(content || reasoning));
    if (timings) this.#takeTimings(timings);
    this.#onUpdate("");
  }

  #count(usage, hasText) {
    const now = this.#saidAt;
    const stats = (this.message.stats ??= {});
    if (hasText && !this.#firstAt) {
      this.#firstAt = now;
      this.#tokensAtFirst = usage.completion_tokens;
      stats.ttftMs = now - this.#sentAt;
    }
    const { cached_tokens: cached } = usage.prompt_tokens_details ?? {};
    stats.promptTokens = usage.prompt_tokens;
    if (cached) stats.cachedTokens = cached;
    stats.tokens = usage.completion_tokens;
    const since = usage.completion_tokens - this.#tokensAtFirst;
    if (hasText && since > 0) stats.tokensPerSecond = (since * 1000) / (now - this.#firstAt);
  }

  /** The engine's own clock knows better how fast it was; the time to the first token stays what the reader waited. */
  #takeTimings(timings) {
    const stats = (this.message.stats ??= {});
    Object.assign(stats, { queueMs: timings.queue_ms, prefillMs: timings.prefill_ms, decodeMs: timings.decode_ms });
    if (timings.decode_tokens_per_second > 0) stats.tokensPerSecond = timings.decode_tokens_per_second;
  }

  async #watch() {
    if (performance.now() - this.#saidAt < SILENCE_MS || this.#isWatching) return;
    this.#isWatching = true;
    try {
      const status = await serverStatus(this.#abort.signal);
      const silenceMs = performance.now() - this.#saidAt;
      if (silenceMs >= SILENCE_MS && !this.message.finish) this.#onUpdate(noteOf(status, silenceMs, this.#hasPinged));
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      this.#isWatching = false;
    }
  }
}

function noteOf(status, silenceMs, hasPinged) {
  const time = `${Math.round(silenceMs / 1000)} s${hasPinged ? ", still connected" : ""}`;
  if (status === "ready") return `Waiting for the model … ${time}`;
  if (status === "unreachable") return `The server does not answer; waiting … ${time}`;
  return `The engine is ${status}. The answer goes on by itself as soon as it is back … ${time}`;
}
