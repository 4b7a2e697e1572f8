// A map and an embedding side by side: select in one, see the other. One data block per view, no network.

const STEP = 0.025, MOST_ZOOM = 64, LISTED = 100;
const PAD = 8, REACH = 14, TOUCH_REACH = 24; // pixels
const TOOLS = {
  explore: ["Explore", "Drag to move, Ctrl and wheel to zoom. On a touch screen one finger scrolls the page, two move a picture."],
  box: ["Box", "Drag a box over either picture to select."],
  lasso: ["Lasso", "Draw around places in either picture to select them."],
};
const HELP = "Arrow keys move the cursor, Space inspects the place under it. Enter starts a box, or with Lasso an outline that " +
  "follows the cursor; Enter again ends it; Shift and Enter adds one more. Plus and minus zoom, 0 shows everything, " +
  "Escape clears the selection. The selection can be read as a list below.";

function link(address, words) { // an https address becomes a link, anything else stays text
  let url = null;
  try { url = new URL(address); } catch { /* no address */ }
  if (!url || url.protocol !== "https:" || url.username || url.password) return element("span", {}, words || address);
  const shown = words || (url.hostname + url.pathname).slice(0, 60);
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, shown);
}

function mount(root, D) {
  const n = D.n, id = freshId("gl"), coarse = matchMedia("(pointer: coarse)").matches;
  const unit = (text, axis) => Float64Array.from(unpack(text, Uint16Array).filter((_, i) => i % 2 === axis), (v) => v / 65535);
  const lon = unit(D.lonlat, 0).map((v) => v * 360 - 180), lat = unit(D.lonlat, 1).map((v) => v * 180 - 90);
  const nameOf = (k) => D.hover && D.hover[k] || "Place " + (k + 1);
  const where = (k) => position(lon[k], lat[k], 2);
  const columns = D.columns.map((c) => readColumn(c, "--gl-other", "--gl-none")), world = worldMap(D.land);
  const views = [
    { x: Float32Array.from(unit(D.xy, 0)), y: Float32Array.from(unit(D.xy, 1), (v) => 1 - v), aspect: D.aspect },
    { x: new Float32Array(n), y: new Float32Array(n), aspect: ASPECT, world },
  ];
  for (let k = 0; k < n; k++) [views[1].x[k], views[1].y[k]] = project(lon[k], lat[k]);

  const mark = new Uint8Array(n).fill(2); // 0: its class is hidden, 1: shown, 2: shown and selected
  const base = new Uint8Array(n), inside = new Uint8Array(n); // in an earlier shape, in the last one
  const rows = Uint32Array.from(base, (_, k) => k), hidden = new Set(); // rows: in the order of drawing
  let column = { bin: new Uint8Array(n), colors: [D.color] }, shapes = [], count = n, listed = false;
  let near = -1, chosen = -1, cursor = null, tracing = false, about = null, tool = coarse ? "explore" : "box";

  // ---- structure
  const status = element("output", { class: "gl-status", "aria-live": "polite" });
  status.style.setProperty("--gl-wide", 2 * whole(n).length + 10 + "ch"); // room for every count, so that nothing moves
  const readout = element("output", { class: "gl-readout", "aria-live": "polite" });
  const legend = element("div", { class: "gl-legend", role: "group", "aria-label": "Legend" });
  const choice = element("select", {}, ...columns.map((c) => element("option", {}, c.name)));
  const tools = element("fieldset", { class: "gl-tools" }, element("legend", { class: "gl-hidden" }, "What dragging does"));
  for (const [value, [words, title]] of Object.entries(TOOLS)) {
    const radio = element("input", { type: "radio", name: id + "tool", value });
    radio.checked = value === tool;
    radio.onchange = () => { // until a tool is chosen by hand, a finger scrolls the page
      use(value);
      root.classList.toggle("gl-brushing", value !== "explore");
    };
    tools.append(element("label", { title }, radio, element("span", {}, words)));
  }
  const resetButton = button({ title: "Everything as it was: selection, classes, zoom" }, "Reset", reset);
  const list = element("div", { class: "gl-list", tabindex: "0", role: "region", "aria-label": "List of the selection" });
  const details = element("details", {}, element("summary", {}, "Selection as a list"), list);
  const card = element("section", { class: "gl-card", "aria-label": "Inspected place", "aria-live": "polite" });
  const plots = element("div", { class: "gl-plots" });
  card.hidden = true;
  views.forEach((view, i) => {
    const name = D.titles[i], canvas = (kind, more) => element("canvas", { class: "gl-" + kind, ...more });
    view.base = canvas("base", { "aria-hidden": "true" });
    view.top = canvas("top", { tabindex: "0", role: "application", "aria-label": D.alt[i] || name, "aria-describedby": id });
    view.plot = element("div", { class: "gl-plot" }, view.base, view.top);
    Object.assign(view, { k: 1, cx: 0.5, cy: 0.5 });
    const zoom = element("div", { class: "gl-zoom" },
      button({ "aria-label": "Zoom in: " + name }, "+", () => zoomBy(view, 2)),
      button({ "aria-label": "Zoom out: " + name }, "\u2212", () => zoomBy(view, 0.5)),
      button({ "aria-label": "All: " + name, title: "Show everything" }, "All", () => look(view, 1, 0.5, 0.5)));
    plots.append(element("figure", { class: i ? "gl-map" : "gl-embedding" },
      element("figcaption", {}, element("span", {}, name), zoom), view.plot));
    listen(view, i);
  });
  const head = element("div", { class: "gl-head" }, tools, element("div", { class: "gl-row" }, status, button({}, "Clear", clear), resetButton));
  if (columns.length) head.prepend(element("label", {}, "Colour by ", choice));
  root.classList.toggle("gl-touch", coarse || navigator.maxTouchPoints > 0);
  root.replaceChildren(head, plots, readout, legend, card, details, element("p", { class: "gl-hidden", id }, HELP));
  use(tool);

  function use(value) {
    tool = root.dataset.tool = value;
    tracing = false;
    readout.dataset.hint = TOOLS[tool][1] + (coarse ? " Tap a place to inspect it." : " Point at a place to read it, click to inspect it.");
  }

  // ---- from places to pixels
  function frame(view) {
    const ax = view.sx * view.k, ay = view.sy * view.k;
    return { ax, ay, bx: view.w / 2 - view.cx * ax, by: view.h / 2 - view.cy * ay };
  }
  const toUnit = (view, [x, y]) => { const f = frame(view); return [(x - f.bx) / f.ax, (y - f.by) / f.ay]; };
  const toPixel = (view, x, y) => { const f = frame(view); return [f.bx + x * f.ax, f.by + y * f.ay]; };

  function size() { // to the space there is; says whether that changed
    let changed = false;
    for (const view of views) {
      const r = Math.min(2, window.devicePixelRatio || 1), { width: w, height: h } = view.top.getBoundingClientRect();
      const W = Math.round(w * r), H = Math.round(h * r), s = Math.min((w - 2 * PAD) / view.aspect, h - 2 * PAD);
      Object.assign(view, { w, h, r, sx: s * view.aspect, sy: s });
      if (!W || !H || (view.base.width === W && view.base.height === H)) continue;
      changed = true;
      for (const c of [view.base, view.top]) { c.width = W; c.height = H; }
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
    redraw();
  }

  function zoomAt(view, k, [ux, uy], [x, y]) { // so that the place (ux, uy) is then at the pixel (x, y)
    k = clamp(k, 1, MOST_ZOOM);
    look(view, k, ux - (x - view.w / 2) / (view.sx * k), uy - (y - view.h / 2) / (view.sy * k));
  }

  function zoomBy(view, factor) {
    const at = cursor && views[cursor.i] === view ? [cursor.x, cursor.y] : [view.cx, view.cy];
    look(view, view.k * factor, ...at);
  }

  // ---- drawing
  let style = null, waiting = false;
  const css = (name) => style.getPropertyValue(name).trim();
  const paint = (c) => typeof c === "number" ? cividis(c, css("--gl-lift")) : c.startsWith("--") ? css(c) : c;

  function redraw() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function draw() {
    waiting = false;
    style = getComputedStyle(root);
    paintRamp(legend, css("--gl-lift"));
    for (const view of views) if (view.w) drawPlaces(view);
    if (details.open && !listed) fillList();
    overlay();
  }

  function drawGround(g, f, { rings, lines, edge }) {
    g.fillStyle = css("--gl-sea"); g.beginPath(); trace(g, f, edge, true); g.fill();
    g.strokeStyle = css("--gl-grid"); g.beginPath(); lines.forEach((line) => trace(g, f, line)); g.stroke();
    g.fillStyle = css("--gl-land"); g.beginPath(); rings.forEach((ring) => trace(g, f, ring, true)); g.fill("evenodd");
  }

  function drawPlaces(view) {
    const g = clean(view.base, view), f = frame(view), { ax, ay, bx, by } = f;
    if (view.world) drawGround(g, f, view.world);
    const seen = rows.filter((k) => {
      const x = bx + view.x[k] * ax, y = by + view.y[k] * ay;
      return mark[k] && x > -4 && y > -4 && x < view.w + 4 && y < view.h + 4;
    });
    view.dot = clamp(3.6 * (700 / Math.max(seen.length, 1)) ** 0.3, 1, 3.6) * clamp(view.w / 520, 0.75, 1);
    const colors = column.colors.map(paint), dim = css("--gl-dim");
    for (const layer of [1, 2]) {
      const size = view.dot * (layer === 1 ? 0.8 : 1);
      g.globalAlpha = layer === 1 ? 0.3 : 0.85;
      for (const k of seen) {
        if (mark[k] !== layer) continue;
        const x = bx + view.x[k] * ax, y = by + view.y[k] * ay;
        g.fillStyle = layer === 1 ? dim : colors[column.bin[k]];
        if (size < 2) g.fillRect(x - 0.9 * size, y - 0.9 * size, 1.8 * size, 1.8 * size); // faster
        else { g.beginPath(); g.arc(x, y, size, 0, 7); g.fill(); }
      }
    }
    g.globalAlpha = 1;
  }

  function overlay() { // shapes, the inspected place, the place below the pointer, the cursor of the keyboard
    views.forEach((view, i) => {
      if (!view.w) return;
      const g = clean(view.top, view), f = frame(view), ink = css("--gl-ink"), paper = css("--gl-paper"), accent = css("--gl-accent");
      for (const shape of shapes) {
        if (shape.i !== i) continue;
        const [x0, y0, x1, y1] = shape.points;
        g.beginPath();
        trace(g, f, shape.kind === "box" ? [x0, y0, x1, y0, x1, y1, x0, y1] : shape.points, true);
        g.fillStyle = g.strokeStyle = accent; g.lineWidth = 1.5;
        g.globalAlpha = 0.1; g.fill("evenodd");
        g.globalAlpha = 1; g.stroke();
      }
      for (const [k, color] of [[chosen, accent], [near, ink]]) {
        if (k >= 0) outlined(g, () => g.arc(...toPixel(view, view.x[k], view.y[k]), view.dot + 5, 0, 7), color, paper);
      }
      if (cursor && cursor.i === i) {
        const [x, y] = toPixel(view, cursor.x, cursor.y);
        outlined(g, () => { g.moveTo(x - 9, y); g.lineTo(x + 9, y); g.moveTo(x, y - 9); g.lineTo(x, y + 9); }, ink, paper);
      }
    });
  }

  // ---- selection: what lies in any of the shapes and is of a class that is shown
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
      const last = p.slice(-2), first = p.slice(0, 2);
      p.push(x, y);
      cross(view, last, first); cross(view, last, [x, y]); cross(view, [x, y], first);
    }
    select();
  }

  function cross(view, a, b) { // even-odd rule, one edge: places with the edge to their right change sides
    const [[x0, y0], [x1, y1]] = a[1] <= b[1] ? [a, b] : [b, a], lean = (x1 - x0) / (y1 - y0);
    for (let k = 0; k < n; k++) {
      const y = view.y[k];
      if (y >= y0 && y < y1 && view.x[k] < x0 + (y - y0) * lean) inside[k] ^= 1;
    }
  }

  function select() {
    let shown = 0;
    count = 0;
    for (let k = 0; k < n; k++) {
      mark[k] = hidden.has(column.bin[k]) ? 0 : !shapes.length || base[k] || inside[k] ? 2 : 1;
      if (mark[k]) shown++;
      if (mark[k] === 2) count++;
    }
    root.dataset.selected = count;
    status.textContent = shapes.length ? whole(count) + " of " + whole(n) + " selected"
      : shown < n ? whole(shown) + " of " + whole(n) + " shown" : whole(n) + " places";
    listed = false;
    redraw();
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

  function fillList() {
    listed = true;
    const some = [];
    for (let k = 0; k < n && some.length < LISTED; k++) if (mark[k] === 2) some.push(k);
    const words = (count > LISTED ? "First " + LISTED + " of " : "") + whole(count) + (count === 1 ? " place" : " places");
    list.replaceChildren(element("p", {}, words), element("ul", {}, ...some.map((k) => element("li", {},
      button({}, nameOf(k), () => inspect(k, true)), " ", element("small", {}, column.text ? column.text(k) : where(k))))));
  }

  // ---- colour and legend
  function showColumn(i) {
    column = columns[i];
    hidden.clear();
    const sizes = new Array(column.colors.length).fill(0);
    for (let k = 0; k < n; k++) sizes[column.bin[k]]++;
    const grey = (b) => String(column.colors[b]).startsWith("--"), rank = []; // rare classes lie above frequent ones, colours above grey
    sizes.map((_, b) => b).sort((a, b) => grey(b) - grey(a) || (column.names ? sizes[b] - sizes[a] : a - b)).forEach((b, r) => { rank[b] = r; });
    rows.sort((a, b) => rank[column.bin[a]] - rank[column.bin[b]] || a - b);
    if (column.names) showClasses(sizes); else showRamp(sizes[column.colors.length - 1]);
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
    const press = (b, only) => {
      const single = bins.length - hidden.size === 1 && !hidden.has(b);
      if (only) { hidden.clear(); if (!single) bins.forEach((other) => other !== b && hidden.add(other)); }
      else if (!hidden.delete(b)) hidden.add(b);
      pressed();
      select();
    };
    legend.replaceChildren(...bins.map((b) => {
      const node = button({ "data-bin": b, title: "Show or hide; with Shift, only this class" }, swatch(column.colors[b]), (e) => press(b, e.shiftKey));
      node.append(element("span", {}, column.names[b]), " ", element("small", {}, whole(sizes[b])));
      return node;
    }));
    pressed();
  }

  function showRamp(missing) {
    const none = element("span", { class: "gl-missing" }, swatch("--gl-none"), "no value ", element("small", {}, whole(missing)));
    legend.replaceChildren(...rampLegend(column), ...(missing ? [none] : []));
  }

  // ---- reading and inspecting
  function nearest(view, [x, y], reach) {
    const { ax, ay, bx, by } = frame(view);
    let best = reach * reach, found = -1;
    for (let k = 0; k < n; k++) {
      const dx = ax * view.x[k] + bx - x, dy = ay * view.y[k] + by - y, d = dx * dx + dy * dy;
      if (mark[k] && d < best) { best = d; found = k; }
    }
    return found;
  }

  function point(k) {
    near = k;
    if (k < 0) readout.replaceChildren();
    else readout.replaceChildren(element("b", {}, nameOf(k)), " ",
      element("span", {}, (column.text ? column.name + ": " + column.text(k) + " \u00b7 " : "") + where(k)));
    overlay();
  }

  let sprite = null, tiles = null;
  if (D.thumbs) {
    tiles = new Map(Array.from(unpack(D.thumbs.rows, Uint32Array), (row, tile) => [row, tile]));
    sprite = new Image();
    sprite.src = "data:image/jpeg;base64," + D.thumbs.data;
  }
  function picture(k) {
    if (!tiles) return [];
    if (!tiles.has(k)) return [element("p", { class: "gl-thumb gl-soft" }, "This page has no image of this place.")];
    const { tile, across } = D.thumbs, at = tiles.get(k), label = "Image of " + nameOf(k) + " from above, true colour";
    const canvas = element("canvas", { width: tile, height: tile, role: "img", "aria-label": label });
    const from = [at % across * tile, Math.floor(at / across) * tile];
    sprite.decode().then(() => canvas.getContext("2d").drawImage(sprite, ...from, tile, tile, 0, 0, tile, tile));
    return [element("figure", { class: "gl-thumb" }, canvas, element("figcaption", {}, "Image ", ...simulated("image")))];
  }

  const simulated = (what) => D.simulated.includes(what) ? [element("em", {}, "simulated")] : [];
  let back = null; // where the keyboard's focus goes when the card is closed
  async function inspect(k, focus) {
    chosen = k;
    back = focus ? document.activeElement : null;
    const shut = button({ class: "gl-close" }, "Close", close), body = element("div", { class: "gl-about" });
    const facts = columns.map((c) => element("div", {}, element("dt", {}, c.name), element("dd", {}, c.text(k))));
    const title = [element("p", { class: "gl-name" }, nameOf(k)), element("p", { class: "gl-soft" }, where(k), ...simulated("location"))];
    card.replaceChildren(element("div", { class: "gl-title" }, ...title, shut), ...picture(k), body, element("dl", {}, ...facts));
    card.hidden = false;
    overlay();
    if (focus) shut.focus();
    if (!D.about) return;
    about = about || JSON.parse(new TextDecoder().decode(await inflate(D.about)));
    if (chosen === k) body.replaceChildren(...credited(k));
  }

  function credited(k) { // the text of a place, where it is from and who is to be credited
    const of = (name) => about[name] && about[name][k] || "";
    if (!of("text") && !of("url")) return [element("p", { class: "gl-soft" }, "This place has no text.")];
    const parts = [of("url") && element("span", {}, "Source: ", link(of("url"))), of("creator"),
      of("license") && link(of("license_url"), of("license")), of("changes")].filter(Boolean);
    const source = element("p", { class: "gl-soft gl-source" }, ...parts.flatMap((part, j) => j ? [" \u00b7 ", part] : [part]));
    return of("text") ? [element("p", { class: "gl-text" }, of("text"), ...simulated("text")), source] : [source];
  }

  function close() {
    const held = card.contains(document.activeElement);
    chosen = -1;
    card.hidden = true;
    card.replaceChildren();
    if (held) (back && back.isConnected ? back : views[0].top).focus();
    overlay();
  }

  // ---- pointer and keys
  function listen(view, i) {
    const top = view.top, fingers = new Map();
    let drag = null, pinch = null;
    const at = (e) => { const r = top.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
    const isTouch = (e) => e.pointerType === "touch", brushing = () => root.classList.contains("gl-brushing");
    const spread = () => {
      const [[x0, y0], [x1, y1]] = fingers.values();
      return { d: Math.max(1, Math.hypot(x1 - x0, y1 - y0)), middle: [(x0 + x1) / 2, (y0 + y1) / 2] };
    };
    top.onpointerdown = (e) => {
      cursor = null; tracing = false;
      if (isTouch(e)) fingers.set(e.pointerId, at(e));
      if (fingers.size === 2) { // two fingers move and zoom the picture, whatever the tool
        if (drag && drag.moved && drag.kind !== "explore") clear();
        drag = null;
        pinch = { ...spread(), k: view.k };
        pinch.place = toUnit(view, pinch.middle);
      }
      if (e.button > 1 || fingers.size > 1) return;
      if (e.button === 1) e.preventDefault();
      const kind = e.button === 1 || (isTouch(e) && !brushing()) ? "explore" : tool;
      if (!isTouch(e) || kind !== "explore") top.setPointerCapture(e.pointerId);
      drag = { pointer: e.pointerId, kind, place: toUnit(view, at(e)), last: at(e), add: e.shiftKey, moved: false };
    };
    top.addEventListener("touchstart", (e) => { // a stroke neither scrolls the page nor ends in a fling, during which browsers swallow taps
      if (brushing()) e.preventDefault();
    }, { passive: false });
    top.onpointermove = (e) => {
      const here = at(e);
      if (fingers.has(e.pointerId)) fingers.set(e.pointerId, here);
      if (pinch && fingers.size === 2) {
        const { d, middle } = spread();
        return zoomAt(view, pinch.k * d / pinch.d, pinch.place, middle);
      }
      if (!drag) return isTouch(e) ? undefined : point(nearest(view, here, REACH));
      if (e.pointerId !== drag.pointer) return;
      const far = Math.hypot(here[0] - drag.last[0], here[1] - drag.last[1]);
      if (far < (drag.moved ? drag.kind === "lasso" ? 3 : 0 : isTouch(e) ? 10 : 4)) return;
      if (!drag.moved && drag.kind !== "explore") begin(i, drag.kind, drag.place, drag.add);
      drag.moved = true;
      if (drag.kind !== "explore") { drag.last = here; extend(toUnit(view, here)); }
      else if (!isTouch(e)) zoomAt(view, view.k, drag.place, here);
    };
    top.onpointerup = top.onpointercancel = (e) => {
      fingers.delete(e.pointerId);
      pinch = null;
      if (!drag || e.pointerId !== drag.pointer) return;
      const { kind, moved, last } = drag;
      drag = null;
      if (moved || e.type === "pointercancel") return;
      const k = nearest(view, last, isTouch(e) ? TOUCH_REACH : REACH);
      if (isTouch(e)) point(k);
      if (k >= 0) inspect(k, false); else if (kind !== "explore" && shapes.length) clear();
    };
    top.onpointerleave = (e) => { if (!isTouch(e) && !drag && !cursor) point(-1); };
    top.onblur = () => { if (cursor) { cursor = null; tracing = false; point(-1); } };
    top.addEventListener("wheel", (e) => { // a bare wheel scrolls the page
      if (!e.ctrlKey && !e.metaKey) return;
      e.preventDefault();
      zoomAt(view, view.k * 2 ** clamp(-e.deltaY / (e.deltaMode ? 3 : 120), -0.6, 0.6), toUnit(view, at(e)), at(e));
    }, { passive: false });
    top.onkeydown = (e) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      const zoom = { "+": 2, "=": 2, "-": 0.5, 0: 1 / MOST_ZOOM }[e.key];
      if (e.ctrlKey || e.metaKey || e.altKey || (!step && !zoom && e.key !== "Enter" && e.key !== " ")) return;
      e.preventDefault();
      if (zoom) return zoomBy(view, zoom);
      if (!cursor || cursor.i !== i) cursor = { i, x: view.cx, y: view.cy };
      const start = [cursor.x, cursor.y];
      if (step) {
        cursor.x = clamp(cursor.x + step[0] * STEP / view.k * Math.min(1, view.sy / view.sx), 0, 1);
        cursor.y = clamp(cursor.y + step[1] * STEP / view.k * Math.min(1, view.sx / view.sy), 0, 1);
        if (tracing) extend([cursor.x, cursor.y]);
        const [x, y] = toPixel(view, cursor.x, cursor.y);
        if (x < 2 * PAD || y < 2 * PAD || x > view.w - 2 * PAD || y > view.h - 2 * PAD) look(view, view.k, cursor.x, cursor.y);
      } else if (e.key === " " || tool === "explore") {
        const k = nearest(view, toPixel(view, ...start), TOUCH_REACH);
        if (k >= 0) inspect(k, false);
      } else if (tracing) tracing = false;
      else { tracing = true; begin(i, tool, start, e.shiftKey); select(); }
      point(nearest(view, toPixel(view, cursor.x, cursor.y), REACH));
    };
  }
  root.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    if (card.contains(e.target)) close(); else clear();
  });
  choice.onchange = () => { showColumn(choice.selectedIndex); point(near); };
  details.ontoggle = () => { if (details.open) fillList(); };

  // ---- surroundings
  new ResizeObserver(() => { if (size()) draw(); }).observe(plots);
  onTheme(draw);
  size();
  if (columns.length) showColumn(0); else select();
  draw();
  root.dataset.ready = "1";
}

mountAll(".gl", mount);
