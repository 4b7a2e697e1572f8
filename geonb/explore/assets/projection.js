// UMAP beside PCA and the map: sliders choose among frames made beforehand, a lens shows the same places in all three.

const LENS = 26, MISSING = "#9aa0a6"; // pixels; other classes, and no value
const TITLES = { umap: "UMAP", pca: "PCA", map: "Map (Equal Earth)" };
const HINT = "Move over a picture, tap it, or use the arrow keys: the same places are shown in all three.";

function mount(root, D) {
  const n = D.n, world = worldMap(D.land);
  const pairs = (text) => Float32Array.from(unpack(text, Uint16Array), (v) => v / 65535); // x, y, ... in [0, 1], y down
  const frames = D.frames.map((frame) => ({ ...frame, xy: pairs(frame.xy) })), pca = pairs(D.pca.xy);
  const lonlat = pairs(D.lonlat), map = lonlat.slice();
  for (let i = 0; i < 2 * n; i += 2) map.set(project(lonlat[i] * 360 - 180, lonlat[i + 1] * 180 - 90), i);
  let shown = 0, chosen = null, pinned = false;

  const columns = D.columns.map((c) => readColumn(c, MISSING, MISSING));
  let column = columns[0] || { bin: new Uint8Array(n), colors: [D.color] };

  // ---- controls
  const bar = element("div", { class: "gv-bar" }), legend = element("div", { class: "gv-legend" });
  const sliders = D.sliders.map(({ name, values, at }) => {
    const range = { type: "range", min: 0, max: values.length - 1, value: at, autocomplete: "off", "aria-label": name };
    const input = element("input", range), value = element("b");
    bar.append(element("label", {}, element("span", {}, name + " ", value), input));
    input.oninput = choose;
    return { input, value, values };
  });
  const select = element("select", {}, ...D.columns.map((c, i) => element("option", { value: i }, c.name)));
  if (D.columns.length) bar.append(element("label", {}, "Colour", select));
  select.onchange = () => { column = columns[select.value]; paint(); };
  const readout = element("output", { class: "gv-readout", "aria-live": "polite" });
  const panels = Object.entries(TITLES).map(([kind, title]) => {
    const alt = title + ": " + D.alt, canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": alt });
    const score = element("p", { class: "gv-score" }), plot = element("div", { class: "gv-plot" }, canvas);
    const figure = element("figure", { class: "gv-" + kind }, element("figcaption", {}, title), plot);
    if (kind !== "map") figure.append(score);
    return { kind, alt, canvas, score, figure, aspect: kind === "map" ? ASPECT : 1, x: new Float32Array(n), y: new Float32Array(n), at: null };
  });
  const plots = element("div", { class: "gv-plots" }, ...panels.map((p) => p.figure));
  root.append(bar, plots, legend, readout, element("p", { class: "gv-note" }, D.note));

  function say({ alt, canvas, score }, words) {
    score.textContent = words;
    canvas.setAttribute("aria-label", alt + ". " + words);
  }

  function choose() {
    shown = 0;
    for (const { input, value, values } of sliders) {
      value.textContent = values[input.value];
      input.setAttribute("aria-valuetext", values[input.value]);
      shown = shown * values.length + Number(input.value);
    }
    say(panels[0], [frames[shown].scores, frames[shown].stable].filter(Boolean).join("\n"));
    draw();
  }

  // ---- drawing
  function paint() {
    const bins = new Set(column.bin);
    const chips = (column.names || []).map((name, b) => [b, element("span", {}, element("i", { style: "background:" + column.colors[b] }), name)]);
    legend.replaceChildren(...(column.low === undefined ? chips.filter(([b]) => bins.has(b)).map(([, chip]) => chip) : rampLegend(column)));
    draw();
  }

  function draw() {
    const style = getComputedStyle(root), lift = style.getPropertyValue("--gv-lift");
    const colors = column.colors.map((c) => typeof c === "number" ? cividis(c, lift) : c);
    paintRamp(legend, lift);
    panels.forEach((panel, k) => drawPanel(panel, [frames[shown].xy, pca, map][k], style, colors));
    root.dataset.frame = shown;
    root.dataset.chosen = chosen ? chosen.size : 0;
    root.dataset.ready = "1";
  }

  function drawPanel(panel, xy, style, colors) {
    const { canvas, x, y, aspect } = panel, r = Math.min(2, devicePixelRatio || 1), w = canvas.clientWidth, h = canvas.clientHeight;
    if (!w || !h) return;
    if (canvas.width !== Math.round(w * r)) canvas.width = Math.round(w * r);
    if (canvas.height !== Math.round(h * r)) canvas.height = Math.round(h * r);
    const g = clean(canvas, { w, h, r }), ay = Math.min((w - 16) / aspect, h - 16), ax = ay * aspect;
    const f = { ax, ay, bx: (w - ax) / 2, by: (h - ay) / 2 };
    if (panel.kind === "map") {
      g.fillStyle = style.getPropertyValue("--gv-land");
      g.beginPath(); world.rings.forEach((ring) => trace(g, f, ring, true)); g.fill("evenodd");
    }
    const side = n > 2500 ? 2.4 : 3.2, dim = style.getPropertyValue("--gv-dim");
    for (let i = 0; i < n; i++) {
      x[i] = f.bx + xy[2 * i] * ax;
      y[i] = f.by + xy[2 * i + 1] * ay;
      if (chosen && chosen.has(i)) continue;
      g.fillStyle = chosen ? dim : colors[column.bin[i]];
      g.fillRect(x[i] - side / 2, y[i] - side / 2, side, side);
    }
    for (const i of chosen || []) {
      g.fillStyle = colors[column.bin[i]];
      g.beginPath(); g.arc(x[i], y[i], side * 0.9, 0, 7); g.fill();
    }
    if (!panel.at) return;
    g.strokeStyle = style.getPropertyValue("--gv-ink");
    g.beginPath(); g.arc(panel.at[0] * w, panel.at[1] * h, LENS, 0, 7); g.stroke();
  }

  // ---- the lens: what lies under it in one picture is shown in all
  function nearby(panel, x, y) { // rows, the nearest first
    const distance = (i) => (panel.x[i] - x) ** 2 + (panel.y[i] - y) ** 2;
    return Array.from(panel.x, (_, i) => [distance(i), i]).sort((a, b) => a[0] - b[0]);
  }

  function look(panel, x, y) {
    const near = nearby(panel, x, y).filter(([d]) => d < LENS * LENS).map(([, i]) => i);
    for (const p of panels) p.at = p === panel ? [x / panel.canvas.clientWidth, y / panel.canvas.clientHeight] : null;
    chosen = near.length ? new Set(near) : null;
    const names = !D.hover ? "" : ": " + near.slice(0, 6).map((i) => D.hover[i]).filter(Boolean).join(" \u00b7 ") + (near.length > 6 ? " \u2026" : "");
    if (near.length) readout.replaceChildren(element("b", {}, near.length + " of " + n + " places"), names);
    else readout.textContent = "Nothing lies there.";
    draw();
  }

  function clear() {
    chosen = null; pinned = false;
    for (const p of panels) p.at = null;
    readout.textContent = HINT;
    draw();
  }

  for (const panel of panels) {
    const { canvas } = panel, point = (e) => { const r = canvas.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
    canvas.onpointermove = (e) => { if (e.pointerType === "mouse" && !pinned) look(panel, ...point(e)); };
    canvas.onpointerleave = (e) => { if (e.pointerType === "mouse" && !pinned) clear(); };
    canvas.onclick = (e) => {
      if (pinned && panel.at) return clear();
      look(panel, ...point(e));
      pinned = true;
    };
    canvas.onkeydown = (e) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      if (e.key === "Escape") clear();
      if (!step) return;
      e.preventDefault();
      const w = canvas.clientWidth, h = canvas.clientHeight, far = e.shiftKey ? 0.2 : 0.04;
      const first = nearby(panel, w / 2, h / 2)[0][1]; // the place nearest to the middle
      const [x, y] = panel.at || [panel.x[first] / w, panel.y[first] / h];
      pinned = true;
      look(panel, clamp(x + step[0] * far, 0, 1) * w, clamp(y + step[1] * far, 0, 1) * h);
    };
  }

  // ---- surroundings
  say(panels[1], D.pca.scores);
  new ResizeObserver(draw).observe(plots);
  onTheme(draw);
  paint();
  clear();
  choose();
}

mountAll(".gv", mount);
