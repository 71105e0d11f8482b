"use strict";
VIEWS.features = (about, arrays, views) => {
  const { names } = about, { changes } = arrays, most = changes.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
  const space = "http://www.w3.org/2000/svg", rows = names.map((name) => {
    const svg = document.createElementNS(space, "svg"), bar = document.createElementNS(space, "rect");
    const zero = document.createElementNS(space, "line");
    for (const [key, value] of Object.entries({ class: "zero", x1: "50%", x2: "50%", y1: 0, y2: 22 })) zero.setAttribute(key, value);
    svg.setAttribute("height", 22); svg.setAttribute("aria-hidden", "true");
    bar.setAttribute("class", "bar"); bar.setAttribute("y", 4); bar.setAttribute("height", 14);
    svg.append(zero, bar);
    const figure = element("td");
    return { bar, figure, row: element("tr", {}, element("th", { scope: "row" }, name), element("td", { className: "strip" }, svg), figure) };
  });
  const caption = element("caption", {}, `change, in standard deviations; the strip ends at ${shown(most)}`);
  const table = element("table", { className: "chart" }, caption, element("tbody", {}, ...rows.map((one) => one.row)));
  views.style.display = "block";
  views.append(table);
  return (number) => rows.forEach(({ bar, figure }, k) => {
    const value = changes[number * names.length + k], width = 50 * Math.abs(value) / most;
    bar.setAttribute("x", `${value < 0 ? 50 - width : 50}%`); bar.setAttribute("width", `${width}%`);
    figure.textContent = shown(value);
  });
};
