"use strict";
// Curves of centiles with people among them, what changes a year, and where a person lies in every feature.
VIEWS.chart = (about, { curves, values, z, expected }, views, controls) => {
  const space = "http://www.w3.org/2000/svg", { positions, groups, probabilities, people } = about;
  const [features, names, shows] = about.axes.map((axis) => axis.values), counts = about.axes.map((axis) => axis.values.length);
  const count = positions.length, visits = people ? people.times.length : 0, most = 4, seen = 1.96;
  const unit = about.unit ? ` ${about.unit}` : "", middle = probabilities.reduce((best, p, k) =>
    Math.abs(p - .5) < Math.abs(probabilities[best] - .5) ? k : best, 0);
  const number = (array, place, feature) => array[place] === -32768 ? NaN : about.offsets[feature] + about.steps[feature] * array[place];
  const curve = (feature, part, p, group, k) =>
    number(curves, (((feature * 3 + part) * probabilities.length + p) * groups.length + group) * count + k, feature);
  const value = (feature, row) => number(values, feature * visits + row, feature);
  const kept = (feature, row) => number(expected, feature * visits + row, feature);
  const deviation = (feature, row) => z[feature * visits + row] === -32768 ? NaN : z[feature * visits + row] / 1000;
  const rows = Array.from({ length: visits }, (_, row) => row);
  const root = (row) => { while (people.before[row] >= 0) row = people.before[row]; return row; };
  const roots = rows.map(root);

  const drawn = (kind, d) => {
    const path = document.createElementNS(space, "path");
    for (const [key, text] of Object.entries({ class: kind, d, "vector-effect": "non-scaling-stroke" })) path.setAttribute(key, text);
    return path;
  };
  const ticks = (low, high) => {
    const raw = (high - low) / 7 || 1, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(8)));
    return found;
  };
  // Abramowitz and Stegun 7.1.26
  const share = (one) => {
    const x = Math.abs(one) / Math.SQRT2, t = 1 / (1 + .3275911 * x);
    const tail = t * (.254829592 + t * (-.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-x * x) / 2;
    return one < 0 ? tail : 1 - tail;
  };
  const said = (one) => { const percent = 100 * share(one);
    return percent < 1 ? "below centile 1" : percent > 99 ? "above centile 99" : `centile ${Math.round(percent)}`; };
  const described = (feature, row, change) => {
    const now = value(feature, row), where = `${names[row + 1]}, ${about.along} ${shown(people.times[row])}`;
    if (!change) return `${where}: ${shown(now)}, z ${deviation(feature, row).toFixed(2)} (${said(deviation(feature, row))})`;
    const before = people.before[row], years = people.times[row] - people.times[before], from = value(feature, before);
    return `${where}: ${shown((now - from) / years)} a${unit || " unit"}, ${shown((kept(feature, row) - from) / years)} expected`;
  };

  const panels = groups.map((heading, group) => {
    const svg = document.createElementNS(space, "svg"), marks = element("div"), tip = element("div", { className: "tip", hidden: true });
    for (const [key, text] of Object.entries({ viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" })) svg.setAttribute(key, text);
    const plot = element("div", { className: "plot" }, svg, marks, tip);
    views.append(element("figure", { className: "tracks panel" }, element("figcaption", {}, heading || "all"), plot));
    return { svg, marks, tip, plot, group, points: [] };
  });
  const axis = (panel, [x0, x1], [y0, y1], ends) => panel.marks.replaceChildren(
    ...ticks(x0, x1).map((one) => element("span", { className: "x", style: `left:${100 * (one - x0) / (x1 - x0)}%` }, String(one))),
    ...ticks(y0, y1).map((one) => element("span", { className: "y", style: `top:${100 - 100 * (one - y0) / (y1 - y0)}%` }, String(one))),
    element("span", { className: "along" }, about.along + (about.unit ? ` (${about.unit})` : "")),
    ...ends.map(([text, y]) => element("span", { className: "end", style: `top:${y}%` }, text)));
  const nearest = (panel, event) => {
    const box = panel.svg.getBoundingClientRect();
    let best = null, least = 20 ** 2;
    for (const [x, y, row] of panel.points) {
      const far = ((x / 100) * box.width - event.clientX + box.left) ** 2 + ((y / 100) * box.height - event.clientY + box.top) ** 2;
      if (far < least) { least = far; best = [x, y, row]; }
    }
    return best;
  };
  let feature = 0, chosen = -1, change = false;
  const select = (place, index) => {
    const own = controls.querySelectorAll("select")[place];
    own.selectedIndex = index; own.dispatchEvent(new Event("change"));
  };
  for (const panel of panels) {
    panel.svg.addEventListener("pointermove", (event) => {
      const found = nearest(panel, event);
      panel.tip.hidden = !found;
      if (!found) return;
      panel.tip.textContent = described(feature, found[2], change);
      panel.tip.style[found[0] > 50 ? "right" : "left"] = `${found[0] > 50 ? 100 - found[0] : found[0]}%`;
      panel.tip.style[found[0] > 50 ? "left" : "right"] = "auto";
      panel.tip.style.top = `${found[1]}%`;
    });
    panel.svg.addEventListener("pointerleave", () => { panel.tip.hidden = true; });
    panel.svg.addEventListener("click", (event) => { const found = nearest(panel, event); if (found) select(1, found[2] + 1); });
  }

  const line = (points, x, y) => points.filter((one) => Number.isFinite(one[1]))
    .map(([a, b], k) => `${k ? "L" : "M"}${x(a).toFixed(2)},${y(b).toFixed(2)}`).join("");
  const dots = (points) => points.map(([a, b]) => `M${a.toFixed(2)},${b.toFixed(2)}h0`).join("");
  const scales = ([x0, x1], [y0, y1]) => [(one) => 100 * (one - x0) / ((x1 - x0) || 1),
    (one) => Math.max(-.5, Math.min(100.5, 100 - 100 * (one - y0) / ((y1 - y0) || 1)))];
  const wide = ([low, high]) => { const room = .03 * (high - low) || 1; return [low - room, high + room]; };
  const times = people ? people.times : [], across = wide([Math.min(positions[0], ...times), Math.max(positions[count - 1], ...times)]);

  const sizes = () => {
    const up = wide(about.spans[feature]), [x, y] = scales(across, up);
    for (const panel of panels) {
      const own = rows.filter((row) => people.groups[row] === panel.group && Number.isFinite(value(feature, row)));
      const at = (row) => [x(people.times[row]), y(value(feature, row))];
      const edge = (p, part) => positions.map((one, k) => [one, curve(feature, part, p, panel.group, k)]);
      const mine = own.filter((row) => chosen >= 0 && roots[row] === roots[chosen]);
      const step = (row) => line([people.before[row], row].map((one) => [people.times[one], value(feature, one)]), x, y);
      const later = (all) => all.filter((row) => people.before[row] >= 0 && people.groups[people.before[row]] === panel.group);
      panel.points = own.map((row) => [...at(row), row]);
      panel.svg.replaceChildren(
        ...probabilities.map((_, p) => drawn("band", `${line([...edge(p, 1), ...edge(p, 2).reverse()], x, y)}Z`)),
        drawn("step", later(own).map(step).join("")), drawn("person", dots(own.map(at))),
        ...probabilities.map((_, p) => drawn(p === middle ? "centile mean" : "centile", line(edge(p, 0), x, y))),
        drawn("mine", later(mine).map(step).join("")),
        drawn("kept", later(mine).map((row) => line([[people.times[people.before[row]], value(feature, people.before[row])],
          [people.times[row], kept(feature, row)]], x, y)).join("")),
        drawn("own", dots(mine.map(at))), drawn("own now", dots(mine.filter((row) => row === chosen).map(at))));
      axis(panel, across, up, probabilities.map((p, k) => [`${Number((100 * p).toPrecision(6))}`, y(curve(feature, 0, k, panel.group, count - 1))]));
      panel.svg.setAttribute("aria-label", `${features[feature]} over ${about.along}${about.unit ? ` (${about.unit})` : ""}, ${groups[panel.group] || "all"}: median ` +
        `${shown(curve(feature, 0, middle, panel.group, 0))} at ${shown(positions[0])}, ${shown(curve(feature, 0, middle, panel.group, count - 1))} at ${shown(positions[count - 1])}; ${own.length} visits of people`);
    }
  };
  const changes = () => {
    const rate = (row, to) => (to - value(feature, people.before[row])) / (people.times[row] - people.times[people.before[row]]);
    const steps = rows.filter((row) => people.before[row] >= 0 && people.groups[people.before[row]] === people.groups[row] && people.times[row] > people.times[people.before[row]] && Number.isFinite(rate(row, value(feature, row))));
    const between = (row) => (people.times[row] + people.times[people.before[row]]) / 2;
    const slope = (group) => positions.slice(1).map((one, k) => [(one + positions[k]) / 2,
      (curve(feature, 0, middle, group, k + 1) - curve(feature, 0, middle, group, k)) / (one - positions[k])]);
    const all = [...groups.flatMap((_, group) => slope(group).map((one) => one[1])), ...steps.map((row) => rate(row, value(feature, row)))].filter(Number.isFinite);
    const up = wide([Math.min(0, ...all), Math.max(0, ...all)]), [x, y] = scales(across, up);
    for (const panel of panels) {
      const own = steps.filter((row) => people.groups[row] === panel.group), mine = own.filter((row) => chosen >= 0 && roots[row] === roots[chosen]);
      const at = (row) => [x(between(row)), y(rate(row, value(feature, row)))];
      panel.points = own.map((row) => [...at(row), row]);
      panel.svg.replaceChildren(drawn("zero", `M0,${y(0)}H100`), drawn("person", dots(own.map(at))),
        drawn("centile mean", line(slope(panel.group), x, y)),
        drawn("kept", mine.map((row) => line([[between(row), rate(row, value(feature, row))], [between(row), rate(row, kept(feature, row))]], x, y)).join("")),
        drawn("own", dots(mine.map(at))));
      axis(panel, across, up, []);
      panel.svg.setAttribute("aria-label", `${features[feature]}: change a${unit || " unit"} over ${about.along}, ${groups[panel.group] || "all"}: the median's, and that of ${own.length} pairs of visits`);
    }
  };

  const profile = element("div", { className: "profile" });
  views.after(profile);
  let listed = -1;
  const list = () => {
    if (listed === chosen) return;
    listed = chosen;
    if (chosen < 0) { profile.replaceChildren(); return; }
    const all = features.map((_, k) => [k, deviation(k, chosen)]);
    const known = all.filter((one) => Number.isFinite(one[1])).sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
    const body = known.map(([k, one]) => {
      const svg = document.createElementNS(space, "svg"), bar = document.createElementNS(space, "rect"), zero = document.createElementNS(space, "line");
      const width = 50 * Math.min(Math.abs(one), most) / most;
      for (const [key, text] of Object.entries({ class: "zero", x1: "50%", x2: "50%", y1: 0, y2: 22 })) zero.setAttribute(key, text);
      for (const [key, text] of Object.entries({ class: Math.abs(one) > seen ? "bar far" : "bar", x: `${one < 0 ? 50 - width : 50}%`, width: `${width}%`, y: 4, height: 14 })) bar.setAttribute(key, text);
      svg.setAttribute("height", 22); svg.setAttribute("aria-hidden", "true"); svg.append(zero, bar);
      const name = element("button", { type: "button", className: "link", onclick: () => select(0, k) }, features[k]);
      return element("tr", {}, element("th", { scope: "row" }, name), element("td", { className: "strip" }, svg), element("td", {}, one.toFixed(2)));
    });
    const far = known.filter((one) => Math.abs(one[1]) > seen).length, missing = features.length - known.length;
    const caption = `Where ${names[chosen + 1]} lies in every feature: z, the most unusual first; strips end at ${most}. Beyond ${seen}: ${far} of ${known.length}` +
      ` (${shown(.05 * known.length)} expected by chance)${missing ? `; ${missing} features say nothing` : ""}.`;
    profile.replaceChildren(element("table", { className: "chart" }, element("caption", {}, caption), element("tbody", {}, ...body)));
  };

  return (place) => {
    change = counts.length > 2 && place % counts[2] === 1;
    const rest = counts.length > 2 ? Math.floor(place / counts[2]) : place;
    [feature, chosen] = [Math.floor(rest / counts[1]), rest % counts[1] - 1];
    for (const panel of panels) panel.tip.hidden = true;
    list();
    if (!about.spans[feature].length) {
      for (const panel of panels) { panel.svg.replaceChildren(); panel.marks.replaceChildren(); panel.points = []; }
      return [`${features[feature]}: the model says nothing of it.`, ""];
    }
    (change ? changes : sizes)();
    const known = chosen >= 0 && Number.isFinite(value(feature, chosen));
    const own = chosen < 0 ? "" : !known ? ` ${names[chosen + 1]}: no value.` : ` ${described(feature, chosen, false)}.`;
    const before = known ? people.before[chosen] : -1;
    const then = before < 0 || !Number.isFinite(kept(feature, chosen)) ? "" :
      ` ${shown(value(feature, before))} at ${shown(people.times[before])}, then ${shown(kept(feature, chosen))} expected.`;
    const what = change ? `${features[feature]}: change a${unit || " unit"}; the line is the median's.` : `${features[feature]}.`;
    const out = known && (people.times[chosen] < positions[0] - 1e-9 || people.times[chosen] > positions[count - 1] + 1e-9);
    const less = about.left_out && chosen < 0 ? ` ${about.left_out} visits are left out to keep the page small.` : "";
    return [`${what}${own}${then}${less}`, out ? `Outside training: ${about.along} was ${shown(positions[0])} to ${shown(positions[count - 1])}.` : ""];
  };
};
