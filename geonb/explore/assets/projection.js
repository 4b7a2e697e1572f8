document.querySelectorAll(".gv:not([data-ready])").forEach((root) => {
  root.dataset.ready = "0";
  const data = JSON.parse(root.querySelector("script").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const plane = (text) => { // uint16 pairs, little-endian, to [-1, 1]
    const view = new DataView(bytes(text).buffer), xy = new Float32Array(2 * data.n);
    for (let i = 0; i < 2 * data.n; i++) xy[i] = view.getUint16(2 * i, true) / 32767.5 - 1;
    return xy;
  };
  const element = (tag, name, text) => {
    const e = document.createElement(tag);
    if (name) e.className = name;
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const decoded = {};
  const frame = (k) => (decoded[k] ||= plane(data.frames[k].xy));
  const LENS = 26; // pixels
  let shown = 0, umap = null, from = null, begun = 0, colours = [], chosen = null, pinned = false, asked = 0;

  // ---- controls
  const bar = element("div", "gv-bar");
  const sliders = data.sliders.map(({ name, values, at }) => {
    const label = element("label"), value = element("b"), head = element("span", "", name + " "), input = element("input");
    Object.assign(input, { type: "range", min: 0, max: values.length - 1, step: 1, value: at, autocomplete: "off" });
    input.setAttribute("aria-label", name);
    head.append(value);
    label.append(head, input);
    bar.append(label);
    input.oninput = choose;
    return { input, value, values };
  });
  const select = element("select");
  data.columns.forEach((c, i) => select.add(new Option(c.name, i)));
  select.onchange = paint;
  if (data.columns.length) {
    const label = element("label", "", "Colour");
    label.append(select);
    bar.append(label);
  }
  const plots = element("div", "gv-plots"), legend = element("div", "gv-legend"), readout = element("output", "gv-readout");
  readout.setAttribute("aria-live", "polite");
  const panels = ["umap", "pca", "map"].map((kind, k) => {
    const figure = element("figure", "gv-" + kind), box = element("div", "gv-plot"), canvas = element("canvas"), score = element("p", "gv-score");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    box.append(canvas);
    figure.append(element("figcaption", "", data.titles[k]), box);
    if (kind !== "map") figure.append(score);
    plots.append(figure);
    return { kind, canvas, score, x: new Float32Array(data.n), y: new Float32Array(data.n), at: null };
  });
  root.append(bar, plots, legend, readout, element("p", "gv-note", data.note));
  const pca = plane(data.pca.xy), map = plane(data.map);
  const land = new Int16Array(bytes(data.land).buffer);

  function choose() {
    let k = 0;
    sliders.forEach(({ input, value, values }) => {
      const i = Number(input.value);
      value.textContent = values[i];
      input.setAttribute("aria-valuetext", values[i]);
      k = k * values.length + i;
    });
    shown = k;
    const { scores, stable } = data.frames[k];
    panels[0].score.textContent = stable ? scores + "\n" + stable : scores;
    panels[0].canvas.setAttribute("aria-label", data.titles[0] + ": " + data.alt + ". " + scores + ". " + stable);
    from = still.matches || root.dataset.ready === "0" ? null : umap.slice();
    begun = performance.now();
    ask();
  }

  // ---- drawing
  function paint() {
    const column = data.columns[select.value];
    legend.replaceChildren();
    if (!column) {
      colours = new Array(data.n).fill(data.color);
    } else {
      const code = bytes(column.data);
      colours = Array.from(code, (c) => column.colors[c]);
      if (column.ramp) {
        const ramp = element("i", "gv-ramp");
        ramp.style.background = `linear-gradient(90deg, ${column.colors.slice(0, -1).filter((_, i) => i % 8 === 0).join(",")})`;
        legend.append(element("span", "", column.low), ramp, element("span", "", column.high));
      } else {
        column.labels.forEach((text, i) => {
          const item = element("span"), swatch = element("i");
          swatch.style.background = column.colors[i];
          item.append(swatch, text);
          legend.append(item);
        });
      }
    }
    ask();
  }
  function ask() { asked ||= requestAnimationFrame(draw); }
  function draw(now) {
    asked = 0;
    const goal = frame(shown);
    if (from) {
      const t = Math.min(1, (now - begun) / 350), s = t * t * (3 - 2 * t);
      umap = Float32Array.from(goal, (v, i) => from[i] + (v - from[i]) * s);
      if (t < 1) ask(); else from = null;
    } else umap = goal;
    const style = getComputedStyle(root);
    panels.forEach((panel, k) => one(panel, [umap, pca, map][k], style));
    if (!from) {
      root.dataset.frame = shown;
      root.dataset.chosen = chosen ? chosen.size : 0;
      root.dataset.ready = "1";
    }
  }
  function one(panel, xy, style) {
    const { canvas, kind, x, y } = panel, ratio = Math.min(2, devicePixelRatio || 1);
    const w = canvas.clientWidth, h = canvas.clientHeight;
    if (!w || !h) return;
    if (canvas.width !== Math.round(w * ratio)) canvas.width = Math.round(w * ratio);
    if (canvas.height !== Math.round(h * ratio)) canvas.height = Math.round(h * ratio);
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    const half = kind === "map" ? Math.min(w / 2, h * 1.0275) - 6 : Math.min(w, h) / 2 - 8;
    if (kind === "map") {
      c.fillStyle = style.getPropertyValue("--gv-land");
      c.beginPath();
      let pen = false;
      for (let i = 0; i < land.length; i += 2) {
        if (land[i] === 32767) { pen = false; i--; continue; }
        c[pen ? "lineTo" : "moveTo"](w / 2 + (land[i] / 32000) * half, h / 2 - (land[i + 1] / 32000) * half);
        pen = true;
      }
      c.fill("evenodd");
    }
    const size = data.n > 2500 ? 2.4 : 3.2, dim = style.getPropertyValue("--gv-dim");
    for (let i = 0; i < data.n; i++) {
      x[i] = w / 2 + xy[2 * i] * half;
      y[i] = h / 2 - xy[2 * i + 1] * half;
      if (chosen && chosen.has(i)) continue;
      c.fillStyle = chosen ? dim : colours[i];
      c.fillRect(x[i] - size / 2, y[i] - size / 2, size, size);
    }
    if (chosen) {
      for (const i of chosen) {
        c.fillStyle = colours[i];
        c.beginPath();
        c.arc(x[i], y[i], size * 0.9, 0, 7);
        c.fill();
      }
    }
    if (panel.at) {
      c.strokeStyle = style.getPropertyValue("--gv-ink");
      c.beginPath();
      c.arc(panel.at[0] * w, panel.at[1] * h, LENS, 0, 7);
      c.stroke();
    }
  }

  // ---- a lens: what lies under it in one picture is shown in all
  function look(panel, x, y) {
    const w = panel.canvas.clientWidth, h = panel.canvas.clientHeight, near = [];
    panels.forEach((p) => (p.at = null));
    panel.at = [x / w, y / h];
    for (let i = 0; i < data.n; i++) {
      const d = (panel.x[i] - x) ** 2 + (panel.y[i] - y) ** 2;
      if (d < LENS * LENS) near.push([d, i]);
    }
    near.sort((a, b) => a[0] - b[0]);
    chosen = near.length ? new Set(near.map(([, i]) => i)) : null;
    readout.replaceChildren();
    if (near.length) {
      readout.append(element("b", "", `${near.length} of ${data.n} places`));
      if (data.hover) readout.append(": " + near.slice(0, 6).map(([, i]) => data.hover[i]).join(" · ") + (near.length > 6 ? " …" : ""));
    } else readout.textContent = "Nothing lies there.";
    ask();
  }
  function middle(panel, w, h) { // the place nearest to the middle of a picture
    let best = 0, least = Infinity;
    for (let i = 0; i < data.n; i++) {
      const d = (panel.x[i] - w / 2) ** 2 + (panel.y[i] - h / 2) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return [panel.x[best] / w, panel.y[best] / h];
  }
  function clear() {
    chosen = null;
    pinned = false;
    panels.forEach((p) => (p.at = null));
    readout.textContent = data.hint;
    ask();
  }
  panels.forEach((panel) => {
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
      const [x, y] = panel.at || middle(panel, w, h);
      pinned = true;
      look(panel, Math.min(1, Math.max(0, x + step[0] * far)) * w, Math.min(1, Math.max(0, y + step[1] * far)) * h);
    };
  });
  panels[1].score.textContent = data.pca.scores;
  panels[1].canvas.setAttribute("aria-label", data.titles[1] + ": " + data.alt + ". " + data.pca.scores);
  panels[2].canvas.setAttribute("aria-label", data.titles[2] + ": " + data.alt);
  new ResizeObserver(ask).observe(plots);
  new MutationObserver(ask).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "theme"] });
  new MutationObserver(ask).observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ask);
  addEventListener("beforeprint", () => draw(performance.now())); // no frame comes between the page's change to light colours and paper
  paint();
  clear();
  choose();
});
