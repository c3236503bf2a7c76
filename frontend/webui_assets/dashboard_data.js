// What the charts show, from readings of /metrics and /load: rates and latencies of the last seconds. No DOM.
// Which metrics there are: ipc/metric_families.py, under whatever prefix the server was started with.

import { histogramIncrease, increaseOf, meanOf, quantileOf, sumOf } from "./prometheus.js";

const RATE_WINDOW_MS = 5000;
const LATENCY_WINDOW_MS = 15_000;
const PREFIX_MARK = "num_requests_running";

/**
 * @typedef {object} Point what is known of one moment; null where nothing is
 * @property {number} time milliseconds of the page's own clock
 * @property {?number} running  @property {?number} waiting  @property {?number} kvUse 0 to 1
 * @property {?number} generated  @property {?number} prompt tokens per second
 * @property {Object<string, number>} [generatedBy] the same by the name of the engine core
 * @property {?number} ttftP50  @property {?number} ttftP99  @property {?number} ttftMean seconds
 * @property {?number} gapP50  @property {?number} gapP99 seconds between tokens
 * @property {?number} ended  @property {?number} refused requests per second
 */

export class Readings {
  #readings = [];

  /**
   * Take in one reading.
   * @param {number} time milliseconds
   * @param {Map<string, object[]> | null} metrics see prometheus.js
   * @param {object | null} load body of GET /load
   * @returns {Point}
   */
  add(time, metrics, load) {
    const { prefix, last } = this;
    const point = {
      time,
      running: load?.num_requests_running ?? null,
      waiting: load?.num_requests_waiting ?? null,
      kvUse: load?.kv_cache_usage ?? null,
    };
    if (!metrics) return point;
    const mark = [...metrics.keys()].find((name) => name.endsWith(PREFIX_MARK));
    this.prefix = mark === undefined ? (prefix ?? "fast_inference_") : mark.slice(0, -PREFIX_MARK.length);
    this.#readings = this.#readings.filter((reading) => time - reading.time <= LATENCY_WINDOW_MS);
    if (last) Object.assign(point, this.#rates(time, metrics), this.#latencies(metrics));
    this.#readings.push({ time, metrics });
    return point;
  }

  /** @returns {Map<string, object[]> | undefined} the latest metrics */
  get last() {
    return this.#readings.at(-1)?.metrics;
  }

  /** @returns {number | null} a gauge or counter of the latest metrics, all its series together */
  value(name) {
    return this.last ? sumOf(this.last, this.prefix + name) : null;
  }

  /** @returns {[string, number][]} the same by one of its labels */
  valuesBy(name, label) {
    return (this.last?.get(this.prefix + name) ?? []).map(({ labels, value }) => [labels[label] ?? "", value]);
  }

  #rates(time, metrics) {
    const before = this.#readings.find((reading) => time - reading.time <= RATE_WINDOW_MS);
    if (!before) return {};
    const seconds = (time - before.time) / 1000;
    const rate = (name, isWanted) => increaseOf(before.metrics, metrics, this.prefix + name, isWanted) / seconds;
    const ofCore = (core) => (labels) => (labels.core ?? labels.engine) === core;
    const cores = new Set((metrics.get(`${this.prefix}generation_tokens_total`) ?? []).map(({ labels }) => labels.core ?? labels.engine));
    return {
      generatedBy: Object.fromEntries([...cores].map((core) => [core, rate("generation_tokens_total", ofCore(core))])),
      generated: rate("generation_tokens_total"),
      prompt: rate("prompt_tokens_total"),
      ended: rate("request_success_total"),
      refused: rate("rejects_total"),
    };
  }

  #latencies(metrics) {
    const before = this.#readings[0]?.metrics;
    if (!before) return {};
    const ttft = histogramIncrease(before, metrics, `${this.prefix}time_to_first_token_seconds`);
    const gap = histogramIncrease(before, metrics, `${this.prefix}inter_token_latency_seconds`);
    return {
      ttftP50: quantileOf(ttft, 0.5),
      ttftP99: quantileOf(ttft, 0.99),
      ttftMean: meanOf(ttft),
      gapP50: quantileOf(gap, 0.5),
      gapP99: quantileOf(gap, 0.99),
    };
  }
}
