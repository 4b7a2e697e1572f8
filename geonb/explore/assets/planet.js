// World maps of similarity: click a place, or ask in words. One data block per view, no network.

// Lightness rises with the value, so the order is seen whatever colours an eye tells apart; blue and orange for signs.
const EMBER = ["#1d2547", "#352f74", "#6b3a8d", "#a8468a", "#da5d6e", "#f58b4c", "#fdc04f", "#fff3c4"];
const SIGNS = ["#cfeaff", "#66b3ee", "#2f6ba6", "#20303f", "#2a2c31", "#3f3020", "#a0601f", "#eda045", "#ffe6bd"];
const SEA = [11, 18, 32], EDGE = "#2b3a52", COAST = "rgba(214,228,244,.42)", LINES = "rgba(150,175,205,.12)";
const RADIUS = 6371.0088, FAR = 2000, PAD = 6, STEP = 2, FAST = 10; // km, km, pixels, degrees, degrees
const PARTS = { like: "Like this place", ask: "Ask the planet", answer: "Answer" };
const HELP = "Arrow keys move the pointer by two degrees, with Shift by ten; Enter chooses the place below it.";
const LEADS = {
  like: "Click anywhere: each cell of land takes the colour of its similarity to that place. ",
  ask: "Each cell takes the colour of its similarity to the words. ",
  answer: "Each cell of land takes the colour of its score for the words; circles mark the places that fit them. ",
};
const RELATIVE = "Relative values count standard deviations (\u03c3) from the mean over land; they compare models and words.";

const fixed = (v, digits) => (v < 0 ? "\u2212" : "") + Math.abs(v).toFixed(digits);
const signed = (v, digits) => (v < 0 ? "" : "+") + fixed(v, digits);
const capital = (s) => s.charAt(0).toUpperCase() + s.slice(1);
const simple = (s) => s.trim().normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
const table = (stops) => Array.from({ length: 256 }, (_, b) => ramp(stops, b / 255));
const RAMPS = { value: [EMBER, table(EMBER)], sign: [SIGNS, table(SIGNS)] };

function vector(lon, lat) {
  const c = Math.cos(radians(lat));
  return [c * Math.cos(radians(lon)), c * Math.sin(radians(lon)), Math.sin(radians(lat))];
}

// Equal-area cells on land: columns in each band from south to north, and the gaps between the numbers of land cells.
function readCells(D) {
  const columns = unpack(D.grid, Uint16Array), gaps = unpack(D.cells, Uint16Array), n = gaps.length;
  const first = [0], edges = [-1], lon = new Float64Array(n), lat = new Float64Array(n), xyz = [];
  for (const c of columns) first.push(first[first.length - 1] + c);
  const all = first[columns.length], rowOf = new Int32Array(all).fill(-1);
  for (let i = 1; i <= columns.length; i++) edges.push(-1 + 2 * first[i] / all); // in sin(latitude)
  for (let i = 0, cell = 0, band = 0; i < n; i++) {
    cell += gaps[i];
    while (first[band + 1] <= cell) band++;
    rowOf[cell] = i;
    lon[i] = (cell - first[band] + 0.5) * 360 / columns[band] - 180;
    lat[i] = Math.asin((edges[band] + edges[band + 1]) / 2) * 180 / Math.PI;
    xyz.push(vector(lon[i], lat[i]));
  }
  const bandOf = (lat_) => clamp(edges.findLastIndex((e) => e <= Math.sin(radians(lat_))), 0, columns.length - 1);
  const inBand = (band, lon_) => rowOf[first[band] + Math.floor((lon_ + 180) / 360 * columns[band]) % columns[band]]; // -1: sea
  const cosine = (i, v) => v[0] * xyz[i][0] + v[1] * xyz[i][1] + v[2] * xyz[i][2];
  return { n, lon, lat, xyz, bandOf, inBand, cosine, at: (a, b) => inBand(bandOf(b), a),
    km: (i, v) => RADIUS * Math.acos(clamp(cosine(i, v), -1, 1)),
    nearest: (a, b) => { const v = vector(a, b); return highest(n, (i) => cosine(i, v)); } };
}

function highest(n, value) {
  let best = 0;
  for (let i = 1; i < n; i++) if (value(i) > value(best)) best = i;
  return best;
}

async function readVectors(text, k) { // int8, column by column, differences of rows, zlib -> rows of k
  const steps = new Int8Array(await inflate(text)), n = steps.length / k, rows = new Int8Array(n * k);
  for (let j = 0, s = 0; j < k; j++) for (let i = 0, v = 0; i < n; i++) rows[i * k + j] = v = (v + steps[s++]) << 24 >> 24;
  return rows;
}

function dots(rows, query, scale) { // of every row of k numbers with a query of k
  const k = query.length, out = new Float32Array(rows.length / k);
  for (let i = 0, s = 0; i < out.length; i++) {
    let sum = 0;
    for (let j = 0; j < k; j++) sum += rows[s++] * query[j];
    out[i] = sum * scale;
  }
  return out;
}

function relative(values) { // in standard deviations from the mean
  const n = values.length, mean = values.reduce((s, v) => s + v, 0) / n, square = values.reduce((s, v) => s + v * v, 0) / n;
  const sd = Math.sqrt(Math.max(square - mean * mean, 1e-12));
  return values.map((v) => (v - mean) / sd);
}

async function mount(root, D) {
  const id = root.id = freshId("gp"), touch = matchMedia("(any-pointer: coarse)").matches || navigator.maxTouchPoints > 0;
  const cells = readCells(D), { n, lon, lat } = cells, world = worldMap(D.land);
  const label = unpack(D.label, Uint16Array), townKm = unpack(D.townKm, Uint16Array); // 65535: no town, only a country
  const distance = (i) => townKm[i] > Math.max(60, D.km / 2) ? whole(townKm[i]) + " km from " : "near ";
  const nameOf = (i) => (townKm[i] === 65535 ? "" : distance(i)) + D.labels[label[i]];

  // ---- the models
  const models = await Promise.all(D.models.map(async (m) => ({
    ...m, cells: m.vectors && await readVectors(m.vectors, m.k), field: m.field && unpack(m.field, Float32Array), asked: m.words && await readVectors(m.words, m.k),
    wordMean: m.words && unpack(m.wordMean, Float32Array), wordSd: m.words && unpack(m.wordSd, Float32Array),
  })));
  const row = (m, rows, i) => Float32Array.from(rows.subarray(i * m.k, (i + 1) * m.k));
  const likeness = (m, i) => dots(m.cells, row(m, m.cells, i), m.step * m.step);
  const fitness = (m, q) => dots(m.cells, row(m, m.asked, q), m.step * m.wordStep);
  const wordsAt = (m, i) => dots(m.asked, row(m, m.cells, i), m.step * m.wordStep);

  // ---- state
  let part = D.show[0], query = D.query ?? D.suggest[0], place = cells.nearest(...D.place), pointer = null, reading = false;
  const measure = { like: "cosine", ask: "relative", answer: "score" }, pair = [0, Math.min(1, models.length - 1)];
  const fits = () => models.map((_, i) => i).filter((i) => part !== "ask" || models[i].asked);
  const two = () => pair[0] !== pair[1] && fits().length > 1;
  const name = (side) => models[pair[side]].name, answers = D.answer ? D.answer.places : [];

  // ---- structure
  const field = (label, control) => element("label", { class: "gp-field" }, element("span", {}, label), control);
  const option = (value, text) => element("option", { value }, text);
  const tabs = D.show.map((p, i) => {
    const tab = button({ role: "tab", id: id + p, "aria-controls": id + "panel" }, PARTS[p], () => open(p));
    tab.onkeydown = (e) => { if (e.key === "ArrowRight" || e.key === "ArrowLeft") { open(D.show[1 - i]); tabs[1 - i].focus(); } };
    return tab;
  });
  const sides = [0, 1].map((side) => {
    const select = element("select", {});
    select.onchange = () => { pair[side] = Number(select.value); refresh(); };
    return { select, label: field(side ? "Right" : "Left", select) };
  });
  const unit = element("select", {}, option("cosine", "cosine similarity"), option("relative", "relative (\u03c3)"));
  const unitField = field("Values", unit);
  unit.onchange = () => { measure[part] = unit.value; refresh(); };
  const readButton = button({ class: "gp-read", "aria-pressed": "false" }, "Read only", () => {
    reading = !reading;
    readButton.setAttribute("aria-pressed", String(reading));
  });
  const goTo = search("Go to", "a town or a country", towns(), (i) => choose(i));
  const ask = search("Ask", "rice terraces, harbour town, permafrost \u2026", new Map(D.queries.map((q, i) => [q, i])), setQuery);
  const chips = element("div", { class: "gp-chips" }, ...D.suggest.map((q) => button({ "data-query": q }, D.queries[q], () => setQuery(q))));
  const top = element("div", { class: "gp-head" }), lead = element("p", { class: "gp-lead" });
  const readout = element("output", { class: "gp-readout", "aria-live": "polite" });
  const maps = ["a", "b", "d"].map((key) => {
    const span = (kind) => element("span", kind ? { class: kind } : {});
    const canvas = (kind, more) => element("canvas", { class: "gp-" + kind, ...more });
    const map = { base: canvas("base", { "aria-hidden": "true" }), lines: canvas("lines", { "aria-hidden": "true" }),
      top: canvas("top", { tabindex: "0", role: "application", "aria-describedby": id + "help" }),
      title: span(), value: span("gp-value"), low: span(), high: span(), units_: span(), caret: element("i", { class: "gp-caret" }) };
    map.bar = element("span", { class: "gp-bar", "aria-hidden": "true" }, map.caret);
    map.plot = element("div", { class: "gp-plot" }, map.base, map.lines, map.top);
    map.figure = element("figure", { class: "gp-map gp-" + key }, element("figcaption", {}, map.title, map.value), map.plot,
      element("div", { class: "gp-legend" }, map.low, map.bar, map.high, map.units_));
    listen(map);
    return map;
  });
  const info = element("section", { class: "gp-info", "aria-label": "In words" });
  const grid = element("div", { class: "gp-grid" }, ...maps.map((m) => m.figure), info);
  const panel = element("div", { id: id + "panel", class: "gp-panel" }, top, lead, readout, grid);
  const tabList = element("div", { class: "gp-tabs", role: "tablist", "aria-label": "What to look at" }, ...tabs);
  if (D.show.length > 1) panel.setAttribute("role", "tabpanel");
  root.classList.toggle("gp-touch", touch);
  root.replaceChildren(...(D.show.length > 1 ? [tabList] : []), ...simulated(), panel,
    element("details", { class: "gp-notes" }, element("summary", {}, "How exact this is"), ...notes()),
    element("p", { class: "gp-help", id: id + "help" }, HELP));

  function simulated() {
    return !D.simulated.length ? [] : [element("p", { class: "gp-notice" }, element("strong", {}, "Simulated: "),
      "these models were trained on simulated " + D.simulated.join(" and ") + " of real places.")];
  }

  function notes() {
    const rows = models.filter((m) => m.cells).map((m) => element("li", {}, element("b", {}, m.name), ": " + m.k + " of " + m.of + " directions, as 8-bit " +
      "integers; rank correlation at least " + m.rank.toFixed(3) + ", error at most " + m.error.toFixed(3)));
    return [element("p", {}, whole(n) + " cells of equal area, about " + D.km + " km wide, each at least half land, embedded at " +
      "their centres. A cell is named after its largest town, or the nearest one. Equal Earth projection."), element("ul", {}, ...rows)];
  }

  function towns() { // name -> the nearest cell
    const best = new Map();
    for (let i = 0; i < n; i++) {
      const name = D.labels[label[i]];
      if (!best.has(name) || townKm[i] < townKm[best.get(name)]) best.set(name, i);
    }
    return new Map([...best].sort((a, b) => a[0] < b[0] ? -1 : 1));
  }

  function search(label, hint, entries, act) { // the browser's own list of suggestions; Enter takes the first that fits
    const list = element("datalist", { id: id + "list" + simple(label).replace(" ", "") }, ...[...entries.keys()].map((text) => option(text, "")));
    const input = element("input", { type: "text", list: list.id, autocomplete: "off", spellcheck: "false", placeholder: hint });
    const tally = element("output", { class: "gp-tally", "aria-live": "polite" });
    const keys = [...entries.keys()], take = (text) => { input.value = text; tally.textContent = ""; act(entries.get(text)); };
    const find = () => {
      const wanted = simple(input.value), starts = keys.find((text) => simple(text).startsWith(wanted));
      return starts ?? keys.find((text) => simple(text).includes(wanted));
    };
    input.onfocus = () => input.select();
    input.oninput = () => {
      if (entries.has(input.value)) take(input.value);
      else tally.textContent = find() === undefined ? "nothing fits" : "";
    };
    input.onkeydown = (e) => {
      const found = e.key === "Enter" && input.value.trim() ? find() : undefined;
      if (found !== undefined) take(found);
    };
    return { input, box: element("div", { class: "gp-search" }, field(label, input), list, tally) };
  }

  // ---- what the maps show
  function compute() {
    const rel = measure[part] === "relative", shown = (two() ? [0, 1] : [0]).map((s) => models[pair[s]]);
    const raw = shown.map((m) => m.field || (part === "ask" ? fitness(m, query) : likeness(m, place)));
    const values = rel ? raw.map(relative) : raw, sorted = values.map((v) => Float32Array.from(v).sort());
    const quantile = (v, f) => v[Math.min(n - 1, Math.floor(f * n))];
    const low = rel ? -2 : D.answer ? 0 : Math.min(...sorted.map((v) => quantile(v, 0.01)));
    const clear = D.answer ? D.answer.threshold : -Infinity; // so that a map of nonsense is dark
    const high = rel ? 3.5 : part === "like" ? 1 : Math.max(clear, ...sorted.map((v) => quantile(v, 0.999)));
    const units = D.answer ? "score" : rel ? "\u03c3" : "cosine similarity";
    const what = part !== "like" ? "similarity to the words \u201c" + D.queries[query] + "\u201d" : "similarity to the chosen place";
    values.forEach((v, s) => Object.assign(maps[s], { name: name(s), field: v, range: [low, high], ramp: "value", units,
      alt: what + ", model " + name(s) }));
    if (!two()) return;
    const d = values[0].map((v, i) => v - values[1][i]), most = Math.max(quantile(Float32Array.from(d, Math.abs).sort(), 0.99), 1e-6);
    Object.assign(maps[2], { name: name(0) + " \u2212 " + name(1), field: d, range: [-most, most], ramp: "sign",
      units: "difference, " + units + " \u00b7 orange: more like it for " + name(0) + ", blue: for " + name(1),
      alt: "difference of the two maps: " + name(0) + " minus " + name(1) });
  }

  // ---- drawing
  function size(map) { // to the space there is: which cell each pixel shows, and the lines above
    const w = map.plot.clientWidth, h = map.plot.clientHeight;
    if (!w || (map.w === w && map.h === h && map.dpr === devicePixelRatio)) return;
    const r = Math.min(2, devicePixelRatio || 1), coarse = Math.min(r, Math.max(1, 800 / w));
    for (const [c, f] of [[map.base, coarse], [map.lines, r], [map.top, r]]) { c.width = Math.round(w * f); c.height = Math.round(h * f); }
    const s = Math.min((w - 2 * PAD) / ASPECT, h - 2 * PAD), f = { ax: s * ASPECT, ay: s, bx: (w - s * ASPECT) / 2, by: (h - s) / 2 };
    const W = map.base.width, H = map.base.height, index = new Int32Array(W * H).fill(-2);
    for (let y = 0; y < H; y++) {
      const v = ((y + 0.5) / coarse - f.by) / f.ay, middle = v > 0 && v < 1 && unproject(0.5 + 1e-4, v);
      if (!middle) continue;
      const band = cells.bandOf(middle[1]), degreesEach = middle[0] / 1e-4; // along a parallel, longitude is in proportion to x
      for (let x = 0; x < W; x++) {
        const a = (((x + 0.5) / coarse - f.bx) / f.ax - 0.5) * degreesEach;
        if (a >= -180 && a < 180) index[y * W + x] = cells.inBand(band, a);
      }
    }
    Object.assign(map, { w, h, r, f, dpr: devicePixelRatio, index, image: new ImageData(W, H) });
    const g = clean(map.lines, map);
    for (const [paths, color, width] of [[world.lines, LINES, 1], [world.rings, COAST, w > 500 ? 0.8 : 0.6], [[world.edge], EDGE, 1.2]]) {
      g.strokeStyle = color; g.lineWidth = width;
      g.beginPath(); paths.forEach((line) => trace(g, f, line, paths !== world.lines)); g.stroke();
    }
  }

  const share = (map, v) => clamp((v - map.range[0]) / (map.range[1] - map.range[0]), 0, 1);

  function paint(map) {
    if (map.figure.hidden) return;
    size(map);
    if (!map.image) return;
    const data = map.image.data, colors = Array.from(map.field, (v) => RAMPS[map.ramp][1][Math.round(255 * share(map, v))]);
    for (let p = 0, o = 0; p < map.index.length; p++, o += 4) {
      const k = map.index[p], color = k < 0 ? SEA : colors[k];
      data[o] = color[0]; data[o + 1] = color[1]; data[o + 2] = color[2]; data[o + 3] = k === -2 ? 0 : 255;
    }
    map.base.getContext("2d").putImageData(map.image, 0, 0);
  }

  function overlay() { // the chosen place and the pointer, in all maps
    for (const map of maps) {
      if (map.figure.hidden || !map.w) continue;
      const g = clean(map.top, map), f = map.f;
      const pixel = (a, b) => { const [u, v] = project(a, b); return [f.bx + u * f.ax, f.by + v * f.ay]; };
      outlined(g, () => g.arc(...pixel(lon[place], lat[place]), 6, 0, 7), "#fff", "#05080f");
      for (const p of answers) outlined(g, () => g.arc(...pixel(p.lon, p.lat), 4, 0, 7), "#8fe3ff", "#05080f");
      if (!pointer) continue;
      const [x, y] = pixel(...pointer), arms = [[1, 0], [-1, 0], [0, 1], [0, -1]];
      outlined(g, () => arms.forEach(([dx, dy]) => { g.moveTo(x + 3 * dx, y + 3 * dy); g.lineTo(x + 9 * dx, y + 9 * dy); }), "#8fe3ff", "#05080f");
    }
  }

  function titles() {
    for (const map of maps) {
      if (map.figure.hidden) continue;
      const format = map.ramp === "sign" ? signed : fixed, [low, high] = map.range;
      map.title.textContent = map.name;
      map.top.setAttribute("aria-label", "World map: " + map.alt);
      map.low.textContent = (map.field.some((v) => v < low - 1e-6) ? "\u2264 " : "") + format(low, 2);
      map.high.textContent = (map.field.some((v) => v > high + 1e-6) ? "\u2265 " : "") + format(high, 2);
      map.units_.textContent = map.units;
      map.bar.style.background = "linear-gradient(90deg," + RAMPS[map.ramp][0].join(",") + ")";
    }
  }

  function describe() { // the place below the pointer, read on every map
    const cell = pointer ? cells.at(...pointer) : -1, said = [];
    for (const map of maps) {
      const seen = cell >= 0 && !map.figure.hidden;
      map.value.textContent = seen ? (map.ramp === "sign" ? signed : fixed)(map.field[cell], 3) : "";
      map.caret.hidden = !seen;
      map.caret.style.left = seen ? 100 * share(map, map.field[cell]) + "%" : "0";
      if (seen) said.push(" \u00b7 " + map.name + ": " + map.value.textContent);
    }
    if (!pointer) {
      readout.replaceChildren(element("span", {}, touch ? "Tap a map to choose a place; press Read only to read values without choosing."
        : "Point at a map to read values; click, or drag, to choose another place. Keyboard: arrow keys and Enter."));
      return;
    }
    const away = " \u00b7 " + whole(cells.km(place, vector(...pointer))) + " km from the chosen place";
    readout.replaceChildren(element("b", {}, cell >= 0 ? capital(nameOf(cell)) : "Sea, or a shore too narrow for a cell"), " ",
      element("span", {}, position(...pointer, 1) + away + said.join("")));
  }

  // ---- words beside the maps
  function extremes(values, count, apart, away) { // the highest cells, not too near each other, not near the chosen place
    const out = [], free = Float32Array.from(values);
    const shut = (i, km) => {
      const least = Math.cos(km / RADIUS);
      for (let j = 0; j < n; j++) if (cells.cosine(j, cells.xyz[i]) > least) free[j] = -Infinity;
    };
    if (away) shut(place, away);
    while (out.length < count) {
      const best = highest(n, (i) => free[i]);
      if (free[best] === -Infinity) break;
      out.push(best);
      shut(best, apart);
    }
    return out;
  }

  function ranking(title, items, values, format, text, go) {
    const rows = items.map((i) => element("li", {}, button({}, text(i), () => go(i)), element("span", {}, format(values[i]))));
    return element("div", {}, element("p", { class: "gp-title" }, title), element("ol", { "aria-label": title }, ...rows));
  }

  function inform() {
    const rel = measure[part] === "relative", unit_ = rel ? " \u03c3" : "", shown = two() ? [0, 1] : [0];
    const show = (i) => { pointer = [lon[i], lat[i]]; overlay(); describe(); }, text = (i) => capital(nameOf(i));
    const value = (v) => fixed(v, 2) + unit_, lists = [];
    for (const s of shown) {
      const f = maps[s].field, title = name(s) + (part === "like" ? ": most similar, over 2,000 km away" : ": brightest places");
      if (!D.answer) lists.push(ranking(title, part === "like" ? extremes(f, 5, 1500, FAR) : extremes(f, 5, 700), f, value, text, show));
    }
    if (part === "ask") for (const s of shown) {
      const m = models[pair[s]], raw = wordsAt(m, place), usual = (v, q) => (v - m.wordMean[q]) / Math.max(m.wordSd[q], 1e-9);
      const values = rel ? raw.map(usual) : raw;
      const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, 8);
      lists.push(ranking(name(s) + ": words nearest to the place", order, values, value, (q) => D.queries[q], setQuery));
    }
    if (D.answer) {
      const called = (i) => [answers[i].title, answers[i].country].filter(Boolean).join(", ");
      lists.push(answers.length ? ranking("Places that fit, by score", [...answers.keys()], answers.map((p) => p.score), (v) => fixed(v, 1), called,
        (i) => { pointer = [answers[i].lon, answers[i].lat]; overlay(); describe(); }) : element("p", {}, "No clear place."));
    }
    const chosen = [element("b", {}, capital(nameOf(place))), element("small", {}, position(lon[place], lat[place], 1))];
    info.replaceChildren(element("p", { class: "gp-chosen" }, element("i", { "aria-hidden": "true" }), element("span", {}, ...chosen)),
      element("div", { class: "gp-lists" }, ...lists));
  }

  // ---- doing
  let waiting = false, resting = 0;
  function soon() { // one picture a frame, however often it is asked for; the lists wait until the hand rests
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
    clearTimeout(resting);
    resting = setTimeout(inform, 120);
  }

  function draw() {
    waiting = false;
    compute();
    titles();
    maps.forEach(paint);
    overlay();
    describe();
    root.dataset.place = String(place);
  }

  function choose(i, keep) {
    place = i;
    if (!keep) pointer = [lon[i], lat[i]];
    soon();
  }

  function setQuery(q) {
    query = q;
    ask.input.value = D.queries[q];
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.dataset.query === String(q)));
    soon();
  }

  function open(p) { part = p; pointer = null; refresh(); }

  function refresh() { // controls, maps and lists of the part that is open
    const can = fits(), several = can.length > 1;
    for (const s of [0, 1]) if (!can.includes(pair[s])) pair[s] = can.find((i) => i !== pair[1 - s]) ?? can[0];
    sides.forEach(({ select, label }, s) => {
      select.replaceChildren(...can.map((i) => option(i, models[i].name)));
      select.value = String(pair[s]);
      label.hidden = !several;
    });
    unit.value = measure[part];
    top.replaceChildren((part === "ask" ? ask : goTo).box, ...sides.map((s) => s.label), ...(D.answer ? [] : [unitField]),
      ...(touch ? [readButton] : []), ...(part === "ask" ? [chips] : []));
    lead.textContent = LEADS[part] + (D.answer ? D.answer.explanation : RELATIVE);
    maps[1].figure.hidden = maps[2].figure.hidden = !two();
    root.dataset.part = part;
    grid.classList.toggle("gp-single", !two());
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(D.show[i] === part));
      tab.tabIndex = D.show[i] === part ? 0 : -1;
    });
    if (D.show.length > 1) panel.setAttribute("aria-labelledby", id + part);
    draw();
    inform();
  }

  function listen(map) {
    const canvas = map.top;
    const spot = (e) => {
      const r = canvas.getBoundingClientRect(), f = map.f;
      return unproject((e.clientX - r.left - f.bx) / f.ax, (e.clientY - r.top - f.by) / f.ay);
    };
    const look = (p) => { pointer = p; overlay(); describe(); };
    const pick = (p) => {
      if (reading) return look(p);
      const cell = cells.at(...p);
      pointer = p;
      choose(cell >= 0 ? cell : cells.nearest(...p), true);
    };
    canvas.onclick = (e) => { const p = spot(e); if (p) pick(p); };
    canvas.onpointermove = (e) => {
      if (e.pointerType === "touch") return;
      const p = spot(e);
      if (p && e.buttons & 1) pick(p); else look(p);
    };
    canvas.onpointerleave = (e) => { if (e.pointerType !== "touch" && document.activeElement !== canvas) look(null); };
    canvas.onkeydown = (e) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
      if (!step && e.key !== "Enter" && e.key !== " ") return;
      e.preventDefault();
      const from = pointer || [lon[place], lat[place]], by = e.shiftKey ? FAST : STEP;
      if (!step) pick(from);
      else look([(from[0] + step[0] * by + 540) % 360 - 180, clamp(from[1] + step[1] * by, -89, 89)]);
    };
  }

  new ResizeObserver(soon).observe(grid);
  if (D.queries.length) setQuery(query);
  refresh();
  root.dataset.ready = "1";
}

mountAll("div.gp", mount);
