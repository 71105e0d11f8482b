"use strict";
// What all sliders share: unpacking numbers, one control a covariate, and telling where the person stands.
const VIEWS = {};
const TYPES = { uint8: Uint8Array, int8: Int8Array, int16: Int16Array, uint32: Uint32Array, float32: Float32Array };

async function unpacked(text, arrays) {
  const letters = atob(text), packed = new Uint8Array(letters.length);
  for (let k = 0; k < letters.length; k++) packed[k] = letters.charCodeAt(k);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const whole = await new Response(stream).arrayBuffer(), found = {};
  let from = 0;
  for (const { name, type, shape } of arrays) {
    const bytes = shape.reduce((a, b) => a * b, TYPES[type].BYTES_PER_ELEMENT);
    found[name] = new TYPES[type](whole.slice(from, from + bytes));
    from += bytes;
  }
  return found;
}

function element(kind, options = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(options)) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const shown = (value) => typeof value === "number" ? String(Number(value.toPrecision(3))) : value;

function control(axis, changed) {
  const name = axis.name + (axis.unit ? ` (${axis.unit})` : "");
  if (axis.low === null) {
    const select = element("select", { onchange: () => changed(select.selectedIndex) },
      ...axis.values.map((value, k) => element("option", { selected: k === axis.own }, value + (k === axis.own && !axis.plain ? " - own" : ""))));
    return { node: element("label", {}, `${name} `, select), set: (k) => { select.selectedIndex = k; } };
  }
  const first = axis.values[0], last = axis.values[axis.values.length - 1];
  const at = (value) => `${100 * (value - first) / (last - first)}%`;
  const text = element("output", {}), range = element("input", { type: "range", min: 0, max: axis.values.length - 1, step: 1,
    value: axis.own, "aria-label": name, oninput: () => { tell(); changed(Number(range.value)); } });
  const tell = () => {
    const value = axis.values[range.value];
    text.textContent = shown(value) + (Number(range.value) === axis.own && !axis.plain ? " (own)" : "");
    range.setAttribute("aria-valuetext", `${shown(value)} ${axis.unit}`);
  };
  const track = element("div", { className: "track", "aria-hidden": "true" });
  for (const [left, right] of [[first, axis.low], [axis.high, last]]) {
    const part = element("i"); part.style.left = at(left); part.style.right = `calc(100% - ${at(right)})`; track.append(part);
  }
  const own = element("b"); own.style.left = at(axis.values[axis.own]); if (!axis.plain) track.append(own);
  tell();
  return { node: element("div", {}, element("label", {}, `${name}: `, text, range), track),
    set: (k) => { range.value = k; tell(); } };
}

function told(axes, places) {
  const outside = axes.filter((axis, k) => axis.low !== null &&
    (axis.values[places[k]] < axis.low - 1e-9 || axis.values[places[k]] > axis.high + 1e-9));
  const moved = axes.flatMap((axis, k) => places[k] === axis.own ? [] :
    [`${axis.name} ${shown(axis.values[axis.own])} to ${shown(axis.values[places[k]])}`]);
  const parts = [moved.length ? `Moved: ${moved.join(", ")}.` : "As the person is."];
  return [parts.join(" "), outside.map((axis) =>
    `Outside training: ${axis.name} was ${shown(axis.low)} to ${shown(axis.high)}.`).join(" ")];
}

async function startSlider(root) {
  const about = JSON.parse(root.querySelector(".about").textContent);
  const arrays = await unpacked(root.querySelector(".payload").textContent, about.arrays);
  const places = about.axes.map((axis) => axis.own);
  const said = root.querySelector(".said"), views = root.querySelector(".views"), controls = root.querySelector(".controls");
  const view = VIEWS[about.kind](about, arrays, views, controls);
  const draw = () => {
    const own = view(places.reduce((whole, place, k) => whole * about.axes[k].values.length + place, 0));
    const [moved, outside] = own || told(about.axes, places);
    said.replaceChildren(moved, ...(outside ? [" ", element("span", { className: "outside" }, outside)] : []));
  };
  const made = about.axes.map((axis, k) => control(axis, (place) => { places[k] = place; draw(); }));
  const back = element("button", { type: "button", onclick: () => {
    about.axes.forEach((axis, k) => { places[k] = axis.own; made[k].set(axis.own); }); draw(); } }, about.back || "Back to the person");
  controls.prepend(...made.map((one) => one.node));
  controls.append(element("div", {}, back));
  draw();
  root.dataset.ready = "1";
}

// Blue for less, white for nothing, red for more: told apart by everybody.
function diverging(share) {
  const s = Math.max(-1, Math.min(1, share)), a = Math.abs(s);
  const end = s < 0 ? [33, 102, 172] : [178, 24, 43];
  return end.map((to) => 247 + (to - 247) * a);
}

function legend(most, unit) {
  const canvas = element("canvas", { width: 128, height: 1 }), pen = canvas.getContext("2d");
  for (let k = 0; k < 128; k++) { pen.fillStyle = `rgb(${diverging(k / 63.5 - 1).join()})`; pen.fillRect(k, 0, 1, 1); }
  canvas.setAttribute("aria-hidden", "true");
  return element("div", { className: "legend" }, `-${shown(most)}`, canvas, `+${shown(most)} ${unit}`);
}

addEventListener("DOMContentLoaded", () => document.querySelectorAll(".slider").forEach((root) =>
  startSlider(root).catch((problem) => {
    root.querySelector(".said").textContent = `The slider cannot be shown here: ${problem.message}`; root.dataset.ready = "failed"; })));
