// Prometheus text format: samples by name, and what can be told from two readings of them. Used by dashboard_data.js.
// Counters that went down were started anew, each for itself: what they count since then is all that is new.

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

/**
 * @param {(labels: Object<string, string>) => boolean} isWanted which series
 * @returns {number} by how much a counter has grown between two readings; one that is not there has counted nothing
 */
export function increaseOf(before, after, name, isWanted = () => true) {
  const then = new Map((before.get(name) ?? []).map(({ labels, value }) => [JSON.stringify(labels), value]));
  let increase = 0;
  for (const { labels, value } of after.get(name) ?? []) {
    if (!isWanted(labels)) continue;
    const old = then.get(JSON.stringify(labels)) ?? 0;
    increase += value < old ? value : value - old;
  }
  return increase;
}

/**
 * What a histogram has counted between two readings, all its series together.
 * @returns {{count: number, sum: number, buckets: {le: number, count: number}[]}} cumulative buckets, by `le`
 */
export function histogramIncrease(before, after, name) {
  const then = histogramsOf(before, name);
  const counts = new Map();
  let sum = 0;
  for (const [series, now] of histogramsOf(after, name)) {
    const old = then.get(series) ?? { buckets: new Map(), sum: 0 };
    const isAnew = [...now.buckets].some(([le, count]) => count < (old.buckets.get(le) ?? 0));
    for (const [le, count] of now.buckets) {
      counts.set(le, (counts.get(le) ?? 0) + count - (isAnew ? 0 : (old.buckets.get(le) ?? 0)));
    }
    sum += now.sum - (isAnew ? 0 : old.sum);
  }
  const buckets = [...counts].map(([le, count]) => ({ le, count })).sort((one, other) => one.le - other.le);
  return { count: buckets.at(-1)?.count ?? 0, sum, buckets };
}

/** Counts by upper bound, and the sum, of each series. */
function histogramsOf(metrics, name) {
  const found = new Map();
  const of = (labels) => {
    const series = JSON.stringify(labels);
    if (!found.has(series)) found.set(series, { buckets: new Map(), sum: 0 });
    return found.get(series);
  };
  for (const { labels: { le, ...labels }, value } of metrics.get(`${name}_bucket`) ?? []) {
    of(labels).buckets.set(numberOf(le ?? ""), value);
  }
  for (const { labels, value } of metrics.get(`${name}_sum`) ?? []) of(labels).sum = value;
  return found;
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
