// Linked map and embedding: brush one, see the other. One data block per view, no dependencies, no network.
(function () {
  "use strict";

  const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
  const LIGHT = "#82b8ff", STEPS = 64, NONE = 65535, TABLE_ROWS = 50, STEP = 0.025;
  const HELP = "Drag to select. Keyboard: arrow keys move the cursor, Enter sets a corner and Enter again the other one, " +
    "Shift with an arrow key starts a box or stretches it, Escape clears.";
  let serial = 1;

  function unpack(text, Type) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Type(bytes.buffer);
  }

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const whole = (v) => v.toLocaleString("en");
  const number = (v) => Math.abs(v) >= 1000 ? whole(Math.round(v)) : String(+v.toPrecision(3));
  const degrees = (v, signs) => Math.abs(v).toFixed(2) + "\u00b0 " + signs[v < 0 ? 1 : 0];

  // Equal Earth (Savric, Patterson and Jenny, 2018): degrees -> [0, 1] x [0, 1], y down.
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

  function sphere() {
    const ring = [];
    for (let lat = -90; lat <= 90; lat += 3) ring.push(...equalEarth(-180, lat));
    for (let lat = 90; lat >= -90; lat -= 3) ring.push(...equalEarth(180, lat));
    return ring;
  }

  function ramp(t, lift) { // [0, 1] -> cividis; on a dark ground (lift > 0) its dark end is mixed with light blue
    const s = t * (CIVIDIS.length - 1), k = Math.min(CIVIDIS.length - 2, Math.floor(s)), f = s - k, m = lift * (1 - t);
    const part = (c, i) => parseInt(c.slice(1 + 2 * i, 3 + 2 * i), 16);
    const mixed = (i) => (part(CIVIDIS[k], i) * (1 - f) + part(CIVIDIS[k + 1], i) * f) * (1 - m) + part(LIGHT, i) * m;
    return "rgb(" + [0, 1, 2].map((i) => Math.round(mixed(i))) + ")";
  }

  // A column ready to draw: bin of each point, colour of each bin, text of each point.
  function readColumn(c, n) {
    const bin = new Uint8Array(n), unit = c.units ? " " + c.units : "";
    if (c.kind === "categories") {
      const code = unpack(c.data, Uint16Array), shown = c.colors.length, other = shown, unknown = shown + 1;
      for (let k = 0; k < n; k++) bin[k] = code[k] === NONE ? unknown : Math.min(code[k], other);
      const names = c.labels.slice(0, shown).concat(["other", "unknown"]);
      return { bin, names, colors: c.colors.concat(["--gl-other", "--gl-none"]), text: (k) => code[k] === NONE ? "unknown" : c.labels[code[k]] };
    }
    const value = unpack(c.data, Float32Array), f = c.log ? Math.log : (v) => v;
    const low = f(c.low), span = f(c.high) - low || 1;
    const colors = Array.from({ length: STEPS }, (_, b) => b / (STEPS - 1)); // along the ramp
    for (let k = 0; k < n; k++) {
      bin[k] = Number.isNaN(value[k]) ? STEPS : Math.round(Math.max(0, Math.min(1, (f(value[k]) - low) / span)) * (STEPS - 1));
    }
    return { bin, colors: colors.concat(["--gl-none"]), text: (k) => Number.isNaN(value[k]) ? "no value" : number(value[k]) + unit };
  }

  function mount(root) {
    const D = JSON.parse(root.querySelector("script").textContent), n = D.n;
    while (document.getElementById("gl" + serial)) serial++;
    const help = "gl" + serial;
    const lon = unpack(D.lon, Uint16Array), lat = unpack(D.lat, Uint16Array);
    const lonOf = (k) => lon[k] / 65535 * 360 - 180, latOf = (k) => lat[k] / 65535 * 180 - 90;
    const views = [
      { x: Float32Array.from(unpack(D.u, Uint16Array), (v) => v / 65535), y: Float32Array.from(unpack(D.v, Uint16Array), (v) => 1 - v / 65535), aspect: D.aspect },
      { x: new Float32Array(n), y: new Float32Array(n), aspect: XMAX / YMAX, land: outlines(unpack(D.land, Int16Array)), edge: sphere() },
    ];
    for (let k = 0; k < n; k++) [views[1].x[k], views[1].y[k]] = equalEarth(lonOf(k), latOf(k));

    const columns = [], hidden = new Set(), selected = new Uint8Array(n).fill(1);
    let column, order, count = n, box = null, near = -1, cursor = null, corner = false;

    // ---- structure
    const status = element("output", { class: "gl-status", "aria-live": "polite" });
    const readout = element("output", { class: "gl-readout", "aria-live": "polite" });
    const legend = element("div", { class: "gl-legend" });
    const choice = element("select", {});
    D.columns.forEach((c) => choice.append(element("option", {}, c.name)));
    const clearButton = element("button", { type: "button", class: "gl-clear" }, "Clear");
    const brushButton = element("button", { type: "button", class: "gl-brush", "aria-pressed": "false" }, "Brush");
    const table = element("div", { class: "gl-table", tabindex: "0", role: "region", "aria-label": "Table of the selection" });
    const details = element("details", {}, element("summary", {}, "Selection as a table"), table);
    const plots = element("div", { class: "gl-plots" });
    views.forEach((view, i) => {
      view.base = element("canvas", { class: "gl-base", "aria-hidden": "true" });
      view.top = element("canvas", { class: "gl-top", tabindex: "0", role: "application", "aria-label": D.alt[i] || D.titles[i], "aria-describedby": help });
      view.plot = element("div", { class: "gl-plot" }, view.base, view.top);
      plots.append(element("figure", { class: i ? "gl-map" : "gl-embedding" }, element("figcaption", {}, D.titles[i]), view.plot));
    });
    const controls = element("div", { class: "gl-controls" }, status, brushButton, clearButton);
    const head = element("div", { class: "gl-head" }, controls);
    if (D.columns.length) head.prepend(element("label", {}, "Colour by ", choice));
    const touch = matchMedia("(any-pointer: coarse)").matches || navigator.maxTouchPoints > 0;
    root.classList.toggle("gl-touch", touch);
    readout.dataset.hint = touch ? "Tap a place to read it; press Brush, then drag a box over either picture to select."
      : "Point at a place to read it; drag a box over either picture to select.";
    root.replaceChildren(head, plots, readout, legend, details, element("p", { class: "gl-help", id: help }, HELP));

    // ---- what is drawn
    let style = null;
    const lift = () => Number(style.getPropertyValue("--gl-lift")) || 0;
    const colour = (c) => typeof c === "number" ? ramp(c, lift()) : c.startsWith("--") ? style.getPropertyValue(c).trim() : c;
    const shown = (k) => !(column && hidden.has(column.bin[k]));
    const px = (view, u) => view.ox + u * view.sx, py = (view, v) => view.oy + v * view.sy;

    function size() {
      for (const view of views) {
        const r = Math.min(2, window.devicePixelRatio || 1), w = view.plot.clientWidth, h = view.plot.clientHeight;
        for (const c of [view.base, view.top]) { c.width = Math.round(w * r); c.height = Math.round(h * r); }
        const pad = 8, s = Math.min((w - 2 * pad) / view.aspect, h - 2 * pad);
        Object.assign(view, { w, h, r, sx: s * view.aspect, sy: s, ox: (w - s * view.aspect) / 2, oy: (h - s) / 2 });
      }
    }

    function trace(g, view, ring) {
      for (let j = 0; j < ring.length; j += 2) {
        const x = px(view, ring[j]), y = py(view, ring[j + 1]);
        if (j) g.lineTo(x, y); else g.moveTo(x, y);
      }
      g.closePath();
    }

    const radius = () => (n > 20000 ? 1 : n > 5000 ? 1.7 : n > 800 ? 2.4 : 3.4) * Math.max(0.65, Math.min(1, views[1].w / 620));

    // Discs where they are few; crosses of two rectangles, three times as fast, or squares where they are many.
    function drawPoints(g, view, color, rows, from, to, want) {
      const d = radius(), inner = d * 0.6;
      g.fillStyle = color;
      g.beginPath();
      for (let j = from; j < to; j++) {
        const k = rows ? rows[j] : j;
        if (selected[k] !== want || (!want && !shown(k))) continue;
        const x = px(view, view.x[k]), y = py(view, view.y[k]);
        if (n <= 2000) {
          g.moveTo(x + d, y);
          g.arc(x, y, d, 0, 7);
        } else if (n <= 20000) {
          g.fillRect(x - d, y - inner, 2 * d, 2 * inner);
          g.fillRect(x - inner, y - d, 2 * inner, 2 * d);
        } else g.fillRect(x - d, y - d, 2 * d, 2 * d);
      }
      g.fill();
    }

    function draw() {
      style = getComputedStyle(root);
      const bar = legend.querySelector(".gl-ramp");
      if (bar) bar.style.background = "linear-gradient(90deg," + CIVIDIS.map((_, k) => ramp(k / (CIVIDIS.length - 1), lift())) + ")";
      for (const view of views) {
        if (!view.w) continue;
        const g = view.base.getContext("2d");
        g.setTransform(view.r, 0, 0, view.r, 0, 0);
        g.clearRect(0, 0, view.w, view.h);
        if (view.land) {
          g.fillStyle = colour("--gl-sea");
          g.beginPath(); trace(g, view, view.edge); g.fill();
          g.fillStyle = colour("--gl-land");
          g.beginPath(); view.land.forEach((ring) => trace(g, view, ring)); g.fill("evenodd");
        }
        if (count < n) {
          g.globalAlpha = 0.3;
          drawPoints(g, view, colour("--gl-dim"), null, 0, n, 0);
        }
        g.globalAlpha = n > 20000 ? 0.6 : 0.85;
        if (column) {
          for (const [b, from, to] of order.runs) drawPoints(g, view, colour(column.colors[b]), order.rows, from, to, 1);
        } else drawPoints(g, view, D.color, null, 0, n, 1);
        g.globalAlpha = 1;
      }
      overlay();
    }

    function overlay() {
      views.forEach((view, i) => {
        const g = view.top.getContext("2d");
        g.setTransform(view.r, 0, 0, view.r, 0, 0);
        g.clearRect(0, 0, view.w, view.h);
        const ink = colour("--gl-ink"), paper = colour("--gl-paper");
        if (box && box.i === i) {
          const x = px(view, Math.min(box.x0, box.x1)), y = py(view, Math.min(box.y0, box.y1));
          const w = Math.abs(box.x1 - box.x0) * view.sx, h = Math.abs(box.y1 - box.y0) * view.sy;
          g.fillStyle = colour("--gl-accent"); g.globalAlpha = 0.1; g.fillRect(x, y, w, h);
          g.globalAlpha = 1; g.strokeStyle = colour("--gl-accent"); g.lineWidth = 1.5; g.strokeRect(x, y, w, h);
        }
        if (near >= 0) {
          for (const [line, width] of [[paper, 5], [ink, 2]]) {
            g.beginPath(); g.arc(px(view, view.x[near]), py(view, view.y[near]), radius() + 5, 0, 7);
            g.strokeStyle = line; g.lineWidth = width; g.stroke();
          }
        }
        if (cursor && cursor.i === i) {
          const x = px(view, cursor.x), y = py(view, cursor.y);
          for (const [line, width] of [[paper, 4], [ink, 1.5]]) {
            g.beginPath(); g.moveTo(x - 9, y); g.lineTo(x + 9, y); g.moveTo(x, y - 9); g.lineTo(x, y + 9);
            g.strokeStyle = line; g.lineWidth = width; g.stroke();
          }
        }
      });
    }

    let waiting = false;
    function redraw() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; draw(); });
    }

    // ---- selection
    function select() {
      const view = box && views[box.i];
      const x0 = view && Math.min(box.x0, box.x1), x1 = view && Math.max(box.x0, box.x1);
      const y0 = view && Math.min(box.y0, box.y1), y1 = view && Math.max(box.y0, box.y1);
      count = 0;
      for (let k = 0; k < n; k++) {
        const inside = !view || (view.x[k] >= x0 && view.x[k] <= x1 && view.y[k] >= y0 && view.y[k] <= y1);
        selected[k] = inside && shown(k) ? 1 : 0;
        count += selected[k];
      }
      root.dataset.selected = count;
      status.textContent = count < n ? whole(count) + " of " + whole(n) + " selected" : whole(n) + " places";
      clearButton.disabled = !box && !hidden.size;
      if (details.open) fillTable();
      redraw();
    }

    function clear() {
      box = null; corner = false;
      hidden.clear();
      legend.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", "true"));
      select();
    }

    function fillTable() {
      const titles = ["Place"].concat(column ? [choice.value] : [], ["Latitude", "Longitude"]), body = element("tbody");
      for (let k = 0, rows = 0; k < n && rows < TABLE_ROWS; k++) {
        if (!selected[k]) continue;
        rows++;
        const cells = [D.hover ? D.hover[k] : "Place " + (k + 1)].concat(column ? [column.text(k)] : [],
          [degrees(latOf(k), "NS"), degrees(lonOf(k), "EW")]);
        body.append(element("tr", {}, ...cells.map((c) => element("td", {}, c))));
      }
      const caption = count > TABLE_ROWS ? "First " + TABLE_ROWS + " of " + whole(count) + " places" : whole(count) + " places";
      table.replaceChildren(element("table", {}, element("caption", {}, caption),
        element("thead", {}, element("tr", {}, ...titles.map((t) => element("th", { scope: "col" }, t)))), body));
    }

    // ---- colour
    function showColumn(i) {
      column = columns[i] = columns[i] || readColumn(D.columns[i], n);
      hidden.clear();
      const sizes = new Array(column.colors.length).fill(0);
      for (let k = 0; k < n; k++) sizes[column.bin[k]]++;
      let sequence = sizes.map((_, b) => b);
      if (column.names) sequence.sort((a, b) => sizes[b] - sizes[a]); // rare classes lie above frequent ones
      const grey = (b) => String(column.colors[b]).startsWith("--");
      sequence = sequence.filter(grey).concat(sequence.filter((b) => !grey(b))); // and colours above grey
      const rows = new Uint32Array(n), next = [], runs = [];
      let from = 0;
      for (const b of sequence) {
        next[b] = from;
        runs.push([b, from, from += sizes[b]]);
      }
      for (let k = 0; k < n; k++) rows[next[column.bin[k]]++] = k;
      order = { rows, runs };
      if (column.names) showClasses(sizes); else showRamp(D.columns[i], sizes[STEPS]);
      select();
    }

    function swatch(c) {
      const node = element("i", { "aria-hidden": "true" });
      node.style.background = c.startsWith("--") ? "var(" + c + ")" : c;
      return node;
    }

    function showClasses(sizes) {
      legend.replaceChildren(...column.names.map((name, b) => {
        const label = element("span", {}, name), tally = element("small", {}, whole(sizes[b]));
        const button = element("button", { type: "button", "aria-pressed": "true", title: "Show or hide" }, swatch(column.colors[b]), label, " ", tally);
        button.onclick = () => {
          if (hidden.has(b)) hidden.delete(b); else hidden.add(b);
          button.setAttribute("aria-pressed", String(!hidden.has(b)));
          select();
        };
        return button;
      }).filter((_, b) => sizes[b]));
    }

    function showRamp(c, missing) {
      const bar = element("i", { class: "gl-ramp", role: "img", "aria-label": "Colour from low (dark blue) to high (yellow)" });
      const parts = c.low === null ? [] : [element("span", {}, (c.below ? "\u2264 " : "") + number(c.low)), bar,
        element("span", {}, (c.above ? "\u2265 " : "") + number(c.high) + (c.units ? " " + c.units : "") + (c.log ? " (log scale)" : ""))];
      if (missing) parts.push(element("span", { class: "gl-missing" }, swatch("--gl-none"), "no value ", element("small", {}, whole(missing))));
      legend.replaceChildren(...parts);
    }

    // ---- pointer and keys
    function look(i, x, y, reach) { // x, y in CSS pixels
      const view = views[i];
      let best = reach * reach, found = -1;
      for (let k = 0; k < n; k++) {
        if (!shown(k)) continue;
        const dx = px(view, view.x[k]) - x, dy = py(view, view.y[k]) - y, d = dx * dx + dy * dy;
        if (d < best) { best = d; found = k; }
      }
      if (found !== near) {
        near = found;
        describe();
        overlay();
      }
    }

    function describe() {
      if (near < 0) { readout.replaceChildren(); return; }
      const where = degrees(latOf(near), "NS") + ", " + degrees(lonOf(near), "EW");
      const facts = (column ? choice.value + ": " + column.text(near) + " \u00b7 " : "") + where;
      readout.replaceChildren(element("b", {}, D.hover ? D.hover[near] : "Place " + (near + 1)), " ", element("span", {}, facts));
    }

    views.forEach((view, i) => {
      const top = view.top;
      let drag = false;
      const at = (e) => { const r = top.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
      const unit = ([x, y]) => [(x - view.ox) / view.sx, (y - view.oy) / view.sy];
      const brushes = (e) => e.pointerType !== "touch" || root.classList.contains("gl-brushing");
      top.onpointerdown = (e) => {
        cursor = null;
        if (!brushes(e)) { look(i, ...at(e), 24); return; }
        if (e.button) return;
        top.setPointerCapture(e.pointerId);
        const [x, y] = unit(at(e));
        drag = { x, y };
      };
      top.onpointermove = (e) => {
        if (!drag) { if (e.pointerType !== "touch") look(i, ...at(e), 14); return; }
        const [x, y] = unit(at(e));
        if (!drag.moved && Math.hypot((x - drag.x) * view.sx, (y - drag.y) * view.sy) < 4) return;
        drag.moved = true;
        box = { i, x0: drag.x, y0: drag.y, x1: x, y1: y };
        corner = false;
        select();
      };
      top.onpointerup = () => {
        if (drag && !drag.moved && box) { box = null; select(); }
        drag = false;
      };
      top.onpointercancel = () => { drag = false; };
      top.onpointerleave = (e) => { if (e.pointerType !== "touch" && !drag && near >= 0 && !cursor) { near = -1; describe(); overlay(); } };
      top.onblur = () => { if (cursor) { cursor = null; near = -1; corner = false; describe(); overlay(); } };
      top.onkeydown = (e) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
        const confirm = e.key === "Enter" || e.key === " ";
        if (!step && !confirm) return;
        e.preventDefault();
        const fresh = !cursor || cursor.i !== i;
        if (fresh) cursor = { i, x: 0.5, y: 0.5 };
        const start = [cursor.x, cursor.y];
        if (step) {
          cursor.x = Math.max(0, Math.min(1, cursor.x + step[0] * STEP * Math.min(1, view.sy / view.sx)));
          cursor.y = Math.max(0, Math.min(1, cursor.y + step[1] * STEP * Math.min(1, view.sx / view.sy)));
          if (e.shiftKey && !corner) { corner = "shift"; box = { i, x0: start[0], y0: start[1] }; }
          if (corner === "shift" && !e.shiftKey) corner = false;
          if (corner) { box.x1 = cursor.x; box.y1 = cursor.y; select(); }
        } else if (corner) corner = false;
        else { corner = "enter"; box = { i, x0: cursor.x, y0: cursor.y, x1: cursor.x, y1: cursor.y }; select(); }
        near = -2;
        look(i, px(view, cursor.x), py(view, cursor.y), 14);
        overlay();
      };
    });
    root.addEventListener("keydown", (e) => { if (e.key === "Escape") clear(); });
    clearButton.onclick = clear;
    brushButton.onclick = () => brushButton.setAttribute("aria-pressed", String(root.classList.toggle("gl-brushing")));
    choice.onchange = () => { showColumn(choice.selectedIndex); describe(); };
    details.ontoggle = () => { if (details.open) fillTable(); };

    // ---- surroundings
    new ResizeObserver(() => { size(); draw(); }).observe(plots);
    for (const node of [document.documentElement, document.body]) {
      new MutationObserver(redraw).observe(node, { attributes: true, attributeFilter: ["data-theme", "data-mode", "data-jp-theme-light", "theme", "class"] });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    matchMedia("print").addEventListener("change", draw);

    size();
    style = getComputedStyle(root);
    if (D.columns.length) showColumn(0); else select();
    draw();
    root.dataset.ready = "1";
  }

  document.querySelectorAll(".gl:not([data-ready])").forEach(mount);
})();
