// Making DOM nodes. Text becomes text and nothing else: no function of this page makes markup of a string.

const SVG = "http://www.w3.org/2000/svg";

/** Outlines on a grid of 24. */
const ICONS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V6M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v10H9zM5 15V5h10",
  check: "M5 13l4 4L19 7",
  refresh: "M20 11a8 8 0 1 0-2.3 6M20 5v6h-6",
  pencil: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v13M6 12l6 6 6-6",
  chart: "M4 20h16M7 16v-5M12 16V6M17 16v-8",
  chat: "M5 5h14v11H11l-4 4v-4H5z",
  key: "M15.5 12.5a4 4 0 1 0-4-4c0 .5.1 1 .3 1.5L4 18v2h3v-2h2v-2h2l1.5-1.7c.6.1 1.2.2 2 .2zM16 8h.01",
  sliders: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1 1M17.4 17.4l1 1M5.6 18.4l1-1M17.4 6.6l1-1",
  moon: "M19 14.5A7.5 7.5 0 0 1 9.5 5 7.5 7.5 0 1 0 19 14.5z",
  screen: "M4 5h16v11H4zM9 20h6M12 16v4",
};

/**
 * @param {string} tag
 * @param {object} [props] properties of the node; `on…` functions listen, `aria-…`, `data-…`, `role` and `for` are attributes
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (/^(aria-|data-|role$|for$)/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child || child === ""));
  return node;
}

/**
 * @param {keyof ICONS} name
 * @returns {SVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Draw the icons of nodes that the page itself has, by their `data-icon`. */
export function drawIcons() {
  for (const node of document.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
}

/** A button with an icon, and a name for those who do not see it. */
export function iconButton(name, label, onclick, props = {}) {
  return h("button", { type: "button", className: "icon-button", title: label, "aria-label": label, onclick, ...props }, icon(name));
}

/** A button that copies what `text()` gives and says so for a moment. */
export function copyButton(text, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    const isDone = await copied(text());
    button.replaceChildren(icon(isDone ? "check" : "close"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1200);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedBySelection(text); // the clipboard object is for https and localhost alone
  }
}

function copiedBySelection(text) {
  const area = h("textarea", { value: text, className: "offscreen" });
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  return isDone;
}

/** @returns {boolean} whether a key belongs to an input method, which Safari says by its code alone */
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** @returns {HTMLElement} the node with this id, which the page has */
export function byId(id) {
  return document.getElementById(id);
}
