// World maps of similarity: click a place, ask in words, widen a kernel. One data block per view, no network.
(function () {
  "use strict";

  // Lightness rises with the value, so the order is seen whatever colours an eye tells apart; blue and orange for signs.
  const EMBER = ["#1d2547", "#352f74", "#6b3a8d", "#a8468a", "#da5d6e", "#f58b4c", "#fdc04f", "#fff3c4"];
  const SIGNS = ["#cfeaff", "#66b3ee", "#2f6ba6", "#20303f", "#2a2c31", "#3f3020", "#a0601f", "#eda045", "#ffe6bd"];
  const SEA = [11, 18, 32], EDGE = "#2b3a52", COAST = "rgba(214,228,244,.42)", LINES = "rgba(150,175,205,.12)";
  const RADIUS = 6371.0088, APART = 1500, AWAY = 2000, MOST = 60, STEP = 2, FAST = 10;
  const SVG = "http://www.w3.org/2000/svg", LINE_COLORS = ["--gp-l0", "--gp-l1", "--gp-l2", "--gp-l3", "--gp-l4", "--gp-l5", "--gp-l6", "--gp-l7"];
  const HELP = "Arrow keys move the pointer by two degrees, with Shift by ten; Enter chooses the place below it.";
  const PARTS = { like: "Like this place", ask: "Ask the planet", scale: "Scale" };
  let serial = 1;

  const radians = (d) => d * Math.PI / 180;
  const whole = (v) => Math.round(v).toLocaleString("en");
  const signed = (v, n) => (v < 0 ? "\u2212" : "+") + Math.abs(v).toFixed(n);
  const plain = (v, n) => (v < 0 ? "\u2212" : "") + Math.abs(v).toFixed(n);
  const degrees = (v, signs) => Math.abs(v).toFixed(1) + "\u00b0 " + signs[v < 0 ? 1 : 0];

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }
  const unpack = (text, Type) => new Type(bytes(text).buffer);

  // int8, column by column, differences of rows, zlib -> rows of k
  async function inflate(text, k) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const steps = new Int8Array(await new Response(stream).arrayBuffer()), n = steps.length / k, rows = new Int8Array(n * k);
    for (let j = 0, s = 0; j < k; j++) for (let i = 0, v = 0; i < n; i++) rows[i * k + j] = v = (v + steps[s++]) << 24 >> 24;
    return rows;
  }

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function drawn(tag, attributes, ...children) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // ---- Equal Earth (Savric, Patterson and Jenny, 2018), degrees <-> [0, 1] x [0, 1], y down
  const A1 = 1.340264, A2 = -0.081106, A3 = 0.000893, A4 = 0.003796, M = Math.sqrt(3) / 2, XMAX = 2.7066299837, YMAX = 1.3173627592;
  const slope = (t) => { const t2 = t * t, t6 = t2 * t2 * t2; return A1 + 3 * A2 * t2 + t6 * (7 * A3 + 9 * A4 * t2); };
  const height = (t) => { const t2 = t * t, t6 = t2 * t2 * t2; return t * (A1 + A2 * t2 + t6 * (A3 + A4 * t2)); };
  function project(lon, lat) {
    const t = Math.asin(M * Math.sin(radians(lat)));
    return [(radians(lon) * Math.cos(t) / (M * slope(t)) / XMAX + 1) / 2, (1 - height(t) / YMAX) / 2];
  }
  function unproject(u, v) { // null outside the Earth
    const y = (1 - 2 * v) * YMAX;
    let t = y / A1;
    for (let i = 0; i < 12; i++) t -= (height(t) - y) / slope(t);
    const s = Math.sin(t) / M, lon = (2 * u - 1) * XMAX * M * slope(t) / Math.cos(t) * 180 / Math.PI;
    return Math.abs(s) > 1 || Math.abs(lon) > 180 ? null : [lon, Math.asin(s) * 180 / Math.PI];
  }

  function table(stops) { // 256 colours as [r, g, b, ...]
    const out = new Uint8Array(768), part = (c, i) => parseInt(c.slice(1 + 2 * i, 3 + 2 * i), 16);
    for (let b = 0; b < 256; b++) {
      const s = b / 255 * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(s)), f = s - k;
      for (let i = 0; i < 3; i++) out[3 * b + i] = Math.round(part(stops[k], i) * (1 - f) + part(stops[k + 1], i) * f);
    }
    return out;
  }
  const RAMPS = { value: table(EMBER), sign: table(SIGNS) };

  function kernel(degrees_, decay, cosine) { // the zonal kernel of untrained spherical harmonics, by Legendre's recurrence
    let before = 1, last = cosine, sum = 1, total = 1;
    for (let l = 1; l < degrees_; l++) {
      const weight = (2 * l + 1) * Math.pow(1 + l, -2 * decay);
      sum += weight * last; total += weight;
      [before, last] = [last, ((2 * l + 1) * cosine * last - l * before) / (l + 1)];
    }
    return sum / total;
  }

  async function mount(root) {
    root.dataset.ready = "";
    while (document.getElementById("gp" + serial)) serial++;
    const id = root.id = "gp" + serial;
    const D = JSON.parse(root.querySelector("script").textContent);
    if (typeof DecompressionStream === "undefined") {
      root.replaceChildren(element("p", {}, "This picture needs a browser of 2023 or later."));
      return;
    }

    // ---- the cells
    const columns = unpack(D.grid, Uint16Array), gaps = unpack(D.cells, Uint16Array), n = gaps.length;
    const first = [0], edges = [-1];
    let all = 0;
    for (const c of columns) first.push(all += c);
    for (let i = 0; i < columns.length; i++) edges.push(-1 + 2 * first[i + 1] / all);
    const rowOf = new Int32Array(all).fill(-1), lon = new Float64Array(n), lat = new Float64Array(n), xyz = new Float64Array(3 * n);
    for (let i = 0, cell = 0, band = 0; i < n; i++) {
      cell += gaps[i];
      while (first[band + 1] <= cell) band++;
      rowOf[cell] = i;
      lon[i] = (cell - first[band] + 0.5) * 360 / columns[band] - 180;
      lat[i] = Math.asin((edges[band] + edges[band + 1]) / 2) * 180 / Math.PI;
      xyz.set(vector(lon[i], lat[i]), 3 * i);
    }
    function vector(a, b) {
      const c = Math.cos(radians(b));
      return [c * Math.cos(radians(a)), c * Math.sin(radians(a)), Math.sin(radians(b))];
    }
    function bandOf(s) { // of sin(latitude)
      let low = 0, high = columns.length - 1;
      while (low < high) { const m = (low + high + 1) >> 1; if (edges[m] <= s) low = m; else high = m - 1; }
      return low;
    }
    function cellAt(a, b) {
      const band = bandOf(Math.sin(radians(b)));
      return rowOf[first[band] + Math.floor((a + 180) / 360 * columns[band]) % columns[band]];
    }
    function nearest(a, b) {
      const v = vector(a, b);
      let best = -2, found = 0;
      for (let i = 0; i < n; i++) {
        const d = v[0] * xyz[3 * i] + v[1] * xyz[3 * i + 1] + v[2] * xyz[3 * i + 2];
        if (d > best) { best = d; found = i; }
      }
      return found;
    }
    const km = (i, v) => RADIUS * Math.acos(Math.max(-1, Math.min(1, v[0] * xyz[3 * i] + v[1] * xyz[3 * i + 1] + v[2] * xyz[3 * i + 2])));
    const at = (i) => xyz.subarray(3 * i, 3 * i + 3);
    const town = unpack(D.town, Uint16Array), townKm = unpack(D.townKm, Uint16Array), country = unpack(D.country, Uint16Array);
    const nameOf = (i) => (D.towns[town[i]] ? (townKm[i] > Math.max(60, D.km / 2) ? whole(townKm[i]) + " km from " : "near ") + D.towns[town[i]] + ", " : "") + D.countries[country[i]];
    const where = (a, b) => degrees(b, "NS") + ", " + degrees(a, "EW");

    // ---- the models
    const models = await Promise.all(D.models.map(async (m) => ({
      ...m, cells: await inflate(m.vectors, m.k), asked: m.words && await inflate(m.words, m.k),
      wordMean: m.words && unpack(m.wordMean, Float32Array), wordSd: m.words && unpack(m.wordSd, Float32Array),
    })));
    function dots(m, query, scale) { // of every cell with k numbers
      const out = new Float32Array(n), k = m.k, rows = m.cells;
      for (let i = 0, s = 0; i < n; i++) {
        let sum = 0;
        for (let j = 0; j < k; j++) sum += rows[s++] * query[j];
        out[i] = sum * scale;
      }
      return out;
    }
    const likeness = (m, i) => dots(m, Float32Array.from(m.cells.subarray(i * m.k, (i + 1) * m.k)), m.step * m.step);
    const fitness = (m, q) => dots(m, Float32Array.from(m.asked.subarray(q * m.k, (q + 1) * m.k)), m.step * m.wordStep);
    function words(m, i) { // similarity of a cell with every query
      const v = m.cells.subarray(i * m.k, (i + 1) * m.k), out = new Float32Array(D.queries.length);
      for (let q = 0, s = 0; q < out.length; q++) {
        let sum = 0;
        for (let j = 0; j < m.k; j++) sum += m.asked[s++] * v[j];
        out[q] = sum * m.step * m.wordStep;
      }
      return out;
    }
    function relative(values) { // standard deviations from the mean over all cells
      let mean = 0, square = 0;
      for (const v of values) { mean += v; square += v * v; }
      mean /= n;
      const sd = Math.sqrt(Math.max(square / n - mean * mean, 1e-12));
      return values.map((v) => (v - mean) / sd);
    }

    // ---- state
    let part = D.show[0], query = D.query ?? D.suggest[0], place = nearest(...D.place), pointer = null, reading = false;
    let levels = 20, decay = 0;
    const measure = { like: "cosine", ask: "relative", scale: "cosine" };
    const fits = () => part === "ask" ? models.map((m, i) => i).filter((i) => models[i].asked) : models.map((m, i) => i);
    const pair = [0, Math.min(1, models.length - 1)];
    const two = () => pair[0] !== pair[1] && fits().length > 1;

    // ---- structure
    const node = {};
    node.tabs = element("div", { class: "gp-tabs", role: "tablist", "aria-label": "What to look at" });
    const tabs = D.show.map((p) => {
      const tab = element("button", { type: "button", role: "tab", id: id + p, "aria-controls": id + "panel" }, PARTS[p]);
      tab.onclick = () => open(p);
      tab.onkeydown = (e) => {
        const turn = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
        if (!turn) return;
        e.preventDefault();
        const next = D.show[(D.show.indexOf(p) + turn + D.show.length) % D.show.length];
        open(next);
        tabs[D.show.indexOf(next)].focus();
      };
      return tab;
    });
    node.tabs.append(...tabs);
    const chooser = (label, ...options) => {
      const select = element("select", {}, ...options);
      return [select, element("label", { class: "gp-field" }, element("span", {}, label), select)];
    };
    const choices = [0, 1].map((side) => {
      const [select, label] = chooser(side ? "Right" : "Left");
      select.onchange = () => { pair[side] = Number(select.value); refresh(); };
      return { select, label };
    });
    const [unit, unitLabel] = chooser("Values", element("option", { value: "cosine" }, "cosine similarity"), element("option", { value: "relative" }, "relative (\u03c3)"));
    unit.onchange = () => { measure[part] = unit.value; refresh(); };
    const readButton = element("button", { type: "button", class: "gp-read", "aria-pressed": "false" }, "Read only");
    readButton.onclick = () => readButton.setAttribute("aria-pressed", String(reading = !reading));
    const goto = combobox("Go to", "a town or a country", towns(), (i) => { choose(i); });
    const ask = D.queries.length ? combobox("Ask", "rice terraces, harbour town, permafrost \u2026", D.queries.map((q, i) => [q, i]), setQuery) : null;
    node.chips = element("div", { class: "gp-chips" });
    for (const q of D.suggest) {
      const chip = element("button", { type: "button" }, D.queries[q]);
      chip.onclick = () => setQuery(q);
      node.chips.append(chip);
    }
    node.top = element("div", { class: "gp-head" });
    node.lead = element("p", { class: "gp-lead" });
    node.readout = element("output", { class: "gp-readout", "aria-live": "polite" });
    const maps = ["a", "b", "d"].map((key) => {
      const map = { key, base: element("canvas", { class: "gp-base", "aria-hidden": "true" }), lines: element("canvas", { class: "gp-lines", "aria-hidden": "true" }),
        top: element("canvas", { class: "gp-top", tabindex: "0", role: "application", "aria-describedby": id + "help" }) };
      map.title = element("span", {});
      map.value = element("span", { class: "gp-value" });
      map.low = element("span", {}); map.high = element("span", {}); map.middle = element("span", {});
      map.caret = element("i", { class: "gp-caret" });
      map.bar = element("span", { class: "gp-bar", "aria-hidden": "true" }, map.caret);
      map.plot = element("div", { class: "gp-plot" }, map.base, map.lines, map.top);
      map.figure = element("figure", { class: "gp-map gp-" + key }, element("figcaption", {}, map.title, map.value), map.plot,
        element("div", { class: "gp-legend" }, map.low, map.bar, map.high, map.middle));
      listen(map);
      return map;
    });
    node.info = element("section", { class: "gp-info", "aria-label": "In words" });
    node.charts = element("section", { class: "gp-charts", "aria-label": "Curves" });
    node.grid = element("div", { class: "gp-grid" }, ...maps.map((m) => m.figure), node.info, node.charts);
    node.panel = element("div", { id: id + "panel", class: "gp-panel" }, node.top, node.lead, node.readout, node.grid);
    if (D.show.length > 1) node.panel.setAttribute("role", "tabpanel");
    node.notes = element("details", { class: "gp-notes" }, element("summary", {}, "How exact this is"), ...notes());
    const touch = matchMedia("(any-pointer: coarse)").matches || navigator.maxTouchPoints > 0;
    root.classList.toggle("gp-touch", touch);
    const help = element("p", { class: "gp-help", id: id + "help" }, HELP);
    const simulated = D.simulated.length ? [element("p", { class: "gp-notice" }, element("strong", {}, "Simulated: "),
      "these models were trained on simulated " + D.simulated.join(" and ") + " of real places.")] : [];
    root.replaceChildren(...(D.show.length > 1 ? [node.tabs] : []), ...simulated, node.panel, node.notes, help);

    function notes() {
      const rows = models.map((m) => element("li", {}, element("b", {}, m.name), ": " + m.k + " of " + m.of + " directions as whole numbers of 8 bits; ranks of similarities agree with exact ones to " +
        m.rank.toFixed(3) + " or better, values to " + m.error.toFixed(3) + "."));
      return [element("p", {}, whole(n) + " cells of equal area, about " + D.km + " km wide, each at least half land, embedded at their centres. A cell is named after its largest town, or the nearest one. Equal Earth projection."), element("ul", {}, ...rows)];
    }

    function towns() {
      const best = new Map();
      for (let i = 0; i < n; i++) {
        const t = D.towns[town[i]];
        if (!t) continue;
        const name = t + ", " + D.countries[country[i]];
        if (!best.has(name) || townKm[i] < townKm[best.get(name)]) best.set(name, i);
      }
      return [...best].sort((a, b) => a[0] < b[0] ? -1 : 1);
    }

    // ---- search as you type: the combobox of the ARIA patterns
    function combobox(label, hint, entries, act) {
      const list = element("ul", { role: "listbox", "aria-label": label, id: id + label.replace(" ", ""), hidden: "" });
      const input = element("input", { type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", placeholder: hint, "aria-expanded": "false",
        "aria-controls": list.id, "aria-autocomplete": "list" });
      const tally = element("output", { class: "gp-tally", "aria-live": "polite" });
      const box = element("div", { class: "gp-combo" }, element("label", { class: "gp-field" }, element("span", {}, label), input), list, tally);
      const plainText = (s) => s.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
      const keys = entries.map(([text]) => plainText(text));
      let found = [], active = -1;
      function close() { list.hidden = true; active = -1; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); tally.textContent = ""; }
      function mark(i) {
        active = i;
        [...list.children].forEach((o, k) => o.setAttribute("aria-selected", String(k === i)));
        if (i < 0) input.removeAttribute("aria-activedescendant");
        else { input.setAttribute("aria-activedescendant", list.children[i].id); list.children[i].scrollIntoView({ block: "nearest" }); }
      }
      function search() {
        const wanted = plainText(input.value.trim()), scored = [];
        for (let i = 0; i < keys.length; i++) {
          const p = keys[i].indexOf(wanted);
          if (p >= 0) scored.push([p === 0 ? 0 : keys[i][p - 1] === " " ? 1 : 2, i]);
        }
        scored.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
        found = scored.slice(0, MOST).map(([, i]) => i);
        list.replaceChildren(...found.map((i, k) => {
          const option = element("li", { role: "option", id: list.id + k, "aria-selected": "false" }, entries[i][0]);
          option.onmousedown = (e) => e.preventDefault();
          option.onclick = () => take(k);
          return option;
        }));
        list.hidden = !found.length;
        input.setAttribute("aria-expanded", String(!list.hidden));
        tally.textContent = scored.length ? whole(scored.length) + " of " + whole(keys.length) : "nothing fits";
        mark(-1);
      }
      function take(k) {
        const [text, what] = entries[found[k]];
        input.value = text;
        close();
        act(what);
      }
      input.oninput = search;
      input.onclick = () => { if (list.hidden) { input.select(); search(); } };
      input.onblur = close;
      input.onkeydown = (e) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
        if (step) {
          e.preventDefault();
          if (list.hidden) search();
          if (found.length) mark(active < 0 ? (step > 0 ? 0 : found.length - 1) : (active + step + found.length) % found.length);
        } else if (e.key === "Enter" && !list.hidden && found.length) { e.preventDefault(); take(Math.max(0, active)); }
        else if (e.key === "Escape" && !list.hidden) { e.stopPropagation(); close(); }
      };
      return { box, input };
    }

    // ---- what a map shows
    const name = (side) => models[pair[side]].name;
    function compute() {
      const sides = two() ? [0, 1] : [0], raw = sides.map((s) => part === "ask" ? fitness(models[pair[s]], query) : likeness(models[pair[s]], place));
      const rel = measure[part] === "relative", values = rel ? raw.map(relative) : raw;
      const sorted = values.map((v) => Float32Array.from(v).sort()), q = (v, f) => v[Math.min(n - 1, Math.floor(f * n))];
      const low = rel ? -2 : Math.min(...sorted.map((v) => q(v, 0.01)));
      const high = rel ? 3.5 : part === "ask" ? Math.max(...sorted.map((v) => q(v, 0.999))) : 1;
      const units = rel ? "\u03c3" : "cosine similarity";
      maps.forEach((m) => { m.field = null; m.paint = null; });
      if (part === "scale") {
        Object.assign(maps[0], { name: "Untrained harmonics, L = " + levels, paint: "kernel", low_: -0.25, high_: 1, ramp: "value", units, alt: "similarity to the chosen place of untrained spherical harmonics of " + levels + " degrees" });
        Object.assign(maps[1], { name: name(0) + ", trained", field: values[0], low_: -0.25, high_: 1, ramp: "value", units, alt: "similarity to the chosen place, model " + name(0) });
        return;
      }
      const what = part === "ask" ? "similarity to the words \u201c" + D.queries[query] + "\u201d" : "similarity to the chosen place";
      sides.forEach((s) => Object.assign(maps[s], { name: name(s), field: values[s], low_: low, high_: high, ramp: "value", units, alt: what + ", model " + name(s) }));
      if (two()) {
        const d = values[0].map((v, i) => v - values[1][i]), size = Float32Array.from(d, Math.abs).sort();
        const most = Math.max(q(size, 0.99), 1e-6);
        Object.assign(maps[2], { name: name(0) + " \u2212 " + name(1), field: d, low_: -most, high_: most, ramp: "sign", units: "difference, " + units, alt: "difference of the two maps: " + name(0) + " minus " + name(1) });
      }
    }

    // ---- drawing
    function size(map) {
      const w = map.plot.clientWidth, h = map.plot.clientHeight;
      if (!w || (map.w === w && map.h === h && map.dpr === devicePixelRatio)) return;
      const r = Math.min(2, devicePixelRatio || 1), coarse = Math.min(r, Math.max(1, 800 / w)), aspect = XMAX / YMAX, pad = 6;
      for (const [c, f] of [[map.base, coarse], [map.lines, r], [map.top, r]]) { c.width = Math.round(w * f); c.height = Math.round(h * f); }
      const s = Math.min((w - 2 * pad) / aspect, h - 2 * pad);
      Object.assign(map, { w, h, r, dpr: devicePixelRatio, sx: s * aspect, sy: s, ox: (w - s * aspect) / 2, oy: (h - s) / 2 });
      const W = map.base.width, H = map.base.height, index = new Int32Array(W * H).fill(-2), lons = new Float32Array(W * H), sines = new Float32Array(H);
      for (let y = 0; y < H; y++) {
        const v = ((y + 0.5) / coarse - map.oy) / map.sy, middle = v > 0 && v < 1 ? unproject(0.5, v) : null;
        if (!middle) continue;
        const sine = Math.sin(radians(middle[1])), band = bandOf(sine), half = unproject(0.5 + 1e-4, v)[0] / 1e-4;
        sines[y] = sine;
        for (let x = 0; x < W; x++) {
          const a = (((x + 0.5) / coarse - map.ox) / map.sx - 0.5) * half;
          if (a < -180 || a >= 180) continue;
          lons[y * W + x] = a;
          index[y * W + x] = rowOf[first[band] + Math.floor((a + 180) / 360 * columns[band])];
        }
      }
      Object.assign(map, { index, lons, sines, image: new ImageData(W, H) });
      lines(map);
    }

    const px = (map, u) => map.ox + u * map.sx, py = (map, v) => map.oy + v * map.sy;

    function lines(map) { // coasts, a graticule and the edge: drawn once a size
      const g = map.lines.getContext("2d"), land = unpack(D.land, Int16Array);
      g.setTransform(map.r, 0, 0, map.r, 0, 0);
      g.clearRect(0, 0, map.w, map.h);
      const path = (points, close) => { points.forEach(([a, b], i) => { const [u, v] = project(a, b); g[i ? "lineTo" : "moveTo"](px(map, u), py(map, v)); }); if (close) g.closePath(); };
      const range = (from, to, by) => Array.from({ length: Math.round((to - from) / by) + 1 }, (_, i) => from + i * by);
      g.strokeStyle = LINES; g.lineWidth = 1;
      g.beginPath();
      for (let a = -150; a <= 150; a += 30) path(range(-90, 90, 5).map((b) => [a, b]));
      for (let b = -60; b <= 60; b += 30) path(range(-180, 180, 6).map((a) => [a, b]));
      g.stroke();
      g.strokeStyle = COAST; g.lineWidth = map.w > 500 ? 0.8 : 0.6;
      g.beginPath();
      let ring = [];
      for (let i = 0; i <= land.length;) {
        if (i === land.length || land[i] === 32767) { path(ring, true); ring = []; i++; continue; }
        ring.push([land[i] / 10, land[i + 1] / 10]);
        i += 2;
      }
      g.stroke();
      g.strokeStyle = EDGE; g.lineWidth = 1.2;
      g.beginPath();
      path(range(-90, 90, 3).map((b) => [-180, b]).concat(range(-90, 90, 3).map((b) => [180, -b])), true);
      g.stroke();
    }

    const bin = (map, v) => Math.max(0, Math.min(255, Math.round((v - map.low_) / (map.high_ - map.low_) * 255)));

    function paint(map) {
      size(map);
      if (!map.image || map.figure.hidden) return;
      const data = map.image.data, index = map.index, W = map.base.width, ramp = RAMPS[map.ramp];
      let colour = null, field = null;
      if (map.paint === "kernel") field = kernelTable(map);
      else { colour = new Uint8Array(n); for (let i = 0; i < n; i++) colour[i] = bin(map, map.field[i]); }
      const c = Math.sin(radians(lat[place])), s = Math.cos(radians(lat[place])), bins = field ? field.length - 1 : 0;
      for (let p = 0, o = 0; p < index.length; p++, o += 4) {
        const k = index[p];
        if (k === -2) { data[o + 3] = 0; continue; }
        let r;
        if (field) {
          const sine = map.sines[p / W | 0], d = c * sine + s * Math.sqrt(1 - sine * sine) * Math.cos(radians(map.lons[p] - lon[place]));
          r = 3 * field[Math.round(Math.acos(d > 1 ? 1 : d < -1 ? -1 : d) / Math.PI * bins)];
        } else if (k === -1) { data[o] = SEA[0]; data[o + 1] = SEA[1]; data[o + 2] = SEA[2]; data[o + 3] = 255; continue; }
        else r = 3 * colour[k];
        data[o] = ramp[r]; data[o + 1] = ramp[r + 1]; data[o + 2] = ramp[r + 2]; data[o + 3] = 255;
      }
      map.base.getContext("2d").putImageData(map.image, 0, 0);
    }

    function kernelTable(map) {
      const out = new Uint8Array(4097);
      for (let i = 0; i <= 4096; i++) out[i] = bin(map, kernel(levels, decay, Math.cos(i / 4096 * Math.PI)));
      return out;
    }

    function overlay() {
      for (const map of maps) {
        if (map.figure.hidden || !map.w) continue;
        const g = map.top.getContext("2d");
        g.setTransform(map.r, 0, 0, map.r, 0, 0);
        g.clearRect(0, 0, map.w, map.h);
        const ring = (a, b, radius, width) => {
          const [u, v] = project(a, b);
          for (const [line, w] of [["#05080f", width + 2.5], ["#fff", width]]) {
            g.beginPath(); g.arc(px(map, u), py(map, v), radius, 0, 7); g.strokeStyle = line; g.lineWidth = w; g.stroke();
          }
        };
        ring(lon[place], lat[place], 6, 2);
        if (pointer) {
          const [u, v] = project(...pointer), x = px(map, u), y = py(map, v);
          for (const [line, w] of [["#05080f", 4], ["#8fe3ff", 1.6]]) {
            g.beginPath(); g.moveTo(x - 9, y); g.lineTo(x - 3, y); g.moveTo(x + 3, y); g.lineTo(x + 9, y); g.moveTo(x, y - 9); g.lineTo(x, y - 3); g.moveTo(x, y + 3); g.lineTo(x, y + 9);
            g.strokeStyle = line; g.lineWidth = w; g.stroke();
          }
        }
      }
    }

    function valueAt(map, cell, v) {
      if (map.paint === "kernel") return v ? kernel(levels, decay, Math.cos(km(place, v) / RADIUS)) : null;
      return cell >= 0 && map.field ? map.field[cell] : null;
    }

    function describe() {
      const cell = pointer ? cellAt(...pointer) : -1, v = pointer && vector(...pointer), said = [];
      for (const map of maps) {
        const value = pointer ? valueAt(map, cell, v) : null, seen = value !== null && !map.figure.hidden;
        map.value.textContent = !seen ? "" : map.ramp === "sign" ? signed(value, 3) : plain(value, 3);
        map.caret.style.left = seen ? (bin(map, value) / 255 * 100) + "%" : "0";
        map.caret.hidden = !seen;
        if (seen) said.push(map.name + ": " + map.value.textContent);
      }
      if (!pointer) { node.readout.replaceChildren(element("span", {}, hint())); return; }
      const away = whole(km(place, v)) + " km from the chosen place";
      node.readout.replaceChildren(element("b", {}, cell >= 0 ? capital(nameOf(cell)) : "Sea, or a shore too narrow for a cell"), " ",
        element("span", {}, where(...pointer) + " \u00b7 " + away + (said.length ? " \u00b7 " + said.join(" \u00b7 ") : "")));
    }
    const capital = (s) => s.charAt(0).toUpperCase() + s.slice(1);
    const hint = () => touch ? "Tap a map to choose a place; press Read only to read values without choosing." :
      "Point at a map to read values; click, or drag, to choose another place. Keyboard: arrow keys and Enter.";

    // ---- words beside the maps
    function far(values, sign, count, apart, start) { // the highest cells, not too near each other
      const out = [], free = new Uint8Array(n).fill(1), near = Math.cos(apart / RADIUS);
      const shut = (v, least) => { for (let i = 0, j = 0; i < n; i++, j += 3) if (v[0] * xyz[j] + v[1] * xyz[j + 1] + v[2] * xyz[j + 2] > least) free[i] = 0; };
      if (start) shut(at(place), Math.cos(AWAY / RADIUS));
      for (let best; out.length < count; shut(at(best), near)) {
        best = -1;
        for (let i = 0; i < n; i++) if (free[i] && (best < 0 || sign * values[i] > sign * values[best])) best = i;
        if (best < 0) break;
        out.push(best);
      }
      return out;
    }

    function ranking(title, cells, values, format, act) {
      const rows = cells.map((i) => {
        const button = element("button", { type: "button", title: act ? "Choose" : "Show on the maps" }, act ? act.text(i) : capital(nameOf(i)));
        button.onclick = () => { if (act) act.go(i); else { pointer = [lon[i], lat[i]]; overlay(); describe(); } };
        return element("li", {}, button, element("span", {}, format(values[i])));
      });
      return element("div", {}, element("p", { class: "gp-title" }, title), element("ol", { "aria-label": title }, ...rows));
    }

    let group = "all";
    function inform() {
      const rel = measure[part] === "relative", show = (v) => plain(v, 2) + (rel ? " \u03c3" : ""), lists = [];
      const head = element("p", { class: "gp-chosen" }, element("i", { "aria-hidden": "true" }), element("span", {}, element("b", {}, capital(nameOf(place))), element("small", {}, where(lon[place], lat[place]))));
      node.info.replaceChildren(head);
      const sides = two() ? [0, 1] : [0], columns_ = element("div", { class: "gp-lists" });
      if (part === "like") {
        sides.forEach((s) => lists.push(ranking(name(s) + ": most alike, over 2,000 km away", far(maps[s].field, 1, 5, APART, true), maps[s].field, show)));
        if (two()) {
          const d = maps[2].field, format = (v) => signed(v, 2) + (rel ? " \u03c3" : "");
          lists.push(ranking(name(0) + " higher than " + name(1), far(d, 1, 4, APART).filter((i) => d[i] > 0), d, format), ranking(name(1) + " higher than " + name(0), far(d, -1, 4, APART).filter((i) => d[i] < 0), d, format));
        }
      } else {
        sides.forEach((s) => lists.push(ranking(name(s) + ": brightest places", far(maps[s].field, 1, 5, 700), maps[s].field, show)));
        const among = D.groups.length > 1 ? subjects() : null;
        node.info.append(columns_);
        const nearestWords = element("div", { class: "gp-lists" });
        sides.forEach((s) => {
          const m = models[pair[s]], raw = words(m, place), values = rel ? raw.map((v, q) => (v - m.wordMean[q]) / Math.max(m.wordSd[q], 1e-9)) : raw;
          let order = Array.from(values.keys());
          if (group !== "all") { const from = D.groups[group][1], to = group + 1 < D.groups.length ? D.groups[group + 1][1] : D.queries.length; order = order.filter((q) => q >= from && q < to); }
          order.sort((a, b) => values[b] - values[a]);
          nearestWords.append(ranking(name(s) + ": words nearest to the place", order.slice(0, 8), values, show, { text: (q) => D.queries[q], go: setQuery }));
        });
        node.info.append(...(among ? [among] : []), nearestWords);
      }
      columns_.append(...lists);
      if (part === "like") node.info.append(columns_);
    }

    function subjects() {
      const [select, label] = chooser("Words about", element("option", { value: "all" }, "anything"), ...D.groups.map(([title], i) => element("option", { value: i }, title)));
      select.value = String(group);
      select.onchange = () => { group = select.value === "all" ? "all" : Number(select.value); inform(); node.info.querySelector("select").focus(); };
      return label;
    }

    // ---- curves
    const chart = { w: 560, h: 290, left: 46, right: 26, top: 14, bottom: 40 };
    function axes(xs, ys, label, yLabel, alt) {
      const { w, h, left, right, top, bottom } = chart, x0 = Math.log(xs[0]), x1 = Math.log(xs[xs.length - 1]);
      const x = (v) => left + (Math.log(v) - x0) / (x1 - x0) * (w - left - right), y = (v) => h - bottom - (v - ys[0]) / (ys[ys.length - 1] - ys[0]) * (h - top - bottom);
      const svg = drawn("svg", { viewBox: "0 0 " + w + " " + h, role: "img", "aria-label": alt });
      for (const v of ys) svg.append(drawn("line", { x1: left, x2: w - right, y1: y(v), y2: y(v), class: "gp-tick" }), drawn("text", { x: left - 7, y: y(v) + 4, "text-anchor": "end" }, plain(v, 2).replace(/0$/, "")));
      for (const v of xs) svg.append(drawn("line", { x1: x(v), x2: x(v), y1: h - bottom, y2: h - bottom + 5, class: "gp-axis" }), drawn("text", { x: x(v), y: h - bottom + 18, "text-anchor": "middle" }, whole(v)));
      svg.append(drawn("text", { x: (left + w - right) / 2, y: h - 4, "text-anchor": "middle", class: "gp-label" }, label), drawn("text", { x: 0, y: 0, transform: "translate(11 " + (h - bottom + top) / 2 + ") rotate(-90)", "text-anchor": "middle", class: "gp-label" }, yLabel));
      return { svg, x, y };
    }
    function curve(plot, points, colour, extra) {
      const d = points.filter(([, v]) => v !== null).map(([a, b], i) => (i ? "L" : "M") + plot.x(a).toFixed(1) + " " + plot.y(b).toFixed(1)).join("");
      plot.svg.append(drawn("path", { d, fill: "none", style: "stroke:var(" + colour + ")", ...extra }));
    }
    function halfWidth() { // km at which the kernel has fallen half way to its mean
      const mean = kernelMean(), level = (1 + mean) / 2;
      let low = 1, high = null;
      for (let d = 10; d < Math.PI * RADIUS; d *= 1.02) if (kernel(levels, decay, Math.cos(d / RADIUS)) < level) { high = d; break; } else low = d;
      if (high === null) return null;
      for (let i = 0; i < 40; i++) { const m = (low + high) / 2; if (kernel(levels, decay, Math.cos(m / RADIUS)) < level) high = m; else low = m; }
      return high;
    }
    function kernelMean() { let total = 0; for (let l = 0; l < levels; l++) total += (2 * l + 1) * Math.pow(1 + l, -2 * decay); return 1 / total; }

    function charts() {
      const half = halfWidth(), untrained = "untrained, L = " + levels + (decay ? ", falling" : "");
      const sides = [...new Set(models.map((m, i) => i))];
      const plot = axes([10, 100, 1000, 10000, 20000].filter((v) => v < 20000), [-0.25, 0, 0.25, 0.5, 0.75, 1], "distance, km", "cosine similarity",
        "Similarity against distance: " + untrained + (half ? " falls half way at " + whole(half) + " km" : " stays 1") + sides.map((i) => "; " + models[i].name + (models[i].half ? " at " + whole(models[i].half) + " km" : "")).join(""));
      const middles = D.edges.slice(1).map((e, i) => Math.sqrt(e * D.edges[i])).map((m) => Math.min(m, 10000)), line = [];
      for (let i = 0; i <= 240; i++) { const d = 10 * Math.pow(1000, i / 240); line.push([d, kernel(levels, decay, Math.cos(d / RADIUS))]); }
      sides.forEach((i) => curve(plot, models[i].curve.map((v, b) => [middles[b], v]).filter(([d]) => d < 10000), LINE_COLORS[i % LINE_COLORS.length], { "stroke-width": 2 }));
      curve(plot, line, "--gp-ink", { "stroke-width": 2.6, class: "gp-kernel" });
      if (half && half < 10000) {
        const y = (1 + kernelMean()) / 2;
        plot.svg.append(drawn("line", { x1: plot.x(half), x2: plot.x(half), y1: plot.y(y), y2: plot.y(-0.25), class: "gp-half" }), drawn("circle", { cx: plot.x(half), cy: plot.y(y), r: 4.5, class: "gp-dot" }));
      }
      const rows = [["--gp-ink", untrained, half, null], ...sides.map((i) => [LINE_COLORS[i % LINE_COLORS.length], models[i].name, models[i].half, models[i].resolution])];
      const key = element("table", {}, element("caption", {}, "Half-width: where similarity has fallen half way from 1 to its mean. Smallest square: told from its neighbours by a linear probe, three times of four."),
        element("thead", {}, element("tr", {}, ...["Encoder", "Half-width", "Smallest square"].map((t) => element("th", { scope: "col" }, t)))),
        element("tbody", {}, ...rows.map(([c, text, h, s], i) => { const dot = element("i", { "aria-hidden": "true" }); dot.style.background = "var(" + c + ")";
          return element("tr", {}, element("th", { scope: "row" }, dot, text), element("td", i ? {} : { class: "gp-halfwidth" }, h ? whole(h) + " km" : "\u2013"), element("td", {}, s ? whole(s) + " km" : "\u2013")); })));
      const sizes = D.sizes, board = axes([200, 500, 1000, 2000, 5000, 9000], [0.5, 0.6, 0.7, 0.8, 0.9, 1], "width of a square, km", "accuracy of a linear probe",
        "Accuracy with which a linear probe tells the squares of a checkerboard, by their width, for each model");
      board.svg.append(drawn("line", { x1: chart.left, x2: chart.w - chart.right, y1: board.y(0.75), y2: board.y(0.75), class: "gp-half" }));
      D.untrained.forEach(([d, values]) => {
        curve(board, values.map((v, i) => [sizes[i], Math.max(0.5, v)]), "--gp-soft", { "stroke-width": 1.4, "stroke-dasharray": "3 3" });
        const i = values.findIndex((v) => v >= 0.62);
        if (i >= 0) board.svg.append(drawn("text", { x: board.x(sizes[i]) - 6, y: board.y(values[i]) + 4, "text-anchor": "end", class: "gp-label" }, "L = " + d));
      });
      sides.forEach((i) => curve(board, models[i].checker.map((v, b) => [sizes[b], Math.max(0.5, v)]), LINE_COLORS[i % LINE_COLORS.length], { "stroke-width": 2 }));
      node.charts.replaceChildren(element("figure", {}, element("figcaption", {}, "Similarity against distance"), plot.svg),
        element("figure", {}, element("figcaption", {}, "Checkerboards that can be told"), board.svg), element("div", { class: "gp-key" }, key));
    }

    const slider = element("input", { type: "range", min: "1", max: "100", value: String(levels), "aria-label": "Number of degrees L" });
    const [weights, weightsLabel] = chooser("Degrees weigh", element("option", { value: "0" }, "alike"), element("option", { value: "1" }, "less the finer they are, 1 / (1 + l)"));
    const sliderValue = element("output", {});
    const sliderLabel = element("div", { class: "gp-slider" }, element("span", { "aria-hidden": "true" }, "Degrees L"), slider, sliderValue);
    slider.oninput = () => { levels = Number(slider.value); slide(); };
    weights.onchange = () => { decay = Number(weights.value); slide(); };
    function sayLevels() {
      const half = halfWidth();
      sliderValue.textContent = levels + " \u00b7 waves of " + whole(2 * Math.PI * RADIUS / Math.max(1, levels - 1)) + " km and longer" + (half ? " \u00b7 half-width " + whole(half) + " km" : "");
      slider.setAttribute("aria-valuetext", sliderValue.textContent);
    }
    function widen() { compute(); titles(); paint(maps[0]); charts(); describe(); }
    function slide() { sayLevels(); soon(widen); }

    // ---- doing
    const waiting = new Set();
    function soon(job) { // once in the next frame, however often it is asked for
      if (!waiting.size) requestAnimationFrame(() => { const jobs = [...waiting]; waiting.clear(); jobs.forEach((run) => run()); });
      waiting.add(job);
    }

    function titles() {
      for (const map of maps) {
        map.title.textContent = map.name || "";
        map.top.setAttribute("aria-label", "World map: " + (map.alt || ""));
        const format = map.ramp === "sign" ? (v) => signed(v, 2) : (v) => plain(v, 2), ends = map.field ? extremes(map.field) : [map.low_, map.high_];
        map.low.textContent = (ends[0] < map.low_ - 1e-6 ? "\u2264 " : "") + format(map.low_ || 0);
        map.high.textContent = (ends[1] > map.high_ + 1e-6 ? "\u2265 " : "") + format(map.high_ || 0);
        map.middle.textContent = map.ramp === "sign" ? map.units + " \u00b7 orange: more like it for " + name(0) + ", blue: for " + name(1) : map.units;
        map.bar.style.background = "linear-gradient(90deg," + (map.ramp === "sign" ? SIGNS : EMBER).join(",") + ")";
      }
    }
    function extremes(values) { let low = Infinity, high = -Infinity; for (const v of values) { if (v < low) low = v; if (v > high) high = v; } return [low, high]; }

    function draw() {
      compute();
      titles();
      maps.forEach(paint);
      overlay();
      describe();
      root.dataset.place = String(place);
      root.dataset.painted = String(1 + Number(root.dataset.painted || 0));
    }

    let lazy = 0;
    function later() { // lists can wait until the hand rests
      clearTimeout(lazy);
      lazy = setTimeout(() => { if (part === "scale") return; inform(); }, 120);
    }

    function choose(i, keep) {
      place = i;
      if (!keep) pointer = [lon[i], lat[i]];
      soon(draw);
      later();
    }

    function setQuery(q) {
      query = q;
      if (ask) ask.input.value = D.queries[q];
      [...node.chips.children].forEach((c, i) => c.setAttribute("aria-pressed", String(D.suggest[i] === q)));
      soon(draw);
      later();
    }

    function refresh() { arrange(); draw(); if (part === "scale") { sayLevels(); charts(); } else inform(); }

    function arrange() {
      const can = fits();
      for (const s of [0, 1]) if (!can.includes(pair[s])) pair[s] = can.find((i) => i !== pair[1 - s]) ?? can[0];
      choices.forEach(({ select }, s) => {
        select.replaceChildren(...can.map((i) => element("option", { value: i }, models[i].name)));
        select.value = String(pair[s]);
      });
      unit.value = measure[part];
      choices[0].label.firstChild.textContent = can.length > 1 && part !== "scale" ? "Left" : "Model";
      const fields = { like: [goto.box, ...(can.length > 1 ? choices.map((c) => c.label) : []), unitLabel], ask: [ask && ask.box, ...(can.length > 1 ? choices.map((c) => c.label) : []), unitLabel],
        scale: [sliderLabel, weightsLabel, ...(can.length > 1 ? [choices[0].label] : []), goto.box] }[part];
      node.top.replaceChildren(...fields, ...(touch ? [readButton] : []), ...(part === "ask" ? [node.chips] : []));
      node.lead.textContent = {
        like: "Click anywhere: each cell of land takes the colour of its similarity to that place. Relative values count standard deviations (\u03c3) from the mean over land; they compare models whose similarities lie in different ranges.",
        ask: "Each cell takes the colour of its similarity to the words. Relative values count standard deviations (\u03c3) from the mean over land, so that words can be compared; the picture stays the same.",
        scale: "What an encoding can tell apart before anything is learned: similarity to the chosen place depends on distance alone. Beside it, what training made of it.",
      }[part];
      const pairShown = part === "scale" || two();
      maps[1].figure.hidden = !pairShown;
      maps[2].figure.hidden = part === "scale" || !two();
      node.info.hidden = part === "scale";
      node.charts.hidden = part !== "scale";
      root.dataset.part = part;
      node.grid.classList.toggle("gp-single", !pairShown);
      tabs.forEach((tab, i) => { tab.setAttribute("aria-selected", String(D.show[i] === part)); tab.tabIndex = D.show[i] === part ? 0 : -1; });
      node.panel.setAttribute("aria-labelledby", id + part);
    }

    function open(p) { part = p; pointer = null; refresh(); }

    function listen(map) {
      const top = map.top;
      const spot = (e) => { const r = top.getBoundingClientRect(); return unproject((e.clientX - r.left - map.ox) / map.sx, (e.clientY - r.top - map.oy) / map.sy); };
      const look = (p) => { pointer = p; overlay(); describe(); };
      const pick = (p) => { if (reading) { look(p); return; } pointer = p; const c = cellAt(...p); choose(c >= 0 ? c : nearest(...p), true); };
      top.onclick = (e) => { const p = spot(e); if (p) pick(p); };
      top.onpointermove = (e) => {
        if (e.pointerType === "touch") return;
        const p = spot(e);
        if (p && e.buttons & 1) pick(p); else look(p);
      };
      top.onpointerleave = (e) => { if (e.pointerType !== "touch" && document.activeElement !== top) look(null); };
      top.onkeydown = (e) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
        if (!step && e.key !== "Enter" && e.key !== " ") return;
        e.preventDefault();
        const from = pointer || [lon[place], lat[place]], by = e.shiftKey ? FAST : STEP;
        if (!step) { pick(from); return; }
        look([(from[0] + step[0] * by + 540) % 360 - 180, Math.max(-89, Math.min(89, from[1] + step[1] * by))]);
      };
    }

    new ResizeObserver(() => soon(draw)).observe(node.grid);
    arrange();
    setQuery(query);
    refresh();
    root.dataset.ready = "1";
  }

  document.querySelectorAll("div.gp:not([data-ready])").forEach(mount);
})();
