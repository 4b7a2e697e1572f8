// What the views share: unpacking, elements, numbers in words, the Equal Earth map, colours and themes.
// Python puts this text and that of a view into one function, so nothing here is global.

// ---- bytes
function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
const unpack = (text, Type) => new Type(bytes(text).buffer);

function inflate(text) { // base64 of zlib -> ArrayBuffer
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// ---- elements: text goes in as text, never as HTML
function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function button(attributes, text, act) {
  const node = element("button", { type: "button", ...attributes }, text);
  node.onclick = act;
  return node;
}

function mountAll(selector, mount) { // every view of a page once, whichever script comes first
  document.querySelectorAll(selector + ":not([data-ready])").forEach((root) => {
    root.dataset.ready = "0";
    mount(root, JSON.parse(root.querySelector("script").textContent));
  });
}

let serial = 1;
function freshId(prefix) {
  while (document.getElementById(prefix + serial)) serial++;
  return prefix + serial;
}

// ---- numbers in words
const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
const whole = (v) => Math.round(v).toLocaleString("en");
const number = (v) => Math.abs(v) >= 1000 ? whole(v) : String(+v.toPrecision(3));
const degrees = (v, signs, digits) => Math.abs(v).toFixed(digits) + "\u00b0 " + signs[v < 0 ? 1 : 0];
const position = (lon, lat, digits) => degrees(lat, "NS", digits) + ", " + degrees(lon, "EW", digits);

// ---- Equal Earth (Savric, Patterson and Jenny, 2018), degrees <-> [0, 1] x [0, 1], y down
const A1 = 1.340264, A2 = -0.081106, A3 = 0.000893, A4 = 0.003796, M = Math.sqrt(3) / 2;
const XMAX = 2.7066299837, YMAX = 1.3173627592, ASPECT = XMAX / YMAX;
const radians = (d) => d * Math.PI / 180;
const slope = (t) => { const t2 = t * t, t6 = t2 ** 3; return A1 + 3 * A2 * t2 + t6 * (7 * A3 + 9 * A4 * t2); };
const height = (t) => { const t2 = t * t, t6 = t2 ** 3; return t * (A1 + A2 * t2 + t6 * (A3 + A4 * t2)); };

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

function worldMap(text) { // land, a graticule of 30 degrees and the edge, as flat lists of coordinates in [0, 1]
  const land = unpack(text, Int16Array), rings = [[]], lines = []; // tenths of degrees, rings separated by 32767
  for (let i = 0; i < land.length;) {
    if (land[i] === 32767) { rings.push([]); i++; continue; }
    rings[rings.length - 1].push(...project(land[i] / 10, land[i + 1] / 10));
    i += 2;
  }
  const meridian = (lon, sign) => Array.from({ length: 61 }, (_, i) => project(lon, sign * (3 * i - 90))).flat();
  for (let lon = -150; lon < 180; lon += 30) lines.push(meridian(lon, 1));
  for (let lat = -60; lat < 90; lat += 30) lines.push([...project(-180, lat), ...project(180, lat)]);
  return { rings, lines, edge: meridian(-180, 1).concat(meridian(180, -1)) };
}

function trace(g, f, line, close) { // a path from coordinates in [0, 1], by the frame { ax, ay, bx, by } to pixels
  for (let j = 0; j < line.length; j += 2) {
    const x = f.bx + line[j] * f.ax, y = f.by + line[j + 1] * f.ay;
    if (j) g.lineTo(x, y); else g.moveTo(x, y);
  }
  if (close) g.closePath();
}

function clean(canvas, { w, h, r }) { // an empty canvas, r device pixels to one of CSS
  const g = canvas.getContext("2d");
  g.setTransform(r, 0, 0, r, 0, 0);
  g.clearRect(0, 0, w, h);
  return g;
}

function outlined(g, path, color, ground) { // a line that is seen on every ground
  for (const [line, width] of [[ground, 5], [color, 2]]) {
    g.beginPath(); path();
    g.strokeStyle = line; g.lineWidth = width; g.stroke();
  }
}

// ---- colours and themes
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
function ramp(stops, t) { // hex colours, t in [0, 1] -> [r, g, b]
  const s = t * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(s)), b = rgb(stops[k + 1]);
  return rgb(stops[k]).map((v, i) => Math.round(v + (b[i] - v) * (s - k)));
}

function cividis(t, lift) { // [0, 1] -> CSS; on a dark page the dark end is mixed with light blue
  const m = lift * (1 - t), light = [130, 184, 255];
  return "rgb(" + ramp(CIVIDIS, t).map((v, i) => Math.round(v * (1 - m) + light[i] * m)) + ")";
}

// A column ready to draw: the bin of each place, the colour (and name) of each bin, the value of each place in words.
// A colour is CSS, the name of a CSS variable, or for numbers a position in [0, 1] on the ramp; the last is for no value.
function readColumn(c, other, none) {
  if (c.kind === "categories") {
    const code = unpack(c.data, Uint16Array), known = c.colors.length;
    return { ...c, bin: Uint8Array.from(code, (v) => v === 65535 ? known + 1 : Math.min(v, known)), colors: c.colors.concat([other, none]),
      names: c.labels.slice(0, known).concat(["other", "unknown"]), text: (k) => code[k] === 65535 ? "unknown" : c.labels[code[k]] };
  }
  const value = unpack(c.data, Float32Array), unit = c.units ? " " + c.units : "", steps = 64;
  const f = c.log ? Math.log : (v) => v, low = f(c.low), span = f(c.high) - low || 1;
  const bin = Uint8Array.from(value, (v) => Number.isNaN(v) ? steps : Math.round(clamp((f(v) - low) / span, 0, 1) * (steps - 1)));
  return { ...c, bin, colors: Array.from({ length: steps }, (_, b) => b / (steps - 1)).concat([none]),
    text: (k) => Number.isNaN(value[k]) ? "no value" : number(value[k]) + unit };
}

function rampLegend({ low, high, below, above, units, log }) {
  if (low === null) return [];
  const bar = element("i", { class: "ramp", role: "img", "aria-label": "Colour from low (dark blue) to high (yellow)" });
  const tail = (units ? " " + units : "") + (log ? " (log scale)" : "");
  return [element("span", {}, (below ? "\u2264 " : "") + number(low)), bar, element("span", {}, (above ? "\u2265 " : "") + number(high) + tail)];
}

function paintRamp(legend, lift) {
  const bar = legend.querySelector(".ramp");
  if (bar) bar.style.background = "linear-gradient(90deg," + CIVIDIS.map((_, k) => cividis(k / (CIVIDIS.length - 1), lift)) + ")";
}

function onTheme(act) { // in the book, in JupyterLab, in Colab and by the system; before print no frame comes, so act at once
  const marks = { attributes: true, attributeFilter: ["data-theme", "data-mode", "data-jp-theme-light", "theme", "class"] };
  for (const node of [document.documentElement, document.body]) new MutationObserver(act).observe(node, marks);
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", act);
  addEventListener("beforeprint", act);
}
