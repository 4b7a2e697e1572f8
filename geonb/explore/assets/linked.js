// Linked map and embedding: select in one, see the other. One data block per view, no dependencies, no network.
(function () {
  "use strict";

  const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
  const LIGHT = [130, 184, 255], STEPS = 64, STEP = 0.025, MOST_ZOOM = 64;
  const CROWD = 60000; // more places than this in one picture are drawn as a density
  const TABLE_ROWS = 100, STRIP = 16, PAD = 8, TOUCH_REACH = 24, REACH = 14;
  const HELP = "Arrow keys move the cursor, Space inspects the place under it. Enter starts a box, or with Lasso an outline that follows " +
    "the cursor; Enter again ends it; Shift and Enter adds one more. Shift with arrow keys draws a box at once. Plus and minus zoom, 0 shows " +
    "everything, Escape clears the selection. The selection can be read as a table below.";
  let serial = 1;

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }
  const unpack = (text, Type) => new Type(bytes(text).buffer);

  async function inflate(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const button = (attributes, text, act) => {
    const node = element("button", { type: "button", ...attributes }, text);
    node.onclick = act;
    return node;
  };

  function link(address, words) { // an https address becomes a link, anything else stays text
    let url = null;
    try { url = new URL(address); } catch { /* no address */ }
    if (!url || url.protocol !== "https:" || url.username || url.password) return element("span", {}, words || address);
    const shown = words || (url.hostname + url.pathname).slice(0, 60);
    return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, shown);
  }

  const whole = (v) => v.toLocaleString("en");
  const number = (v) => Math.abs(v) >= 1000 ? whole(Math.round(v)) : String(+v.toPrecision(3));
  const degrees = (v, signs) => Math.abs(v).toFixed(2) + "\u00b0 " + signs[v < 0 ? 1 : 0];
  const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
  const order = new Intl.Collator("en", { numeric: true }).compare;

  // A cell of a CSV file; text that a spreadsheet would run as a formula is defused by an apostrophe.
  function cell(value) {
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }

  // ---- the map: Equal Earth (Savric, Patterson and Jenny, 2018), degrees -> [0, 1] x [0, 1], y down
  const A1 = 1.340264, A2 = -0.081106, A3 = 0.000893, A4 = 0.003796, M = Math.sqrt(3) / 2, XMAX = 2.7066299837, YMAX = 1.3173627592;
  function equalEarth(lon, lat) {
    const t = Math.asin(M * Math.sin(lat * Math.PI / 180)), t2 = t * t, t6 = t2 * t2 * t2;
    const x = lon * Math.PI / 180 * Math.cos(t) / (M * (A1 + 3 * A2 * t2 + t6 * (7 * A3 + 9 * A4 * t2)));
    const y = t * (A1 + A2 * t2 + t6 * (A3 + A4 * t2));
    return [(x / XMAX + 1) / 2, (1 - y / YMAX) / 2];
  }

  function outlines(land) { // flat Int16 tenths of degrees, rings separated by 32767 -> list of flat unit coordinates
    const rings = [[]];
    for (let i = 0; i < land.length;) {
      if (land[i] === 32767) { rings.push([]); i++; continue; }
      rings[rings.length - 1].push(...equalEarth(land[i] / 10, land[i + 1] / 10));
      i += 2;
    }
    return rings;
  }

  function graticule() { // every 30 degrees
    const lines = [];
    for (let lon = -150; lon < 180; lon += 30) lines.push(meridian(lon));
    for (let lat = -60; lat < 90; lat += 30) lines.push([...equalEarth(-180, lat), ...equalEarth(180, lat)]);
    return lines;
  }

  function meridian(lon, down) {
    const line = [];
    for (let lat = -90; lat <= 90; lat += 3) line.push(...equalEarth(lon, down ? -lat : lat));
    return line;
  }

  // ---- colour
  const hex = (c) => [1, 3, 5].map((i) => parseInt(c.length < 7 ? c[(i + 1) / 2].repeat(2) : c.slice(i, i + 2), 16));
  function ramp(t, lift) { // [0, 1] -> cividis; on a dark ground (lift > 0) its dark end is mixed with light blue
    const s = t * (CIVIDIS.length - 1), k = Math.min(CIVIDIS.length - 2, Math.floor(s)), f = s - k, m = lift * (1 - t);
    const a = hex(CIVIDIS[k]), b = hex(CIVIDIS[k + 1]);
    return a.map((v, i) => Math.round((v * (1 - f) + b[i] * f) * (1 - m) + LIGHT[i] * m));
  }

  // A column ready to draw: bin and value of each place, colour and name of each bin.
  function readColumn(c, n) {
    const bin = new Uint8Array(n), unit = c.units ? " " + c.units : "";
    if (c.kind === "categories") {
      const code = unpack(c.data, c.type === "u1" ? Uint8Array : Uint16Array), none = c.type === "u1" ? 255 : 65535;
      const known = c.colors.length, unknown = known + 1;
      for (let k = 0; k < n; k++) bin[k] = code[k] === none ? unknown : Math.min(code[k], known);
      const text = (k) => code[k] === none ? "unknown" : c.labels[code[k]];
      return { bin, names: c.labels.slice(0, known).concat(["other", "unknown"]), colors: c.colors.concat(["--gl-other", "--gl-none"]),
        text, raw: (k) => code[k] === none ? "" : text(k), compare: (a, b) => order(text(a), text(b)) };
    }
    const value = new Float64Array(n), packed = unpack(c.data, c.type === "u2" ? Uint16Array : Float32Array);
    for (let k = 0; k < n; k++) value[k] = c.type !== "u2" ? packed[k] : packed[k] === 65535 ? NaN : (packed[k] + c.offset) / c.scale;
    const f = c.log ? Math.log : (v) => v, low = f(c.low), span = f(c.high) - low || 1;
    for (let k = 0; k < n; k++) bin[k] = Number.isNaN(value[k]) ? STEPS : Math.round(clamp((f(value[k]) - low) / span, 0, 1) * (STEPS - 1));
    const colors = Array.from({ length: STEPS }, (_, b) => b / (STEPS - 1)).concat(["--gl-none"]); // numbers: along the ramp
    return { bin, colors, text: (k) => Number.isNaN(value[k]) ? "no value" : number(value[k]) + unit,
      raw: (k) => Number.isNaN(value[k]) ? "" : c.type === "u2" ? value[k] : +value[k].toPrecision(7),
      compare: (a, b) => value[a] - value[b] || Number.isNaN(value[a]) - Number.isNaN(value[b]) };
  }

  // ---- dots: discs with soft edges, prepared for 16 positions of their centre within a pixel
  const stamps = new Map();
  function stampsOf(radius, strength) {
    const key = Math.round(radius * 10) + "/" + strength;
    if (!stamps.has(key)) {
      const m = Math.ceil(radius + 0.5), all = [];
      for (let s = 0; s < 16; s++) {
        const fx = (s % 4) / 4 + 0.125, fy = (s >> 2) / 4 + 0.125, one = [];
        for (let dy = -m; dy <= m; dy++) for (let dx = -m; dx <= m; dx++) {
          const a = Math.round(255 * strength * clamp(radius + 0.5 - Math.hypot(dx + 0.5 - fx, dy + 0.5 - fy), 0, 1));
          if (a) one.push(dx, dy, a);
        }
        all.push(Int32Array.from(one));
      }
      stamps.set(key, { m, all });
    }
    return stamps.get(key);
  }

  function stamp(pixels, W, H, shapes, x, y, color) { // colours and pixels are whole numbers: alpha, blue, green, red
    const ix = Math.floor(x), iy = Math.floor(y), one = shapes[((x - ix) * 4 | 0) + 4 * ((y - iy) * 4 | 0)];
    const r = color & 255, g = (color >> 8) & 255, b = color >> 16;
    for (let i = 0; i < one.length; i += 3) {
      const px = ix + one[i], py = iy + one[i + 1];
      if (px < 0 || py < 0 || px >= W || py >= H) continue;
      const at = py * W + px, old = pixels[at], a = one[i + 2], was = old >>> 24;
      if (was === 0 || a === 255) { pixels[at] = (a << 24) | color; continue; }
      const alpha = a + ((was * (255 - a) * 257 + 257) >> 16), w = ((a << 8) / alpha) | 0;
      const red = old & 255, green = (old >> 8) & 255, blue = (old >> 16) & 255;
      pixels[at] = (alpha << 24) | ((blue + ((b - blue) * w >> 8)) << 16) | ((green + ((g - green) * w >> 8)) << 8) | (red + ((r - red) * w >> 8));
    }
  }

  function mount(root) {
    const D = JSON.parse(root.querySelector("script").textContent), n = D.n;
    while (document.getElementById("gl" + serial)) serial++;
    const id = "gl" + serial;
    const lon = unpack(D.lon, Uint16Array), lat = unpack(D.lat, Uint16Array);
    const lonOf = (k) => lon[k] / 65535 * 360 - 180, latOf = (k) => lat[k] / 65535 * 180 - 90;
    const nameOf = (k) => D.hover && D.hover[k] || "Place " + (k + 1);
    const views = [
      { x: Float32Array.from(unpack(D.u, Uint16Array), (v) => v / 65535), y: Float32Array.from(unpack(D.v, Uint16Array), (v) => 1 - v / 65535), aspect: D.aspect },
      { x: new Float32Array(n), y: new Float32Array(n), aspect: XMAX / YMAX, land: outlines(unpack(D.land, Int16Array)), lines: graticule(),
        edge: meridian(-180).concat(meridian(180, true)) },
    ];
    for (let k = 0; k < n; k++) [views[1].x[k], views[1].y[k]] = equalEarth(lonOf(k), latOf(k));

    const PLAIN = { bin: new Uint8Array(n), colors: [D.color], text: () => "" };
    const columns = [], hidden = new Set();
    const mark = new Uint8Array(n).fill(2); // 0: its class is hidden, 1: shown, 2: shown and selected
    const base = new Uint8Array(n), inside = new Uint8Array(n); // in an earlier shape, in the last one
    let column = PLAIN, rows = Uint32Array.from(base, (_, k) => k), shapes = [], count = n;
    let near = -1, chosen = -1, cursor = null, tracing = false, about = null, sort = { by: 0, down: false };

    // ---- structure
    const status = element("output", { class: "gl-status", "aria-live": "polite" });
    status.style.setProperty("--gl-wide", 2 * whole(n).length + 10 + "ch"); // room for every count, so that nothing moves
    const readout = element("output", { class: "gl-readout", "aria-live": "polite" });
    const legend = element("div", { class: "gl-legend", role: "group", "aria-label": "Legend" });
    const choice = element("select", {});
    D.columns.forEach((c) => choice.append(element("option", {}, c.name)));
    const coarse = matchMedia("(pointer: coarse)").matches;
    const tools = element("fieldset", { class: "gl-tools" }, element("legend", { class: "gl-hidden" }, "What dragging does"));
    let tool = coarse ? "explore" : "box";
    for (const [value, words, title] of [["explore", "Explore", "Move the picture; on a touch screen one finger scrolls the page and two move the picture"],
      ["box", "Box", "Drag a box to select"], ["lasso", "Lasso", "Draw around what to select"]]) {
      const radio = element("input", { type: "radio", name: id + "tool", value });
      radio.checked = value === tool;
      radio.onchange = () => { tool = value; tracing = false; root.dataset.tool = tool; root.classList.toggle("gl-brushing", tool !== "explore"); hint(); };
      tools.append(element("label", { title }, radio, element("span", {}, words)));
    }
    root.dataset.tool = tool;
    const clearButton = button({}, "Clear", clear), zoomButton = button({ title: "Zoom both pictures to the selection" }, "Zoom to it", zoomToSelection);
    const resetButton = button({ title: "Everything as it was: selection, classes, zoom" }, "Reset", reset);
    const table = element("div", { class: "gl-table", tabindex: "0", role: "region", "aria-label": "Table of the selection" });
    const done = element("output", { class: "gl-status", "aria-live": "polite" });
    const details = element("details", {}, element("summary", {}, "Selection as a table"),
      element("div", { class: "gl-row" }, button({}, "Download CSV", download), button({}, "Copy CSV", copy), done), table);
    const strip = element("div", { class: "gl-strip", role: "group", "aria-label": "Images of the selection" });
    const card = element("section", { class: "gl-card", "aria-label": "Inspected place", "aria-live": "polite" });
    card.hidden = true;
    const plots = element("div", { class: "gl-plots" });
    views.forEach((view, i) => {
      const name = D.titles[i];
      view.ground = element("canvas", { class: "gl-ground", "aria-hidden": "true" });
      view.base = element("canvas", { class: "gl-base", "aria-hidden": "true" });
      view.top = element("canvas", { class: "gl-top", tabindex: "0", role: "application", "aria-label": D.alt[i] || name, "aria-describedby": id });
      view.note = element("p", { class: "gl-note" });
      const zoom = element("div", { class: "gl-zoom" },
        button({ "aria-label": "Zoom in: " + name }, "+", () => zoomBy(view, 2)), button({ "aria-label": "Zoom out: " + name }, "\u2212", () => zoomBy(view, 0.5)),
        button({ "aria-label": "All: " + name, title: "Show everything" }, "All", () => look(view, 1, 0.5, 0.5)));
      view.plot = element("div", { class: "gl-plot" }, view.ground, view.base, view.top, view.note);
      Object.assign(view, { k: 1, cx: 0.5, cy: 0.5 });
      plots.append(element("figure", { class: i ? "gl-map" : "gl-embedding" }, element("figcaption", {}, element("span", {}, name), zoom), view.plot));
    });
    const head = element("div", { class: "gl-head" }, tools, element("div", { class: "gl-row" }, status, clearButton, zoomButton, resetButton));
    if (D.columns.length) head.prepend(element("label", {}, "Colour by ", choice));
    root.classList.toggle("gl-touch", coarse || navigator.maxTouchPoints > 0);
    root.replaceChildren(head, plots, readout, legend, ...(D.thumbs ? [strip] : []), card, details, element("p", { class: "gl-hidden", id }, HELP));

    function hint() {
      const words = { explore: coarse ? "Tap a place to inspect it. Two fingers zoom and move a picture; Box and Lasso select."
        : "Point at a place to read it, click to inspect it. Drag to move, Ctrl and wheel to zoom; Box and Lasso select.",
      box: "Drag a box over either picture to select.", lasso: "Draw around places in either picture to select them." };
      readout.dataset.hint = words[tool] + (tool === "explore" ? "" : coarse ? " Tap a place to inspect it; Explore lets the page scroll again."
        : " Point at a place to read it, click to inspect it.");
    }
    hint();

    // ---- from places to pixels: [scale, shift] of both axes, in CSS pixels
    const frame = (view) => {
      const ax = view.sx * view.k, ay = view.sy * view.k;
      return { ax, ay, bx: view.w / 2 - view.cx * ax, by: view.h / 2 - view.cy * ay };
    };
    const toUnit = (view, [x, y]) => { const f = frame(view); return [(x - f.bx) / f.ax, (y - f.by) / f.ay]; };

    function size() { // to the space there is; says whether that changed
      let changed = false;
      for (const view of views) {
        const r = Math.min(2, window.devicePixelRatio || 1), { width: w, height: h } = view.top.getBoundingClientRect();
        const W = Math.round(w * r), H = Math.round(h * r), s = Math.min((w - 2 * PAD) / view.aspect, h - 2 * PAD);
        Object.assign(view, { w, h, r, sx: s * view.aspect, sy: s });
        if (!W || !H || (view.base.width === W && view.base.height === H && view.image)) continue;
        changed = true;
        for (const c of [view.ground, view.base, view.top]) { c.width = W; c.height = H; }
        view.image = new ImageData(W, H);
        view.pixels = new Int32Array(view.image.data.buffer);
        look(view, view.k, view.cx, view.cy);
      }
      return changed;
    }

    function look(view, k, cx, cy) { // at (cx, cy), k times as large as all; the picture stays in its frame
      view.k = clamp(k, 1, MOST_ZOOM);
      const f = frame(view);
      for (const [axis, c, extent, a] of [["cx", cx, view.w, f.ax], ["cy", cy, view.h, f.ay]]) {
        const half = (extent / 2 - PAD) / a;
        view[axis] = half >= 0.5 ? 0.5 : clamp(c, half, 1 - half);
      }
      view.plot.dataset.zoom = +view.k.toFixed(3);
      buttons();
      redraw([view]);
    }

    function zoomAt(view, k, [ux, uy], [x, y]) { // so that the place (ux, uy) is then at the pixel (x, y)
      k = clamp(k, 1, MOST_ZOOM);
      look(view, k, ux - (x - view.w / 2) / (view.sx * k), uy - (y - view.h / 2) / (view.sy * k));
    }

    function zoomBy(view, factor) {
      const middle = [view.w / 2, view.h / 2];
      if (cursor && views[cursor.i] === view) look(view, view.k * factor, cursor.x, cursor.y);
      else zoomAt(view, view.k * factor, toUnit(view, middle), middle);
    }

    function zoomToSelection() {
      if (!count) return;
      for (const view of views) {
        let x0 = 1, x1 = 0, y0 = 1, y1 = 0;
        for (let k = 0; k < n; k++) {
          if (mark[k] !== 2) continue;
          x0 = Math.min(x0, view.x[k]); x1 = Math.max(x1, view.x[k]); y0 = Math.min(y0, view.y[k]); y1 = Math.max(y1, view.y[k]);
        }
        const fit = 0.85 * Math.min((view.w - 2 * PAD) / view.sx / Math.max(x1 - x0, 1e-6), (view.h - 2 * PAD) / view.sy / Math.max(y1 - y0, 1e-6));
        look(view, Math.min(fit, MOST_ZOOM / 2), (x0 + x1) / 2, (y0 + y1) / 2);
      }
    }

    // ---- drawing
    let style = getComputedStyle(root), waiting = false;
    const lift = () => Number(style.getPropertyValue("--gl-lift")) || 0;
    const css = (name) => style.getPropertyValue(name).trim();
    const paint = (c) => {
      const [r, g, b] = typeof c === "number" ? ramp(c, lift()) : hex(c.startsWith("--") ? css(c) : c);
      return (b << 16) | (g << 8) | r;
    };

    function redraw(which = views) {
      for (const view of which) view.stale = true;
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; draw(); });
    }

    function draw() {
      style = getComputedStyle(root);
      const bar = legend.querySelector(".gl-ramp");
      if (bar) bar.style.background = "linear-gradient(90deg," + CIVIDIS.map((_, k) => "rgb(" + ramp(k / (CIVIDIS.length - 1), lift()) + ")") + ")";
      for (const view of views) {
        if (!view.w || !view.image || !view.stale) continue;
        view.stale = false;
        if (view.land) drawGround(view);
        drawPlaces(view);
      }
      overlay();
    }

    function trace(g, f, line, close) {
      for (let j = 0; j < line.length; j += 2) {
        const x = f.bx + line[j] * f.ax, y = f.by + line[j + 1] * f.ay;
        if (j) g.lineTo(x, y); else g.moveTo(x, y);
      }
      if (close) g.closePath();
    }

    function drawGround(view) {
      const f = frame(view), key = [view.base.width, view.base.height, f.ax, f.bx, f.by, css("--gl-sea"), css("--gl-land")].join();
      if (view.drawn === key) return;
      view.drawn = key;
      const g = view.ground.getContext("2d");
      g.setTransform(view.r, 0, 0, view.r, 0, 0);
      g.clearRect(0, 0, view.w, view.h);
      g.fillStyle = css("--gl-sea"); g.beginPath(); trace(g, f, view.edge, true); g.fill();
      g.strokeStyle = css("--gl-grid"); g.lineWidth = 1; g.beginPath(); view.lines.forEach((line) => trace(g, f, line)); g.stroke();
      g.fillStyle = css("--gl-land"); g.beginPath(); view.land.forEach((ring) => trace(g, f, ring, true)); g.fill("evenodd");
    }

    // Dots where places can be told apart, a density where they cannot.
    function drawPlaces(view) {
      const { w, h } = view, { ax, ay, bx, by } = frame(view);
      let seen = 0;
      for (let k = 0; k < n; k++) {
        const x = ax * view.x[k] + bx, y = ay * view.y[k] + by;
        if (mark[k] && x >= 0 && y >= 0 && x <= w && y <= h) seen++;
      }
      view.dot = clamp(3.6 * (700 / Math.max(seen, 1)) ** 0.3, 1, 3.6) * clamp(w / 520, 0.75, 1);
      view.pixels.fill(0);
      const dense = seen > CROWD;
      if (dense) drawDensity(view); else drawDots(view);
      view.base.getContext("2d").putImageData(view.image, 0, 0);
      view.plot.dataset.detail = dense ? "density" : "places";
      const words = dense ? "Density of " + whole(seen) + " places" + (column === PLAIN ? "" : ", coloured by the " + (column.names ? "most frequent class" : "mean")) +
        "; zoom in to see each" : view.k > 1 ? "\u00d7" + +view.k.toPrecision(2) : "";
      if (view.note.textContent !== words) view.note.textContent = words;
    }

    function drawDots(view) {
      const { r, pixels } = view, W = view.base.width, H = view.base.height, f = frame(view);
      const ax = f.ax * r, ay = f.ay * r, bx = f.bx * r, by = f.by * r, colors = column.colors.map(paint), dim = paint("--gl-dim");
      for (const layer of [1, 2]) {
        const shape = stampsOf(view.dot * r * (layer === 1 ? 0.8 : 1), layer === 1 ? 0.3 : n > 5000 ? 0.8 : 0.9), m = shape.m;
        for (let j = 0; j < n; j++) {
          const k = rows[j];
          if (mark[k] !== layer) continue;
          const x = ax * view.x[k] + bx, y = ay * view.y[k] + by;
          if (x > -m && y > -m && x < W + m && y < H + m) stamp(pixels, W, H, shape.all, x, y, layer === 1 ? dim : colors[column.bin[k]]);
        }
      }
    }

    // Squares of two pixels: the most frequent class or the mean of the selected places in each, the more of them the more opaque.
    function drawDensity(view) {
      const { r, pixels } = view, W = view.base.width, H = view.base.height, f = frame(view);
      const side = Math.max(1, Math.round(2 * r)), across = Math.ceil(W / side), down = Math.ceil(H / side), cells = across * down;
      const ax = f.ax * r / side, ay = f.ay * r / side, bx = f.bx * r / side, by = f.by * r / side;
      const kinds = column.names ? column.colors.length : 0, none = column.colors.length - 1;
      const others = new Uint32Array(cells), chosenIn = new Uint32Array(cells);
      const votes = new Uint32Array(kinds * cells), sums = new Float64Array(kinds ? 0 : cells), known = new Uint32Array(kinds ? 0 : cells);
      for (let k = 0; k < n; k++) {
        if (!mark[k]) continue;
        const x = Math.floor(ax * view.x[k] + bx), y = Math.floor(ay * view.y[k] + by);
        if (x < 0 || y < 0 || x >= across || y >= down) continue;
        const at = y * across + x;
        if (mark[k] === 1) { others[at]++; continue; }
        chosenIn[at]++;
        const b = column.bin[k];
        if (kinds) votes[at * kinds + b]++;
        else if (b !== none || column === PLAIN) { known[at]++; sums[at] += b; }
      }
      let most = 1;
      for (let at = 0; at < cells; at++) most = Math.max(most, chosenIn[at], others[at]);
      const colors = column.colors.map(paint), dim = paint("--gl-dim"), scale = 1 / Math.log1p(most);
      for (let at = 0; at < cells; at++) {
        if (!chosenIn[at] && !others[at]) continue;
        let color = dim, alpha = 0.1 + 0.4 * Math.log1p(others[at]) * scale;
        if (chosenIn[at]) {
          let b = 0;
          if (kinds) { for (let c = 1; c < kinds; c++) if (votes[at * kinds + c] > votes[at * kinds + b]) b = c; }
          else b = known[at] ? Math.round(sums[at] / known[at]) : none;
          color = colors[b];
          alpha = 0.35 + 0.65 * Math.log1p(chosenIn[at]) * scale;
        }
        const pixel = (Math.round(255 * alpha) << 24) | color;
        const x0 = (at % across) * side, y0 = Math.floor(at / across) * side, x1 = Math.min(W, x0 + side), y1 = Math.min(H, y0 + side);
        for (let y = y0; y < y1; y++) pixels.fill(pixel, y * W + x0, y * W + x1);
      }
    }

    function overlay() {
      views.forEach((view, i) => {
        if (!view.image) return;
        const g = view.top.getContext("2d"), f = frame(view), ink = css("--gl-ink"), paper = css("--gl-paper"), accent = css("--gl-accent");
        const at = (x, y) => [f.bx + x * f.ax, f.by + y * f.ay];
        const twice = (path, color, wide) => {
          for (const [line, width] of [[paper, wide + 3], [color, wide]]) { g.beginPath(); path(); g.strokeStyle = line; g.lineWidth = width; g.stroke(); }
        };
        g.setTransform(view.r, 0, 0, view.r, 0, 0);
        g.clearRect(0, 0, view.w, view.h);
        for (const shape of shapes) {
          if (shape.i !== i) continue;
          g.beginPath();
          trace(g, f, shape.kind === "box" ? corners(shape.points) : shape.points, true);
          g.fillStyle = accent; g.globalAlpha = 0.1; g.fill("evenodd");
          g.globalAlpha = 1; g.strokeStyle = accent; g.lineWidth = 1.5; g.stroke();
        }
        for (const [k, color] of [[chosen, accent], [near, ink]]) {
          if (k < 0) continue;
          const [x, y] = at(view.x[k], view.y[k]);
          twice(() => g.arc(x, y, view.dot + 5, 0, 7), color, 2);
          if (k === chosen) twice(() => { for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { g.moveTo(x + dx * (view.dot + 5), y + dy * (view.dot + 5)); g.lineTo(x + dx * (view.dot + 11), y + dy * (view.dot + 11)); } }, color, 2);
        }
        if (cursor && cursor.i === i) {
          const [x, y] = at(cursor.x, cursor.y);
          twice(() => { g.moveTo(x - 9, y); g.lineTo(x + 9, y); g.moveTo(x, y - 9); g.lineTo(x, y + 9); }, ink, 1.5);
        }
      });
    }

    // ---- selection: what lies in any of the shapes and is of a class that is shown
    const corners = ([x0, y0, x1, y1]) => [x0, y0, x1, y0, x1, y1, x0, y1];

    function begin(i, kind, [x, y], add) {
      if (add && shapes.length) for (let k = 0; k < n; k++) base[k] |= inside[k];
      else { shapes = []; base.fill(0); }
      inside.fill(0);
      shapes.push({ i, kind, points: kind === "box" ? [x, y, x, y] : [x, y] });
    }

    function extend([x, y]) {
      const shape = shapes[shapes.length - 1], view = views[shape.i], p = shape.points;
      if (shape.kind === "box") {
        p[2] = x; p[3] = y;
        const x0 = Math.min(p[0], x), x1 = Math.max(p[0], x), y0 = Math.min(p[1], y), y1 = Math.max(p[1], y);
        for (let k = 0; k < n; k++) inside[k] = view.x[k] >= x0 && view.x[k] <= x1 && view.y[k] >= y0 && view.y[k] <= y1 ? 1 : 0;
      } else { // a corner more: only its triangle with the closing edge changes sides
        const a = p.slice(-2), o = p.slice(0, 2);
        p.push(x, y);
        cross(view, a, o); cross(view, a, [x, y]); cross(view, [x, y], o);
      }
      select();
    }

    function cross(view, a, b) { // even-odd rule, one edge: places with the edge to their right change sides
      const [[x0, y0], [x1, y1]] = a[1] <= b[1] ? [a, b] : [b, a], slope = (x1 - x0) / (y1 - y0);
      for (let k = 0; k < n; k++) {
        const y = view.y[k];
        if (y >= y0 && y < y1 && view.x[k] < x0 + (y - y0) * slope) inside[k] ^= 1;
      }
    }

    let settling = 0;
    function select() {
      const any = shapes.length > 0;
      let shown = 0;
      count = 0;
      for (let k = 0; k < n; k++) {
        if (hidden.size && hidden.has(column.bin[k])) { mark[k] = 0; continue; }
        shown++;
        mark[k] = !any || base[k] || inside[k] ? 2 : 1;
        if (mark[k] === 2) count++;
      }
      root.dataset.selected = count;
      status.textContent = any ? whole(count) + " of " + whole(n) + " selected" : shown < n ? whole(shown) + " of " + whole(n) + " shown" : whole(n) + " places";
      done.textContent = "";
      buttons();
      redraw();
      clearTimeout(settling);
      settling = setTimeout(settle, 80);
    }

    function settle() { // what need not follow every movement
      if (details.open) fillTable();
      if (D.thumbs) fillStrip();
    }

    function buttons() {
      const idle = (node, value) => node.setAttribute("aria-disabled", String(value));
      idle(clearButton, !shapes.length);
      idle(zoomButton, !shapes.length || !count);
      idle(resetButton, !shapes.length && !hidden.size && chosen < 0 && views.every((v) => v.k === 1));
    }

    function clear() {
      shapes = []; tracing = false;
      base.fill(0); inside.fill(0);
      select();
    }

    function reset() {
      hidden.clear();
      pressed();
      close();
      for (const view of views) look(view, 1, 0.5, 0.5);
      clear();
    }

    // ---- the selection as a table and as CSV
    const headings = () => ["Place"].concat(column === PLAIN ? [] : [choice.value], ["Latitude", "Longitude"]);
    function comparison() {
      const all = [(a, b) => order(nameOf(a), nameOf(b))].concat(column === PLAIN ? [] : [column.compare], [(a, b) => lat[a] - lat[b], (a, b) => lon[a] - lon[b]]);
      const by = all[Math.min(sort.by, all.length - 1)], sign = sort.down ? -1 : 1;
      return (a, b) => (by(a, b) || 0) * sign || a - b;
    }

    function first(most) { // of the selection, in the order of the table
      const compare = comparison(), kept = [];
      for (let k = 0; k < n; k++) {
        if (mark[k] !== 2 || (kept.length === most && compare(k, kept[most - 1]) > 0)) continue;
        let low = 0, high = kept.length;
        while (low < high) { const mid = (low + high) >> 1; if (compare(k, kept[mid]) < 0) high = mid; else low = mid + 1; }
        kept.splice(low, 0, k);
        if (kept.length > most) kept.pop();
      }
      return kept;
    }

    function fillTable() {
      const names = headings(), body = element("tbody");
      for (const k of first(TABLE_ROWS)) {
        const cells = (column === PLAIN ? [] : [column.text(k)]).concat([degrees(latOf(k), "NS"), degrees(lonOf(k), "EW")]);
        body.append(element("tr", {}, element("th", { scope: "row" }, button({}, nameOf(k), () => inspect(k, true))), ...cells.map((c) => element("td", {}, c))));
      }
      const by = Math.min(sort.by, names.length - 1);
      const heads = names.map((words, c) => {
        const arrow = element("span", { "aria-hidden": "true" }, c !== by ? "" : sort.down ? " \u25be" : " \u25b4");
        const b = button({}, words, () => { sort = { by: c, down: c === by && !sort.down }; fillTable(); table.querySelectorAll("thead button")[c].focus(); });
        b.append(arrow);
        return element("th", { scope: "col", "aria-sort": c !== by ? "none" : sort.down ? "descending" : "ascending" }, b);
      });
      const caption = (count > TABLE_ROWS ? "First " + TABLE_ROWS + " of " + whole(count) + " places" : whole(count) + (count === 1 ? " place" : " places")) +
        ", sorted by " + names[by] + (count > TABLE_ROWS ? "; the CSV has all" : "");
      table.replaceChildren(element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, ...heads)), body));
    }

    function csv() {
      const all = D.columns.map((_, i) => readOf(i));
      const lines = [["row", "place", "latitude", "longitude"].concat(D.columns.map((c) => c.name + (c.units ? " (" + c.units + ")" : ""))).map(cell).join()];
      for (let k = 0; k < n; k++) {
        if (mark[k] === 2) lines.push([k, nameOf(k), +latOf(k).toFixed(3), +lonOf(k).toFixed(3)].concat(all.map((c) => c.raw(k))).map(cell).join());
      }
      return lines.join("\r\n") + "\r\n";
    }

    function download() {
      const url = URL.createObjectURL(new Blob(["\ufeff", csv()], { type: "text/csv;charset=utf-8" }));
      element("a", { href: url, download: "selection.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
      done.textContent = whole(count) + " rows written to selection.csv";
    }

    async function copy() {
      const text = csv();
      let copied = false;
      try { await navigator.clipboard.writeText(text); copied = true; } catch { // no permission, or no secure page
        const area = element("textarea", { class: "gl-hidden", "aria-hidden": "true" });
        area.value = text;
        root.append(area);
        area.select();
        copied = document.execCommand("copy");
        area.remove();
      }
      done.textContent = copied ? whole(count) + " rows copied" : "The browser does not allow copying here; download the CSV instead.";
    }

    // ---- colour and legend
    const readOf = (i) => columns[i] = columns[i] || readColumn(D.columns[i], n);

    function showColumn(i) {
      column = readOf(i);
      hidden.clear();
      const sizes = new Array(column.colors.length).fill(0);
      for (let k = 0; k < n; k++) sizes[column.bin[k]]++;
      let sequence = sizes.map((_, b) => b);
      if (column.names) sequence.sort((a, b) => sizes[b] - sizes[a]); // rare classes lie above frequent ones
      const grey = (b) => String(column.colors[b]).startsWith("--");
      sequence = sequence.filter(grey).concat(sequence.filter((b) => !grey(b))); // and colours above grey
      const next = [];
      let from = 0;
      for (const b of sequence) { next[b] = from; from += sizes[b]; }
      for (let k = 0; k < n; k++) rows[next[column.bin[k]]++] = k;
      if (column.names) showClasses(sizes); else showRamp(D.columns[i], sizes[STEPS]);
      select();
    }

    function swatch(c) {
      const node = element("i", { "aria-hidden": "true" });
      node.style.background = c.startsWith("--") ? "var(" + c + ")" : c;
      return node;
    }

    function pressed() {
      for (const b of legend.querySelectorAll("button")) b.setAttribute("aria-pressed", String(!hidden.has(+b.dataset.bin)));
    }

    function showClasses(sizes) {
      const bins = sizes.map((_, b) => b).filter((b) => sizes[b]);
      legend.replaceChildren(...bins.map((b) => {
        const node = button({ "aria-pressed": "true", "data-bin": b, title: "Show or hide; with Shift, this class alone" }, swatch(column.colors[b]), (e) => {
          const alone = bins.length - hidden.size === 1 && !hidden.has(b);
          if (e.shiftKey) { hidden.clear(); if (!alone) bins.forEach((other) => other !== b && hidden.add(other)); }
          else if (!hidden.delete(b)) hidden.add(b);
          pressed();
          select();
        });
        node.append(element("span", {}, column.names[b]), " ", element("small", {}, whole(sizes[b])));
        return node;
      }));
    }

    function showRamp(c, missing) {
      const bar = element("i", { class: "gl-ramp", role: "img", "aria-label": "Colour from low (dark blue) to high (yellow)" });
      const parts = c.low === null ? [] : [element("span", {}, (c.below ? "\u2264 " : "") + number(c.low)), bar,
        element("span", {}, (c.above ? "\u2265 " : "") + number(c.high) + (c.units ? " " + c.units : "") + (c.log ? " (log scale)" : ""))];
      if (missing) parts.push(element("span", { class: "gl-missing" }, swatch("--gl-none"), "no value ", element("small", {}, whole(missing))));
      legend.replaceChildren(...parts);
    }

    // ---- reading and inspecting
    function nearest(view, x, y, reach) {
      const { ax, ay, bx, by } = frame(view);
      let best = reach * reach, found = -1;
      for (let k = 0; k < n; k++) {
        if (!mark[k]) continue;
        const dx = ax * view.x[k] + bx - x, dy = ay * view.y[k] + by - y, d = dx * dx + dy * dy;
        if (d < best) { best = d; found = k; }
      }
      return found;
    }

    function point(k) {
      if (k === near) return;
      near = k;
      describe();
      overlay();
    }

    const where = (k) => degrees(latOf(k), "NS") + ", " + degrees(lonOf(k), "EW");
    function describe() {
      if (near < 0) { readout.replaceChildren(); return; }
      const facts = (column === PLAIN ? "" : choice.value + ": " + column.text(near) + " \u00b7 ") + where(near);
      readout.replaceChildren(element("b", {}, nameOf(near)), " ", element("span", {}, facts));
    }

    let sprite = null, tiles = null;
    if (D.thumbs) {
      tiles = new Int32Array(n).fill(-1);
      unpack(D.thumbs.rows, Uint32Array).forEach((row, tile) => { tiles[row] = tile; });
      sprite = new Image();
      sprite.src = "data:image/jpeg;base64," + D.thumbs.data;
    }
    function thumbnail(k, attributes) {
      const { tile, across } = D.thumbs, canvas = element("canvas", { width: tile, height: tile, ...attributes });
      sprite.decode().then(() => canvas.getContext("2d").drawImage(sprite, (tiles[k] % across) * tile, Math.floor(tiles[k] / across) * tile, tile, tile, 0, 0, tile, tile),
        () => canvas.replaceWith("This picture cannot be read."));
      return canvas;
    }

    function fillStrip() {
      const with_ = [];
      for (let k = 0; k < n; k++) if (mark[k] === 2 && tiles[k] >= 0) with_.push(k);
      const some = with_.length <= STRIP ? with_ : Array.from({ length: STRIP }, (_, j) => with_[Math.floor(j * with_.length / STRIP)]);
      const kind = D.simulated.includes("image") ? "Simulated images" : "Images", total = D.thumbs.total;
      const words = kind + " in the selection: " + (with_.length > some.length ? some.length + " of " : "") + whole(with_.length) +
        (total > D.thumbs.count ? " (this page has " + whole(D.thumbs.count) + " of " + whole(total) + ")" : "");
      strip.replaceChildren(element("p", {}, words), ...some.map((k) => {
        const node = button({ "aria-label": "Inspect " + nameOf(k), title: nameOf(k) }, thumbnail(k, { "aria-hidden": "true" }), () => inspect(k, true));
        node.onpointerenter = node.onfocus = () => point(k);
        node.onpointerleave = node.onblur = () => point(-1);
        return node;
      }));
    }

    let back = null; // where the keyboard's focus goes when the card is closed
    async function inspect(k, focus) {
      chosen = k;
      back = focus ? document.activeElement : null;
      const shut = button({ class: "gl-close" }, "Close", close);
      const facts = element("dl", {}), body = element("div", { class: "gl-about" });
      const simulated = (what) => D.simulated.includes(what) ? [element("em", {}, "simulated")] : [];
      D.columns.forEach((c, i) => facts.append(element("div", {}, element("dt", {}, c.name), element("dd", {}, readOf(i).text(k)))));
      const picture = !D.thumbs ? [] : [tiles[k] >= 0
        ? element("figure", { class: "gl-thumb" }, thumbnail(k, { role: "img", "aria-label": "Image of " + nameOf(k) + " from above, true colour" }), element("figcaption", {}, "Image ", ...simulated("image")))
        : element("p", { class: "gl-thumb gl-soft" }, "This page holds no image of this place.")];
      card.replaceChildren(element("div", { class: "gl-title" }, element("p", { class: "gl-name" }, nameOf(k)), element("p", { class: "gl-soft" }, where(k), ...simulated("location")), shut),
        ...picture, body, facts);
      card.hidden = false;
      buttons();
      overlay();
      if (focus) shut.focus();
      if (!D.about) return;
      if (!about) {
        body.append(element("p", { class: "gl-soft" }, "Reading \u2026"));
        try { about = await inflate(D.about); } catch { body.replaceChildren(element("p", { class: "gl-soft" }, "This browser cannot read the texts of this page.")); return; }
        if (chosen !== k) return;
      }
      const of = (name) => about[name] && about[name][k] || "";
      if (!of("text") && !of("url")) { body.replaceChildren(element("p", { class: "gl-soft" }, "This place has no text.")); return; }
      const credit = [of("creator"), of("license") && link(of("license_url"), of("license")), of("changes")].filter(Boolean);
      const source = element("p", { class: "gl-soft gl-source" });
      if (of("url")) source.append("Source: ", link(of("url")), ...(credit.length ? [" \u00b7 "] : []));
      credit.forEach((part, j) => source.append(...(j ? [" \u00b7 "] : []), part));
      body.replaceChildren(...(of("text") ? [element("p", { class: "gl-text" }, of("text"), ...simulated("text"))] : []), source);
    }

    function close() {
      const held = card.contains(document.activeElement);
      chosen = -1;
      card.hidden = true;
      card.replaceChildren();
      if (held) (back && back.isConnected ? back : views[0].top).focus();
      buttons();
      overlay();
    }

    // ---- pointer and keys
    views.forEach((view, i) => {
      const top = view.top, fingers = new Map();
      let drag = null, pinch = null;
      const at = (e) => { const r = top.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
      const kindOf = (e) => e.button === 1 || (e.pointerType === "touch" && !root.classList.contains("gl-brushing")) ? "explore" : tool;
      const spread = () => {
        const [[x0, y0], [x1, y1]] = fingers.values();
        return { d: Math.max(1, Math.hypot(x1 - x0, y1 - y0)), middle: [(x0 + x1) / 2, (y0 + y1) / 2] };
      };
      top.onpointerdown = (e) => {
        cursor = null; tracing = false;
        if (e.pointerType === "touch") fingers.set(e.pointerId, at(e));
        if (fingers.size === 2) { // two fingers move and zoom the picture, whatever the tool
          const { d, middle } = spread();
          if (drag && drag.moved && drag.kind !== "explore") clear();
          drag = null;
          pinch = { d, k: view.k, place: toUnit(view, middle) };
          return;
        }
        if (e.button > 1 || fingers.size > 2) return;
        if (e.button === 1) e.preventDefault();
        const kind = kindOf(e);
        if (e.pointerType !== "touch" || kind !== "explore") top.setPointerCapture(e.pointerId);
        drag = { pointer: e.pointerId, kind, start: at(e), place: toUnit(view, at(e)), last: at(e), add: e.shiftKey, moved: false };
      };
      top.addEventListener("touchstart", (e) => { // a stroke neither scrolls the page nor ends in a fling, during which browsers swallow taps
        if (root.classList.contains("gl-brushing")) e.preventDefault();
      }, { passive: false });
      top.onpointermove = (e) => {
        if (fingers.has(e.pointerId)) fingers.set(e.pointerId, at(e));
        if (pinch && fingers.size === 2) {
          const { d, middle } = spread();
          zoomAt(view, pinch.k * d / pinch.d, pinch.place, middle);
          return;
        }
        const here = at(e);
        if (!drag) { if (e.pointerType !== "touch") point(nearest(view, ...here, REACH)); return; }
        if (e.pointerId !== drag.pointer) return;
        const far = Math.hypot(here[0] - drag.last[0], here[1] - drag.last[1]);
        if (!drag.moved) {
          if (far < (e.pointerType === "touch" ? 10 : 4)) return;
          drag.moved = true;
          if (drag.kind !== "explore") begin(i, drag.kind, drag.place, drag.add);
        }
        if (drag.kind === "explore") { if (e.pointerType !== "touch") zoomAt(view, view.k, drag.place, here); return; }
        if (drag.kind === "lasso" && far < 3) return;
        drag.last = here;
        extend(toUnit(view, here));
      };
      const lift_ = (e) => { fingers.delete(e.pointerId); if (fingers.size < 2) pinch = null; };
      top.onpointerup = (e) => {
        lift_(e);
        if (!drag || e.pointerId !== drag.pointer) return;
        const { kind, moved, start } = drag;
        drag = null;
        if (moved) return;
        const k = nearest(view, ...start, e.pointerType === "touch" ? TOUCH_REACH : REACH);
        if (e.pointerType === "touch") point(k);
        if (k >= 0) inspect(k, false); else if (kind !== "explore" && shapes.length) clear();
      };
      top.onpointercancel = (e) => { lift_(e); drag = null; };
      top.onpointerleave = (e) => { if (e.pointerType !== "touch" && !drag && !cursor) point(-1); };
      top.onblur = () => { if (cursor) { cursor = null; tracing = false; near = -2; point(-1); } };
      top.addEventListener("wheel", (e) => { // a bare wheel scrolls the page
        if (!e.ctrlKey && !e.metaKey) return;
        e.preventDefault();
        zoomAt(view, view.k * 2 ** clamp(-e.deltaY / (e.deltaMode ? 3 : 120), -0.6, 0.6), toUnit(view, at(e)), at(e));
      }, { passive: false });
      top.onkeydown = (e) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
        const zoom = { "+": 2, "=": 2, "-": 0.5, 0: 1 }[e.key];
        if (e.ctrlKey || e.metaKey || e.altKey || (!step && zoom === undefined && e.key !== "Enter" && e.key !== " ")) return;
        e.preventDefault();
        if (zoom !== undefined) { if (zoom === 1) look(view, 1, 0.5, 0.5); else zoomBy(view, zoom); return; }
        if (!cursor || cursor.i !== i) cursor = { i, x: view.cx, y: view.cy };
        const start = [cursor.x, cursor.y], kind = tool === "lasso" ? "lasso" : "box";
        if (step) {
          cursor.x = clamp(cursor.x + step[0] * STEP / view.k * Math.min(1, view.sy / view.sx), 0, 1);
          cursor.y = clamp(cursor.y + step[1] * STEP / view.k * Math.min(1, view.sx / view.sy), 0, 1);
          if (e.shiftKey && !tracing) { tracing = "shift"; begin(i, kind, start, false); }
          if (tracing === "shift" && !e.shiftKey) tracing = false;
          if (tracing) extend([cursor.x, cursor.y]);
          const f = frame(view), x = f.bx + cursor.x * f.ax, y = f.by + cursor.y * f.ay;
          if (x < 2 * PAD || y < 2 * PAD || x > view.w - 2 * PAD || y > view.h - 2 * PAD) look(view, view.k, cursor.x, cursor.y);
        } else if (e.key === " " || tool === "explore") {
          const f = frame(view), k = nearest(view, f.bx + cursor.x * f.ax, f.by + cursor.y * f.ay, TOUCH_REACH);
          if (k >= 0) inspect(k, false);
        } else if (tracing) tracing = false;
        else { tracing = "enter"; begin(i, kind, start, e.shiftKey); select(); }
        const f = frame(view);
        near = -2;
        point(nearest(view, f.bx + cursor.x * f.ax, f.by + cursor.y * f.ay, REACH));
      };
    });
    root.addEventListener("keydown", (e) => {
      if (e.key !== "Escape") return;
      if (card.contains(e.target)) close(); else clear();
    });
    choice.onchange = () => { showColumn(choice.selectedIndex); describe(); };
    details.ontoggle = () => { if (details.open) fillTable(); };

    // ---- surroundings
    new ResizeObserver(() => { if (size()) draw(); }).observe(plots);
    for (const node of [document.documentElement, document.body]) {
      new MutationObserver(() => redraw()).observe(node, { attributes: true, attributeFilter: ["data-theme", "data-mode", "data-jp-theme-light", "theme", "class"] });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
    const drawAll = () => { for (const view of views) view.stale = true; draw(); };
    matchMedia("print").addEventListener("change", drawAll);
    addEventListener("beforeprint", drawAll); // no frame comes between the page's change to light colours and paper

    size();
    if (D.columns.length) showColumn(0); else select();
    draw();
    root.dataset.ready = "1";
  }

  document.querySelectorAll(".gl:not([data-ready])").forEach(mount);
})();
