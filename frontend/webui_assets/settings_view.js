// The panel at the side: system prompt and sampling. What is typed counts from the next answer on.

import { byId, h } from "./dom.js";
import { SAMPLING, saveSettings } from "./settings.js";

/**
 * @param {import("./settings.js").Settings} settings changed in place, and kept
 * @param {(system: string) => void} onSystem called with what is typed as system prompt
 */
export function installSettings(settings, onSystem) {
  const system = byId("system");
  system.addEventListener("input", () => {
    settings.system = system.value;
    saveSettings(settings);
    onSystem(system.value);
  });
  const rows = SAMPLING.map((control) => (control.kind === "strings" ? stringsRow(control, settings) : numberRow(control, settings)));
  byId("sampling").replaceChildren(...rows);
  byId("reset-sampling").addEventListener("click", () => {
    settings.sampling = {};
    saveSettings(settings);
    for (const field of byId("sampling").querySelectorAll("input, textarea")) field.value = "";
  });
  const toggle = (isOpen) => {
    document.body.classList.toggle("settings-open", isOpen);
    byId("settings-button").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) system.focus();
  };
  byId("settings-button").addEventListener("click", () => toggle(!document.body.classList.contains("settings-open")));
  byId("close-settings").addEventListener("click", () => toggle(false));
}

function numberRow({ name, label, hint, min, max, step }, settings) {
  const value = settings.sampling[name] ?? "";
  const field = h("input", { type: "number", id: `set-${name}`, min, max, step, placeholder: hint, inputMode: "decimal", value });
  field.addEventListener("input", () => {
    if (field.value && field.validity.valid) settings.sampling[name] = field.valueAsNumber;
    else delete settings.sampling[name];
    saveSettings(settings);
  });
  const title = `${name}: ${min} to ${max.toLocaleString("en")}`;
  return h("label", { title }, h("span", {}, label), field);
}

function stringsRow({ name, label, hint }, settings) {
  const field = h("textarea", { id: `set-${name}`, rows: 2, placeholder: hint, value: (settings.sampling[name] ?? []).join("\n") });
  field.addEventListener("input", () => {
    const strings = field.value.split("\n").filter(Boolean);
    if (strings.length) settings.sampling[name] = strings;
    else delete settings.sampling[name];
    saveSettings(settings);
  });
  return h("label", { title: name }, h("span", {}, label), field);
}
