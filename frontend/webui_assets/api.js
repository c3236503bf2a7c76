// Requests to this server: JSON, text and streams, with the API key and one kind of error.
// Next: generation.js for what becomes of a stream, sse.js for its format.

import { apiKey } from "./keys.js";
import { SseParser } from "./sse.js";

/** Where the server is, also behind a proxy that adds a prefix: this file is BASE/webui/VERSION/api.js. */
export const BASE = new URL("../../", import.meta.url);

/** What went wrong with a request: an answer of the server that is no success, a lost connection, a cut-off stream. */
export class ApiError extends Error {
  /** @param {{status?: number, code?: string, retryAfterS?: number}} [facts] `status` 0: there was no answer */
  constructor(message, { status = 0, code = "", retryAfterS = 0 } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * One request; raises ApiError unless its status is 2xx, and the AbortError of `signal`.
 * @param {string} path below BASE, without a slash in front
 * @param {{body?: object, signal?: AbortSignal}} [options] a body makes it a POST
 * @returns {Promise<Response>}
 */
export async function request(path, { body, signal } = {}) {
  const headers = {};
  const key = apiKey();
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" };
  const response = await lostAsApiError(() => fetch(new URL(path, BASE), options));
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** @returns {Promise<any>} the JSON of an answer */
export async function getJson(path, options) {
  const response = await request(path, options);
  return lostAsApiError(() => response.json());
}

/** @returns {Promise<string>} the text of an answer */
export async function getText(path, options) {
  const response = await request(path, options);
  return lostAsApiError(() => response.text());
}

/**
 * What the server says about itself, also where that is that it is not ready.
 * @returns {Promise<string>} ready, starting, restarting, stalled, …; "unreachable" where nobody answers
 */
export async function serverStatus(signal) {
  try {
    const response = await fetch(new URL("health", BASE), { signal, cache: "no-store" });
    const health = await response.json();
    return String(health.status ?? health.error?.code ?? "unreachable");
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return "unreachable";
  }
}

/**
 * A streamed chat completion.
 * @param {object} body of POST /v1/chat/completions
 * @param {AbortSignal} signal ends it, on the server too
 * @yields {{chunk: object} | {comment: string}} until [DONE]; an error event and an end without [DONE] raise ApiError
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", { body: { ...body, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new SseParser();
  try {
    for (;;) {
      const { done, value } = await lostAsApiError(() => reader.read());
      if (done) throw new ApiError("The connection ended before the answer was complete.", { code: "cut_off" });
      for (const item of parser.push(value)) {
        if ("comment" in item) yield item;
        else if (item.data === "[DONE]") return;
        else yield { chunk: chunkOf(item.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => undefined); // it has ended already, one way or the other
  }
}

function chunkOf(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError("The server, or something between, sent what is no part of an answer.", { code: "not_json" });
  }
  if (chunk.error) throw new ApiError(chunk.error.message, { status: chunk.error.status, code: chunk.error.code ?? "" });
  return chunk;
}

async function errorOf(response) {
  const retryAfterS = Number(response.headers.get("retry-after")) || 0;
  const facts = { status: response.status, retryAfterS };
  try {
    const { error } = await response.json();
    return new ApiError(error.message, { ...facts, code: error.code ?? "" });
  } catch {
    return new ApiError(`The server answered with status ${response.status}.`, facts); // a proxy's page, perhaps
  }
}

async function lostAsApiError(operation) {
  try {
    return await operation();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached, or the connection was lost.", { code: "network" });
  }
}
