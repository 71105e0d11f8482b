"use strict";
VIEWS.volume = (about, arrays, views, controls) => {
  const { shape, coarse, edges, low, high, step } = about, { base, changes } = arrays;
  const cells = coarse[0] * coarse[1] * coarse[2], grey = 255 * step / (high - low), most = 127 * step;
  const sides = [[1, 2, "sagittal"], [0, 2, "coronal"], [0, 1, "axial"]];
  const planes = sides.map(([across, up, name], fixed) => {
    const canvas = element("canvas", { width: shape[across], height: shape[up], role: "img", "aria-label": `${name} slice` });
    canvas.style.aspectRatio = `${shape[across] * edges[across]} / ${shape[up] * edges[up]}`;
    const range = element("input", { type: "range", min: 0, max: shape[fixed] - 1, value: shape[fixed] >> 1,
      "aria-label": `${name} slice`, oninput: () => paint() });
    views.append(element("div", {}, canvas, element("label", {}, `${name} `, range)));
    return { canvas, range, fixed, across, up };
  });
  const colour = element("input", { type: "checkbox", checked: true, onchange: () => paint() });
  controls.append(element("label", {}, colour, " difference in colour"), legend(most, "intensity"));
  // Where each voxel lies among the coarser ones of a change: two neighbours and how near the second is.
  const taps = shape.map((length, axis) => Array.from({ length }, (_, k) => {
    const place = Math.max(0, Math.min(coarse[axis] - 1, (k + 0.5) * coarse[axis] / length - 0.5)), left = Math.floor(place);
    return [left, Math.min(left + 1, coarse[axis] - 1), place - left];
  }));
  let start = 0;
  const change = (index) => {
    let sum = 0;
    const [x, y, z] = index.map((k, axis) => taps[axis][k]);
    for (const [i, wx] of [[x[0], 1 - x[2]], [x[1], x[2]]]) if (wx) {
      for (const [j, wy] of [[y[0], 1 - y[2]], [y[1], y[2]]]) if (wy) {
        const line = start + (i * coarse[1] + j) * coarse[2];
        sum += wx * wy * ((1 - z[2]) * changes[line + z[0]] + z[2] * changes[line + z[1]]);
      }
    }
    return sum;
  };
  const paint = () => planes.forEach(({ canvas, range, fixed, across, up }) => {
    const pen = canvas.getContext("2d"), image = pen.createImageData(canvas.width, canvas.height), index = [0, 0, 0];
    index[fixed] = Number(range.value);
    for (let row = 0; row < canvas.height; row++) {
      index[up] = canvas.height - 1 - row;
      for (let column = 0; column < canvas.width; column++) {
        index[across] = column;
        const moved = change(index), voxel = (index[0] * shape[1] + index[1]) * shape[2] + index[2];
        const value = Math.max(0, Math.min(255, base[voxel] + moved * grey)), share = moved / 127;
        const alpha = colour.checked ? Math.min(1, 1.6 * Math.abs(share)) : 0, tint = diverging(share > 0 ? 0.35 + 0.65 * share : -0.35 + 0.65 * share);
        const at = 4 * (row * canvas.width + column);
        for (let c = 0; c < 3; c++) image.data[at + c] = value * (1 - alpha) + tint[c] * alpha;
        image.data[at + 3] = 255;
      }
    }
    pen.putImageData(image, 0, 0);
  });
  return (number) => { start = number * cells; paint(); };
};
