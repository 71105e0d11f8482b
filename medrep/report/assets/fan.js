"use strict";
// A person's visits, and the bands in which a further one is expected, up to the chosen time.
VIEWS.fan = (about, { fans }, views) => {
  const space = "http://www.w3.org/2000/svg", [, features, years] = about.axes.map((axis) => axis.values);
  const svg = document.createElementNS(space, "svg"), caption = element("figcaption");
  for (const [key, value] of Object.entries({ viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" })) svg.setAttribute(key, value);
  views.style.display = "block";
  views.append(element("figure", { className: "tracks fan" }, svg, caption));
  const drawn = (kind, d) => {
    const path = document.createElementNS(space, "path");
    for (const [key, value] of Object.entries({ class: kind, d, "vector-effect": "non-scaling-stroke" })) path.setAttribute(key, value);
    return path;
  };
  return (number) => {
    const year = number % years.length, feature = Math.floor(number / years.length) % features.length;
    const person = Math.floor(number / years.length / features.length), { times, values, switched } = about.people[person];
    const at = (k, part) => fans[((person * features.length + feature) * years.length + k) * 4 + part];
    const seen = times.map((time, k) => [time, values[feature][k]]).filter(([, value]) => value !== null);
    const last = times[times.length - 1], every = years.map((_, k) => k), shownYears = every.filter((k) => k <= year);
    const ys = [...seen.map(([, value]) => value), ...every.flatMap((k) => [at(k, 0) - at(k, 3), at(k, 0) + at(k, 3)])].filter(Number.isFinite);
    const [low, high] = [Math.min(...ys), Math.max(...ys)], span = (high - low) || 1, first = times[0], end = last + years[years.length - 1];
    const x = (time) => (2 + 96 * (time - first) / ((end - first) || 1)).toFixed(2);
    const y = (value) => Math.max(-100, Math.min(200, 96 - 92 * (value - low) / span)).toFixed(2);
    const line = (points) => points.map(([time, value], k) => `${k ? "L" : "M"}${x(time)},${y(value)}`).join("");
    const band = (part) => {
      const edge = (side) => shownYears.map((k) => [last + years[k], at(k, 0) + side * at(k, part)]);
      return drawn(`band b${part}`, `${line([...edge(1), ...edge(-1).reverse()])}Z`);
    };
    const steps = times.slice(1).map((time, k) => [k, k + 1].every((one) => values[feature][one] !== null)
      ? drawn(switched[k] ? "marked" : "", line([[times[k], values[feature][k]], [time, values[feature][k + 1]]])) : null).filter(Boolean);
    const known = Number.isFinite(at(year, 0)), now = last + years[year];
    svg.replaceChildren(...(known ? [3, 2, 1].map(band) : []),
      ...(known ? [drawn("mean", line(shownYears.map((k) => [last + years[k], at(k, 0)])))] : []),
      ...steps, ...seen.map((one) => drawn("visit", `${line([one])}h0`)), drawn("now", `M${x(now)},0V100`));
    const unit = about.unit ? ` ${about.unit}` : "", ends = (part) => Number.isFinite(at(year, part))
      ? `${shown(at(year, 0) - at(year, part))} to ${shown(at(year, 0) + at(year, part))}` : "anywhere";
    const said = known ? `${features[feature]}, ${shown(years[year])}${unit} after the last visit (${about.time} ${shown(now)}): ` +
      `${shown(at(year, 0))} expected; 50 % of visits ${ends(1)}, 80 % ${ends(2)}, 95 % ${ends(3)}.` : `${features[feature]}: nothing can be said of this person.`;
    caption.textContent = `${features[feature]}: ${shown(low)} to ${shown(high)}, ${about.time} ${shown(first)} to ${shown(end)} from left to right; ` +
      `a dot a visit, orange where the person changed scanners, bands of 50, 80 and 95 %`;
    svg.setAttribute("aria-label", said);
    const beyond = about.range.length && now > about.range[1] + 1e-9;
    return [said, beyond ? `Outside training: ${about.time} was ${shown(about.range[0])} to ${shown(about.range[1])}; the model guesses.` : ""];
  };
};
