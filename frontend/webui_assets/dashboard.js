// The dashboard: asks /metrics and /load once a second while the page is seen, and draws what came of it.
// Read next: dashboard_data.js for how figures are made, line_chart.js for the drawing.

import { ApiError, getJson, getText, serverStatus } from "./api.js";
import { Readings } from "./dashboard_data.js";
import { byId, drawIcons, h } from "./dom.js";
import { askForKeyAfter, installKeyDialog } from "./key_dialog.js";
import { LineChart } from "./line_chart.js";
import { parseMetrics } from "./prometheus.js";
import { installTheme } from "./theme.js";

const EVERY_MS = 1000;
const BATCHES_EVERY_MS = 5000;
const NUM_BATCHES = 5;
const KEPT_MS = 15 * 60_000;

/** Two digits or more, as far as they say something. */
const short = (value) => Number(value.toFixed(value < 10 ? 1 : 0)).toLocaleString("en");
const percent = (value) => `${short(value * 100)} %`;
const seconds = (value) => (value > 0 && value < 1 ? `${short(value * 1000)} ms` : `${short(value)} s`);

const CHARTS = [
  new LineChart("Requests", [
    { key: "running", label: "running", color: "one", isFilled: true },
    { key: "waiting", label: "waiting", color: "two" },
  ], { format: short, smallestTop: 5 }),
  new LineChart("Tokens per second", [
    { key: "generated", label: "generated", color: "one", isFilled: true },
    { key: "prompt", label: "prompt", color: "two" },
  ], { format: short, smallestTop: 10 }),
  new LineChart("Time to first token", [
    { key: "ttftP50", label: "p50", color: "one" },
    { key: "ttftP99", label: "p99", color: "three" },
    { key: "ttftMean", label: "mean", color: "two" },
  ], { format: seconds, smallestTop: 0.01 }),
  new LineChart("Time between tokens", [
    { key: "gapP50", label: "p50", color: "one" },
    { key: "gapP99", label: "p99", color: "three" },
  ], { format: seconds, smallestTop: 0.01 }),
  new LineChart("KV cache in use", [{ key: "kvUse", label: "of all blocks", color: "one", isFilled: true }], { format: percent, smallestTop: 0.1 }),
  new LineChart("Requests per second", [
    { key: "ended", label: "ended", color: "one" },
    { key: "refused", label: "refused", color: "three" },
  ], { format: short, smallestTop: 1 }),
];

class Dashboard {
  #readings = new Readings();
  #points = [];
  #spanMs = 5 * 60_000;
  #pointed = null;
  #timer = 0;
  #batchesAt = -Infinity;
  #isAsking = false;

  start() {
    drawIcons();
    installTheme(byId("theme"), () => this.#draw());
    installKeyDialog(() => this.#tick());
    byId("charts").append(...CHARTS.map(({ node }) => node));
    byId("span").addEventListener("change", (event) => {
      this.#spanMs = Number(event.target.value) * 60_000;
      this.#draw();
    });
    for (const chart of CHARTS) this.#follow(chart);
    new ResizeObserver(() => this.#draw()).observe(byId("charts"));
    document.addEventListener("visibilitychange", () => this.#tick());
    this.#tick();
  }

  #follow(chart) {
    chart.canvas.addEventListener("pointermove", (event) => {
      this.#pointed = chart.timeAt(event.offsetX, this.#now, this.#spanMs);
      this.#draw();
    });
    chart.canvas.addEventListener("pointerleave", () => {
      this.#pointed = null;
      this.#draw();
    });
  }

  get #now() {
    return this.#points.at(-1)?.time ?? performance.now();
  }

  /** Ask and draw, and again a second later; a page that is not seen asks nothing. */
  async #tick() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#isAsking) return;
    this.#isAsking = true;
    const began = performance.now();
    const mayGoOn = await this.#ask(began);
    this.#isAsking = false;
    this.#draw();
    if (mayGoOn) this.#timer = setTimeout(() => this.#tick(), Math.max(100, EVERY_MS - (performance.now() - began)));
  }

  /** @returns {Promise<boolean>} false where a key is needed first */
  async #ask(time) {
    const signal = AbortSignal.timeout(5000);
    const [status, load, text] = await Promise.all([
      valueOrError(serverStatus(signal)),
      valueOrError(getJson("load", { signal })),
      valueOrError(getText("metrics", { signal })),
    ]);
    this.#showStatus(typeof status === "string" ? status : "unreachable");
    const refused = [load, text].find((answer) => answer instanceof ApiError && answer.status === 401);
    if (refused) return this.#waitForKey(refused);
    const metrics = typeof text === "string" ? parseMetrics(text) : null;
    this.#points.push(this.#readings.add(time, metrics, load instanceof Error ? null : load));
    this.#points = this.#points.filter((point) => time - point.time <= KEPT_MS);
    byId("problem").textContent = text instanceof Error ? `No figures from /metrics: ${text.message}` : "";
    this.#showTiles();
    this.#showCores(load instanceof Error ? [] : (load.cores ?? []));
    if (time - this.#batchesAt >= BATCHES_EVERY_MS) await this.#askBatches(time, signal);
    return true;
  }

  #waitForKey(error) {
    askForKeyAfter(error);
    byId("problem").textContent = "This server shows its figures to those who have an API key.";
    return false;
  }

  async #askBatches(time, signal) {
    const answer = await valueOrError(getJson(`v1/batches?limit=${NUM_BATCHES}`, { signal }));
    this.#batchesAt = answer instanceof ApiError && answer.status === 404 ? Infinity : time; // it keeps no batches
    byId("batches").hidden = answer instanceof Error || !answer.data.length;
    if (!(answer instanceof Error)) byId("batch-rows").replaceChildren(...answer.data.map(batchRow));
  }

  #draw() {
    for (const chart of CHARTS) chart.draw(this.#points, this.#now, this.#spanMs, this.#pointed);
  }

  #showStatus(status) {
    const kind = status === "ready" ? "good" : status === "unreachable" ? "bad" : "busy";
    byId("status").className = `pill ${kind}`;
    byId("status").textContent = status;
  }

  /** Of several ones; the tiles say all of a single one. */
  #showCores(cores) {
    byId("cores").hidden = cores.length < 2;
    const rates = this.#points.at(-1).generatedBy ?? {};
    byId("core-rows").replaceChildren(...cores.map((core) => coreRow(core, rates[core.name])));
  }

  #showTiles() {
    const point = this.#points.at(-1);
    const told = {
      running: [point.running, short],
      waiting: [point.waiting, short],
      rate: [point.generated, short],
      ttft: [point.ttftP50, seconds],
      kv: [point.kvUse, percent],
      restarts: [this.#readings.value("core_restarts_total"), short],
      frontends: [this.#readings.value("frontends"), short],
    };
    for (const [name, [value, format]] of Object.entries(told)) {
      byId(`tile-${name}`).textContent = value === null || value === undefined ? "–" : format(value);
    }
    const jobs = this.#readings.valuesBy("batch_jobs", "status").filter(([, number]) => number);
    byId("tile-batches").textContent = jobs.map(([status, number]) => `${number} ${status}`).join(", ") || "none";
  }
}

function coreRow({ name, state, num_requests_running: running, num_requests_waiting: waiting, kv_cache_usage: kvUse }, rate) {
  const kind = state === "ready" ? "good" : state === "dead" || state === "stalled" ? "bad" : "busy";
  const bar = h("progress", { value: kvUse, "aria-label": `KV cache of core ${name}` });
  return h("tr", {},
    h("td", {}, name), h("td", {}, h("span", { className: `pill ${kind}` }, state)),
    h("td", {}, short(running)), h("td", {}, short(waiting)), h("td", {}, rate === undefined ? "–" : short(rate)),
    h("td", {}, bar, ` ${percent(kvUse)}`));
}

function batchRow({ id, status, endpoint, request_counts: counts }) {
  const { total = 0, completed = 0, failed = 0 } = counts ?? {};
  const bar = h("progress", { max: Math.max(1, total), value: completed + failed, "aria-label": `Progress of ${id}` });
  const failures = failed ? `, ${failed.toLocaleString("en")} failed` : "";
  return h("tr", {},
    h("td", {}, h("code", {}, id)), h("td", {}, endpoint), h("td", {}, status),
    h("td", {}, bar, ` ${completed.toLocaleString("en")} of ${total.toLocaleString("en")}${failures}`));
}

async function valueOrError(promise) {
  try {
    return await promise;
  } catch (error) {
    return error; // shown, or a gap in the charts
  }
}

new Dashboard().start();
