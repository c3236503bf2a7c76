// What the reader has set for new answers, kept in localStorage: model, system prompt, sampling.
// A sampling value that is not set is not sent: the server's default counts.

const NAME = "fast-inference.settings";

/**
 * The sampling controls, in the order in which they are shown. `min`, `max` and `step` are those of the field.
 * @type {{name: string, label: string, hint: string, min?: number, max?: number, step?: 1 | "any", kind?: "strings"}[]}
 */
export const SAMPLING = [
  { name: "temperature", label: "Temperature", hint: "1; 0: greedy", min: 0, max: 2, step: "any" },
  { name: "top_p", label: "Top p", hint: "1: of all tokens", min: 0.01, max: 1, step: "any" },
  { name: "top_k", label: "Top k", hint: "0: of all tokens", min: 0, max: 1000, step: 1 },
  { name: "min_p", label: "Min p", hint: "0", min: 0, max: 1, step: "any" },
  { name: "max_tokens", label: "Most tokens", hint: "no limit", min: 1, max: 1_000_000, step: 1 },
  { name: "seed", label: "Seed", hint: "random", min: 0, max: 2_147_483_647, step: 1 },
  { name: "repetition_penalty", label: "Repetition penalty", hint: "1: none", min: 0.01, max: 10, step: "any" },
  { name: "presence_penalty", label: "Presence penalty", hint: "0", min: -2, max: 2, step: "any" },
  { name: "frequency_penalty", label: "Frequency penalty", hint: "0", min: -2, max: 2, step: "any" },
  { name: "stop", label: "Stop strings", hint: "one per line", kind: "strings" },
];

/** @typedef {{model: string, system: string, sampling: Object<string, number | string[]>}} Settings */

/** @returns {Settings} */
export function loadSettings() {
  const settings = { model: "", system: "", sampling: {} };
  try {
    const kept = JSON.parse(localStorage.getItem(NAME) ?? "{}");
    if (typeof kept.model === "string") settings.model = kept.model;
    if (typeof kept.system === "string") settings.system = kept.system;
    for (const { name, kind } of SAMPLING) {
      const value = kept.sampling?.[name];
      const isRight = kind === "strings" ? Array.isArray(value) && value.every((item) => typeof item === "string") : Number.isFinite(value);
      if (isRight) settings.sampling[name] = value;
    }
  } catch {
    // kept by something else under this name, or not to be read: as if there were none
  }
  return settings;
}

/** @param {Settings} settings */
export function saveSettings(settings) {
  try {
    localStorage.setItem(NAME, JSON.stringify(settings));
  } catch {
    // a browser that keeps nothing: they count until the page is closed
  }
}
