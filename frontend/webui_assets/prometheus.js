// Prometheus text format: samples by name, and what can be told from two readings of them. Used by dashboard_data.js.
// Counters that went down were started anew: what they count since then is all that is new.

/** @typedef {{labels: Object<string, string>, value: number}} Sample */

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? +(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", "\\": "\\", '"': '"' };

/**
 * @param {string} text of /metrics
 * @returns {Map<string, Sample[]>} samples by name, also those of a histogram's buckets
 */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!match) continue;
    const [, name, labels, value] = match;
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels: labels ? parseLabels(labels) : {}, value: numberOf(value) });
  }
  return found;
}

function parseLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (whole, char) => ESCAPES[char] ?? whole);
  }
  return labels;
}

function numberOf(text) {
  if (/^[+-]?Inf$/.test(text)) return text.startsWith("-") ? -Infinity : Infinity;
  return Number(text);
}

/** @returns {number | null} the samples of a name together; null where there is none */
export function sumOf(metrics, name) {
  const samples = metrics.get(name);
  return samples ? samples.reduce((sum, { value }) => sum + value, 0) : null;
}

/** @returns {number} by how much a counter has grown between two readings; one that is not there has counted nothing */
export function increaseOf(before, after, name) {
  const now = sumOf(after, name) ?? 0;
  const then = sumOf(before, name) ?? 0;
  return now < then ? now : now - then;
}

/**
 * What a histogram has counted between two readings.
 * @returns {{count: number, sum: number, buckets: {le: number, count: number}[]}} cumulative buckets, by `le`
 */
export function histogramIncrease(before, after, name) {
  const now = bucketsOf(after, name);
  const then = bucketsOf(before, name);
  const isAnew = [...now].some(([le, count]) => count < (then.get(le) ?? 0));
  const buckets = [...now].map(([le, count]) => ({ le, count: count - (isAnew ? 0 : (then.get(le) ?? 0)) }));
  buckets.sort((one, other) => one.le - other.le);
  const sum = (sumOf(after, `${name}_sum`) ?? 0) - (isAnew ? 0 : (sumOf(before, `${name}_sum`) ?? 0));
  return { count: buckets.at(-1)?.count ?? 0, sum, buckets };
}

/** Counts by upper bound, of all series together. */
function bucketsOf(metrics, name) {
  const counts = new Map();
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    const le = numberOf(labels.le ?? "");
    counts.set(le, (counts.get(le) ?? 0) + value);
  }
  return counts;
}

/**
 * As PromQL's histogram_quantile: linear inside of a bucket; the last finite bound for what lies above it.
 * @returns {number | null} null where nothing was counted
 */
export function quantileOf(histogram, quantile) {
  if (!histogram.count) return null;
  const rank = quantile * histogram.count;
  let lower = { le: 0, count: 0 };
  for (const bucket of histogram.buckets) {
    if (bucket.count >= rank) {
      if (bucket.le === Infinity) return lower.le;
      const inside = bucket.count - lower.count;
      return inside ? lower.le + (bucket.le - lower.le) * ((rank - lower.count) / inside) : bucket.le;
    }
    lower = bucket;
  }
  return lower.le;
}

/** @returns {number | null} */
export function meanOf(histogram) {
  return histogram.count ? histogram.sum / histogram.count : null;
}
