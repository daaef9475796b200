"use strict";
// The map of an embedding. Everything the page shows is in the page: `data`, a header
// in JSON and arrays behind it, compressed, and `atlas0`, `atlas1`, ..., pictures of
// the particles side by side. Text from the data reaches the page by textContent only.

const $ = (id) => document.getElementById(id);
const MARGIN = { left: 62, right: 12, top: 10, bottom: 46 };
const NONE = [204, 204, 204];
const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
];
const RIM = [38, 38, 38];
// The shapes of points, those of matplotlib's markers o s ^ D v P X * < >. Borders are
// for the legend, with the degrees by which they are turned.
const TRIANGLE = "7,1 12.4,11.2 1.6,11.2";
const PLUS =
  "4.8,1 9.2,1 9.2,4.8 13,4.8 13,9.2 9.2,9.2 9.2,13 4.8,13 4.8,9.2 1,9.2 1,4.8 4.8,4.8";
const STAR =
  "7,1 8.8,4.6 12.7,5.1 9.9,7.9 10.5,11.9 7,10 3.5,11.9 4.1,7.9 1.3,5.1 5.2,4.6";
const BORDERS = [
  null, ["2.3,2.3 11.7,2.3 11.7,11.7 2.3,11.7", 0], [TRIANGLE, 0],
  ["7,1 13,7 7,13 1,7", 0], [TRIANGLE, 180], [PLUS, 0], [PLUS, 45], [STAR, 0],
  [TRIANGLE, -90], [TRIANGLE, 90],
];
const MAX_ENTRIES = 500;
const LEAF = 42;
const LINE_END = "\r\n";
const ARRAYS = {
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array,
  f4: Float32Array, f8: Float64Array,
};

let page; // what the file holds, see unpack
let x, y; // coordinates of the particles
let visible, selected; // for each particle, 0 or 1
let nSelected = 0;
let looks; // red, green, blue and shape of each particle
let order; // in which the particles are drawn
let renderer;
let column = -1; // which of page.columns gives the colours
let hovered = -1;
let leaf = 0; // which part of the selection is shown
let needsDrawing = false;
let gesture = null; // what the mouse is doing
const hidden = new Map(); // of a column, the set of codes that are not shown
const atlases = new Map();
// What is in the middle of the map, and CSS pixels a unit.
const view = { x: 0, y: 0, scale: 1 };
const stage = { width: 1, height: 1, ratio: 1 };

// ---------------------------------------------------------------- data

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function unpack() {
  const stream = new Blob([fromBase64($("data").textContent)])
    .stream()
    .pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  $("data").remove();
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 8 * Math.ceil((4 + length) / 8);
  head.array = ([kind, offset, count]) =>
    new ARRAYS[kind](buffer, start + offset, count);
  head.columns.forEach((item) => (item.values = head.array(item.array)));
  return head;
}

// The shortest text that gives the same number in the precision it is stored in.
function asText(item, i) {
  const value = item.values[i];
  if (item.texts) return item.texts[value];
  if (Number.isNaN(value)) return "";
  return item.array[0] === "f4" ? single(value) : String(value);
}

function single(value) {
  for (let digits = 6; digits < 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(+text) === value) return String(+text);
  }
  return String(+value.toPrecision(9));
}

const shown = (text) => (text === "" ? "(none)" : text);
const nameOf = (i) => (page.names ? page.names[i] : `particle ${i}`);
const counted = (n) => n.toLocaleString("en");
const particles = (n) => `${counted(n)} particle${n === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- pictures

function slotOf(i) {
  if (!page.pictures) return -1;
  if (!page.pictures.of) return i;
  const rows = page.pictures.of;
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle] < i) low = middle + 1;
    else high = middle;
  }
  return rows[low] === i ? low : -1;
}

function atlas(number) {
  if (!atlases.has(number)) {
    const image = new Image();
    image.src = `data:image/png;base64,${$(`atlas${number}`).textContent}`;
    atlases.set(number, image.decode().then(() => image));
  }
  return atlases.get(number);
}

// Draws the picture of a particle into a canvas; false if there is none.
function drawPicture(canvas, i) {
  const slot = slotOf(i);
  if (slot < 0) return false;
  const { width, height, across, perAtlas } = page.pictures;
  canvas.width = width;
  canvas.height = height;
  canvas.dataset.particle = i;
  atlas(Math.floor(slot / perAtlas)).then((image) => {
    // Another particle may have been asked for since.
    if (canvas.dataset.particle !== String(i)) return;
    const place = slot % perAtlas;
    const left = (place % across) * width;
    const top = Math.floor(place / across) * height;
    canvas.getContext("2d")
      .drawImage(image, left, top, width, height, 0, 0, width, height);
    canvas.dataset.drawn = i;
  });
  return true;
}

// ---------------------------------------------------------------- colours

function parseColor(text) {
  return [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16));
}

// Colour and shape of a code: shapes tell apart what has the same colour.
function lookOf(texts, code) {
  if (texts[code] === "") return [...NONE, 0];
  const colors = page.colors;
  const round = Math.floor(code / colors.length);
  return [...parseColor(colors[code % colors.length]), round % BORDERS.length];
}

function viridis(part) {
  const place = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1);
  const k = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[k].map((low, j) => low + (place - k) * (VIRIDIS[k + 1][j] - low));
}

function rangeOf(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [NaN, NaN];
}

function colorParticles() {
  if (column < 0) {
    const [red, green, blue] = parseColor(page.colors[0]);
    for (let i = 0; i < page.count; i++) looks.set([red, green, blue, 0], 4 * i);
    return;
  }
  const { values, texts } = page.columns[column];
  if (texts) {
    const table = texts.map((_, code) => lookOf(texts, code));
    for (let i = 0; i < page.count; i++) looks.set(table[values[i]], 4 * i);
    return;
  }
  const [low, high] = rangeOf(values);
  const steps = 255;
  const table = Array.from({ length: steps + 1 }, (_, k) => [...viridis(k / steps), 0]);
  for (let i = 0; i < page.count; i++) {
    const part = high > low ? (values[i] - low) / (high - low) : 0.5;
    const known = Number.isFinite(values[i]);
    looks.set(known ? table[Math.round(part * steps)] : [...NONE, 0], 4 * i);
  }
}

// ---------------------------------------------------------------- renderers

// How far a place is from the middle of a point, 1 at its border; y points down.
function reach(shape, dx, dy) {
  const ax = Math.abs(dx);
  const ay = Math.abs(dy);
  const triangle = (along, across) => Math.max(along / 0.7, 1.9 * across - along);
  const plus = (a, b) => Math.max(a, b, Math.min(a, b) / 0.36);
  const turned = (a) => Math.SQRT1_2 * Math.abs(a);
  switch (shape) {
    case 0: return Math.hypot(dx, dy);
    case 1: return Math.max(ax, ay) / 0.85;
    case 2: return triangle(dy, ax);
    case 3: return ax + ay;
    case 4: return triangle(-dy, ax);
    case 5: return plus(ax, ay);
    case 6: return plus(turned(dx + dy), turned(dx - dy));
    case 7: {
      // Each of the ten edges is like one, by the angle from the nearest tip.
      const turn = Math.atan2(dx, -dy) / (0.4 * Math.PI);
      const angle = 0.4 * Math.PI * Math.abs(turn - Math.floor(turn + 0.5));
      return Math.hypot(dx, dy) * (Math.cos(angle) + 2.026 * Math.sin(angle));
    }
    case 8: return triangle(dx, ay);
    default: return triangle(-dx, ay);
  }
}

const VERTEX = `
attribute vec2 place;
attribute vec3 color;
attribute vec2 look; // shape and state
uniform vec2 middle;
uniform vec2 zoom;
uniform float size;
uniform float state;
varying vec3 fill;
varying float shape;
void main() {
  fill = color;
  shape = look.x;
  bool isShown = abs(look.y - state) < 0.5;
  gl_Position = isShown
    ? vec4((place - middle) * zoom, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = size;
}`;

const FRAGMENT = `
precision highp float;
uniform float size;
uniform float radius;
uniform float rim;
uniform float alpha;
uniform vec3 rimColor;
varying vec3 fill;
varying float shape;
float triangle(float along, float across) {
  return max(along / 0.7, 1.9 * across - along);
}
float plus(float a, float b) {
  return max(max(a, b), min(a, b) / 0.36);
}
float star(vec2 d) {
  float turn = atan(d.x, -d.y) / 1.2566371;
  float angle = 1.2566371 * abs(turn - floor(turn + 0.5));
  return length(d) * (cos(angle) + 2.026 * sin(angle));
}
float reach(vec2 d) {
  vec2 a = abs(d);
  if (shape < 0.5) return length(d);
  if (shape < 1.5) return max(a.x, a.y) / 0.85;
  if (shape < 2.5) return triangle(d.y, a.x);
  if (shape < 3.5) return a.x + a.y;
  if (shape < 4.5) return triangle(-d.y, a.x);
  if (shape < 5.5) return plus(a.x, a.y);
  if (shape < 6.5) return plus(abs(d.x + d.y) * 0.70711, abs(d.x - d.y) * 0.70711);
  // The angle of the middle is not defined.
  if (shape < 7.5) return a.x + a.y > 0.0 ? star(d) : 0.0;
  if (shape < 8.5) return triangle(d.x, a.y);
  return triangle(-d.x, a.y);
}
void main() {
  float r = reach((gl_PointCoord - 0.5) * size / radius) * radius;
  float inside = clamp(radius - r + 0.5, 0.0, 1.0) * alpha;
  if (inside <= 0.0) discard;
  float dark = clamp(r - radius + rim + 0.5, 0.0, 1.0);
  gl_FragColor = vec4(mix(fill, rimColor, dark), 1.0) * inside;
}`;

// The particles as they are drawn: one look for those outside the selection (state 1)
// and one for those in it (state 2), which lie above.
function passes() {
  const radius = +$("size").value * stage.ratio;
  const alpha = nSelected ? 0.4 : 0.85;
  const above = radius + stage.ratio;
  const all = [{ state: 1, radius, rim: 0.35 * stage.ratio, alpha }];
  if (nSelected) all.push({ state: 2, radius: above, rim: 1.2 * stage.ratio, alpha: 1 });
  return all;
}

function stateOf(i) {
  return visible[i] ? 1 + selected[i] : 0;
}

// A graphics processor that is itself a program takes many times as long as the image
// below, and not every browser counts that as a caveat.
function isSoftware(gl) {
  const known = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(known ? known.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
}

function glRenderer(canvas) {
  const gl = canvas.getContext("webgl", {
    antialias: false,
    failIfMajorPerformanceCaveat: true,
  });
  if (!gl || isSoftware(gl)) return null;
  const program = gl.createProgram();
  for (const [kind, source] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  gl.enable(gl.SCISSOR_TEST);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const attribute = (name, size, kind, normalized, stride, offset) => {
    const place = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, kind, normalized, stride, offset);
  };
  // Single precision is finest about zero.
  const box = boundingBox();
  const places = new Float32Array(2 * page.count);
  order.forEach((i, k) => {
    places[2 * k] = (x[i] - box.x) / box.half;
    places[2 * k + 1] = (y[i] - box.y) / box.half;
  });
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, places, gl.STATIC_DRAW);
  attribute("place", 2, gl.FLOAT, false, 0, 0);
  const styles = new Uint8Array(8 * page.count);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, styles, gl.DYNAMIC_DRAW);
  attribute("color", 3, gl.UNSIGNED_BYTE, true, 8, 0);
  attribute("look", 2, gl.UNSIGNED_BYTE, false, 8, 4);
  gl.uniform3fv(uniform("rimColor"), RIM.map((value) => value / 255));
  return {
    name: "WebGL",
    update() {
      order.forEach((i, k) => {
        styles[8 * k] = looks[4 * i];
        styles[8 * k + 1] = looks[4 * i + 1];
        styles[8 * k + 2] = looks[4 * i + 2];
        styles[8 * k + 4] = looks[4 * i + 3];
        styles[8 * k + 5] = stateOf(i);
      });
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, styles);
    },
    draw() {
      const area = plotArea();
      const pixels = [
        area.left,
        stage.height - area.top - area.height,
        area.width,
        area.height,
      ].map((length) => Math.round(length * stage.ratio));
      gl.disable(gl.SCISSOR_TEST);
      gl.clearColor(1, 1, 1, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.enable(gl.SCISSOR_TEST);
      gl.viewport(...pixels);
      gl.scissor(...pixels);
      const zoom = 2 * view.scale * box.half;
      gl.uniform2f(
        uniform("middle"),
        (view.x - box.x) / box.half,
        (view.y - box.y) / box.half,
      );
      gl.uniform2f(uniform("zoom"), zoom / area.width, zoom / area.height);
      for (const pass of passes()) {
        gl.uniform1f(uniform("size"), 2 * Math.ceil(pass.radius) + 1);
        for (const name of ["state", "radius", "rim", "alpha"])
          gl.uniform1f(uniform(name), pass[name]);
        gl.drawArrays(gl.POINTS, 0, page.count);
      }
    },
  };
}

// Without WebGL, or with one that has no graphics processor behind it and is slower:
// the points are stamped into the pixels of an image.
function imageRenderer(canvas) {
  const context = canvas.getContext("2d");
  return {
    name: "canvas",
    update() {},
    draw() {
      const { ratio } = stage;
      const area = plotArea();
      const width = Math.round(area.width * ratio);
      const height = Math.round(area.height * ratio);
      const image = context.createImageData(width, height);
      image.data.fill(255);
      passes().forEach((pass) => stampPoints(pass, image));
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.putImageData(
        image,
        Math.round(area.left * ratio),
        Math.round(area.top * ratio),
      );
    },
  };
}

// The pixels of a point: how much of its colour and of its rim each one has.
function stampOf({ radius, rim, alpha }, shape) {
  const side = Math.ceil(radius);
  const across = 2 * side + 1;
  const fill = new Float32Array(across * across);
  const dark = new Float32Array(across * across);
  for (let k = 0; k < fill.length; k++) {
    const dx = (k % across) - side;
    const dy = Math.floor(k / across) - side;
    const r = reach(shape, dx / radius, dy / radius) * radius;
    const inside = Math.min(Math.max(radius - r + 0.5, 0), 1) * alpha;
    const part = Math.min(Math.max(r - radius + rim + 0.5, 0), 1);
    fill[k] = inside * (1 - part);
    dark[k] = inside * part;
  }
  return { fill, dark };
}

function stampPoints(pass, { data, width, height }) {
  const stamps = BORDERS.map((_, shape) => stampOf(pass, shape));
  const side = Math.ceil(pass.radius);
  const scale = view.scale * stage.ratio;
  for (let k = 0; k < order.length; k++) {
    const i = order[k];
    if (stateOf(i) !== pass.state) continue;
    const column = Math.floor(width / 2 + (x[i] - view.x) * scale);
    const row = Math.floor(height / 2 - (y[i] - view.y) * scale);
    if (!(column >= 0 && column < width && row >= 0 && row < height)) continue;
    const { fill, dark } = stamps[looks[4 * i + 3]];
    const red = looks[4 * i];
    const green = looks[4 * i + 1];
    const blue = looks[4 * i + 2];
    let place = 0;
    for (let py = row - side; py <= row + side; py++) {
      for (let px = column - side; px <= column + side; px++, place++) {
        if (px < 0 || px >= width || py < 0 || py >= height) continue;
        const own = fill[place];
        const rim = dark[place];
        const rest = 1 - own - rim;
        if (rest === 1) continue;
        const at = 4 * (py * width + px);
        data[at] = rest * data[at] + own * red + rim * RIM[0];
        data[at + 1] = rest * data[at + 1] + own * green + rim * RIM[1];
        data[at + 2] = rest * data[at + 2] + own * blue + rim * RIM[2];
      }
    }
  }
}

function startRenderer() {
  const canvas = $("points");
  renderer = glRenderer(canvas);
  // A canvas that has been one kind of context cannot be another.
  if (!renderer) useImage();
  canvas.addEventListener("webglcontextlost", useImage);
  renderer.update();
}

function useImage() {
  const canvas = $("points");
  const fresh = canvas.cloneNode();
  canvas.replaceWith(fresh);
  renderer = imageRenderer(fresh);
  requestDrawing();
}

// ---------------------------------------------------------------- view

function plotArea() {
  return {
    left: MARGIN.left,
    top: MARGIN.top,
    width: Math.max(stage.width - MARGIN.left - MARGIN.right, 1),
    height: Math.max(stage.height - MARGIN.top - MARGIN.bottom, 1),
  };
}

function boundingBox() {
  const [left, right] = rangeOf(x);
  const [bottom, top] = rangeOf(y);
  const width = right - left;
  const height = top - bottom;
  return {
    x: (left + right) / 2,
    y: (bottom + top) / 2,
    width,
    height,
    half: Math.max(width, height) / 2 || 1,
  };
}

// Both axes have one scale, so that distances on the map are those of the embedding.
function fit() {
  const box = boundingBox();
  const area = plotArea();
  view.x = box.x;
  view.y = box.y;
  const scale = Math.min(area.width / box.width, area.height / box.height);
  view.scale = 0.92 * (Number.isFinite(scale) ? scale : area.height / 2);
  requestDrawing();
}

function toPixel(px, py) {
  const area = plotArea();
  return [
    area.left + area.width / 2 + (px - view.x) * view.scale,
    area.top + area.height / 2 - (py - view.y) * view.scale,
  ];
}

function toPlace(left, top) {
  const area = plotArea();
  return [
    view.x + (left - area.left - area.width / 2) / view.scale,
    view.y - (top - area.top - area.height / 2) / view.scale,
  ];
}

function zoom(factor, left, top) {
  const [px, py] = toPlace(left, top);
  view.scale *= factor;
  view.x = px + (view.x - px) / factor;
  view.y = py + (view.y - py) / factor;
  requestDrawing();
}

function pan(dx, dy) {
  view.x -= dx / view.scale;
  view.y += dy / view.scale;
  requestDrawing();
}

function requestDrawing() {
  if (needsDrawing) return;
  needsDrawing = true;
  requestAnimationFrame(() => {
    needsDrawing = false;
    draw();
  });
}

function draw() {
  renderer.draw();
  drawOverlay();
  $("summary").dataset.renderer = renderer.name;
}

function ticksOf(low, high, pixels) {
  const rough = (high - low) / Math.max(pixels / 90, 1);
  const decade = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((k) => k * decade >= rough) * decade;
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++)
    ticks.push([k * step, digits < 8 ? (k * step).toFixed(digits) : String(k * step)]);
  return ticks;
}

function drawOverlay() {
  const context = $("overlay").getContext("2d");
  const area = plotArea();
  const right = area.left + area.width;
  const bottom = area.top + area.height;
  context.setTransform(stage.ratio, 0, 0, stage.ratio, 0, 0);
  context.clearRect(0, 0, stage.width, stage.height);
  context.strokeStyle = "#777";
  context.fillStyle = "#1a1a1a";
  context.lineWidth = 1;
  context.font = "12px system-ui, sans-serif";
  context.strokeRect(area.left - 0.5, area.top - 0.5, area.width + 1, area.height + 1);
  const [x0, y1] = toPlace(area.left, area.top);
  const [x1, y0] = toPlace(right, bottom);
  context.textAlign = "center";
  context.textBaseline = "top";
  context.beginPath();
  for (const [place, text] of ticksOf(x0, x1, area.width)) {
    const [left] = toPixel(place, 0);
    context.moveTo(left, bottom);
    context.lineTo(left, bottom + 4);
    context.fillText(text.replace("-", "−"), left, bottom + 6);
  }
  context.fillText(page.axes[0], area.left + area.width / 2, bottom + 26);
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const [place, text] of ticksOf(y0, y1, area.height)) {
    const [, top] = toPixel(0, place);
    context.moveTo(area.left - 4, top);
    context.lineTo(area.left, top);
    context.fillText(text.replace("-", "−"), area.left - 7, top);
  }
  context.stroke();
  context.save();
  context.translate(13, area.top + area.height / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText(page.axes[1], 0, 0);
  context.restore();
  if (hovered >= 0) {
    const [left, top] = toPixel(x[hovered], y[hovered]);
    context.strokeStyle = "#000";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(left, top, +$("size").value + 4, 0, 2 * Math.PI);
    context.stroke();
  }
  if (gesture && gesture.path) {
    const path = outline();
    context.strokeStyle = "#000";
    context.fillStyle = "#0072b222";
    context.lineWidth = 1;
    context.setLineDash([4, 3]);
    context.beginPath();
    path.forEach(([px, py]) => context.lineTo(...toPixel(px, py)));
    context.closePath();
    context.fill();
    context.stroke();
    context.setLineDash([]);
  }
}

function resize() {
  const { clientWidth, clientHeight } = $("stage");
  stage.width = clientWidth;
  stage.height = clientHeight;
  stage.ratio = window.devicePixelRatio || 1;
  for (const id of ["points", "overlay"]) {
    $(id).width = Math.round(clientWidth * stage.ratio);
    $(id).height = Math.round(clientHeight * stage.ratio);
  }
  // At once: a canvas that has another size is empty.
  draw();
}

// ---------------------------------------------------------------- selection

function nearest(left, top) {
  const [px, py] = toPlace(left, top);
  let closest = -1;
  let least = ((+$("size").value + 6) / view.scale) ** 2;
  for (let i = 0; i < page.count; i++) {
    const distance = (x[i] - px) ** 2 + (y[i] - py) ** 2;
    if (distance <= least && visible[i]) {
      least = distance;
      closest = i;
    }
  }
  return closest;
}

// By the even-odd rule: a ray to the right crosses the border an odd number of times.
function isInside(cornersX, cornersY, px, py) {
  let inside = false;
  const n = cornersX.length;
  for (let k = 0, last = n - 1; k < n; last = k++) {
    const ay = cornersY[k];
    const by = cornersY[last];
    if (ay > py === by > py) continue;
    const ax = cornersX[k];
    if (px < ax + ((py - ay) / (by - ay)) * (cornersX[last] - ax)) inside = !inside;
  }
  return inside;
}

function selectInside(path, how) {
  const cornersX = Float64Array.from(path, (place) => place[0]);
  const cornersY = Float64Array.from(path, (place) => place[1]);
  const [left, right] = rangeOf(cornersX);
  const [bottom, top] = rangeOf(cornersY);
  select(
    (i) =>
      x[i] >= left && x[i] <= right && y[i] >= bottom && y[i] <= top &&
      isInside(cornersX, cornersY, x[i], y[i]),
    how,
  );
}

// Hidden particles are never chosen.
function select(isMeant, how) {
  for (let i = 0; i < page.count; i++) {
    const meant = visible[i] && isMeant(i) ? 1 : 0;
    if (how === "add") selected[i] |= meant;
    else if (how === "remove") selected[i] &= 1 - meant;
    else selected[i] = meant;
  }
  leaf = 0;
  showSelection();
}

function selection() {
  const rows = [];
  for (let i = 0; i < page.count; i++) if (selected[i]) rows.push(i);
  return rows;
}

function showSelection() {
  const rows = selection();
  nSelected = rows.length;
  $("count").textContent = nSelected
    ? `${particles(nSelected)} selected`
    : "None. Draw a rectangle or a lasso around particles, or click on one.";
  $("csv").disabled = $("clear").disabled = !nSelected;
  $("star").disabled = !nSelected || !page.star.rows;
  $("note").textContent = page.star.note;
  const leaves = Math.ceil(nSelected / LEAF) || 1;
  leaf = Math.min(leaf, leaves - 1);
  const first = leaf * LEAF;
  const part = rows.slice(first, first + LEAF);
  $("montage").replaceChildren(...part.map(cell));
  $("montage").className = page.pictures ? "" : "names";
  const [earlier, text, later] = $("leaf").children;
  $("leaf").hidden = leaves < 2;
  text.textContent = `${counted(first + 1)}–${counted(first + part.length)}`;
  earlier.disabled = leaf === 0;
  later.disabled = leaf === leaves - 1;
  showLegend();
  refresh();
}

function cell(i) {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  canvas.className = "picture";
  if (drawPicture(canvas, i)) button.append(canvas);
  else button.textContent = nameOf(i);
  button.setAttribute("aria-label", `${nameOf(i)}: take out of the selection`);
  button.title = "Click: take out of the selection";
  const show = () => {
    const box = button.getBoundingClientRect();
    hover(i, box.left - 4, box.bottom);
  };
  button.addEventListener("pointerenter", show);
  button.addEventListener("focus", show);
  button.addEventListener("pointerleave", () => hover(-1));
  button.addEventListener("blur", () => hover(-1));
  button.addEventListener("click", () => {
    hover(-1);
    selected[i] = 0;
    showSelection();
  });
  return button;
}

function hover(i, left, top) {
  const tip = $("tip");
  if (i !== hovered) {
    hovered = i;
    drawOverlay();
  }
  tip.hidden = i < 0;
  if (i < 0) return;
  const [canvas, list] = tip.children;
  if (tip.dataset.particle !== String(i)) {
    tip.dataset.particle = i;
    canvas.hidden = !drawPicture(canvas, i);
    const facts = [["row", String(i)]];
    if (page.names) facts.unshift(["name", page.names[i]]);
    page.columns.forEach((item) => facts.push([item.name, shown(asText(item, i))]));
    list.replaceChildren(
      ...facts.flatMap(([term, value]) =>
        [["dt", term], ["dd", value]].map(([tag, text]) => {
          const element = document.createElement(tag);
          element.textContent = text;
          return element;
        }),
      ),
    );
  }
  // Left of the pointer where there is no room on its right, and so on.
  const { offsetWidth, offsetHeight } = tip;
  const isRight = left + 14 + offsetWidth < window.innerWidth;
  const isBelow = top + 14 + offsetHeight < window.innerHeight;
  tip.style.left = `${Math.max(isRight ? left + 14 : left - 14 - offsetWidth, 0)}px`;
  tip.style.top = `${Math.max(isBelow ? top + 14 : top - 14 - offsetHeight, 0)}px`;
}

// ---------------------------------------------------------------- legend

function refresh() {
  renderer.update();
  requestDrawing();
}

function showVisible() {
  let count = 0;
  const filters = [...hidden].filter(([, codes]) => codes.size);
  for (let i = 0; i < page.count; i++) {
    visible[i] = filters.every(([k, codes]) => !codes.has(page.columns[k].values[i]));
    count += visible[i];
    selected[i] &= visible[i];
  }
  $("hidden").hidden = count === page.count;
  $("hidden").firstElementChild.textContent = `${particles(page.count - count)} hidden.`;
  showSelection();
}

function marker([red, green, blue, shape]) {
  const border = BORDERS[shape];
  const make = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) =>
      element.setAttribute(key, value),
    );
    return element;
  };
  const svg = make("svg", { width: 14, height: 14, "aria-hidden": "true" });
  const paint = { fill: `rgb(${red},${green},${blue})`, stroke: "#444" };
  svg.append(
    border
      ? make("polygon", {
          points: border[0],
          transform: `rotate(${border[1]} 7 7)`,
          ...paint,
        })
      : make("circle", { cx: 7, cy: 7, r: 5.5, ...paint }),
  );
  return svg;
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function showLegend() {
  const legend = $("legend");
  const at = legend.scrollTop;
  const item = page.columns[column];
  if (!item) legend.replaceChildren();
  else if (item.texts) legend.replaceChildren(...entries(item));
  else legend.replaceChildren(...colorBar(item));
  legend.scrollTop = at;
}

function entries({ texts, values }) {
  const all = new Uint32Array(texts.length);
  const chosen = new Uint32Array(texts.length);
  for (let i = 0; i < page.count; i++) {
    all[values[i]]++;
    chosen[values[i]] += selected[i];
  }
  if (!hidden.has(column)) hidden.set(column, new Set());
  const codes = hidden.get(column);
  const rows = texts.slice(0, MAX_ENTRIES).map((text, code) => {
    const row = document.createElement("div");
    const entry = element("button", "entry", "");
    const count = nSelected ? `${counted(chosen[code])} of ` : "";
    entry.append(
      marker(lookOf(texts, code)),
      element("span", "text", shown(text)),
      element("span", "number", count + counted(all[code])),
    );
    entry.title = `${shown(text)}: click to hide or show`;
    entry.setAttribute("aria-pressed", String(!codes.has(code)));
    entry.addEventListener("click", () => {
      if (!codes.delete(code)) codes.add(code);
      changeVisible(code, 0);
    });
    const only = element("button", "only", "only");
    only.setAttribute("aria-label", `Show only ${shown(text)}`);
    only.addEventListener("click", () => {
      texts.forEach((_, other) => codes.add(other));
      codes.delete(code);
      changeVisible(code, 1);
    });
    row.append(entry, only);
    return row;
  });
  const more = texts.length - rows.length;
  if (more > 0) rows.push(element("p", "", `… and ${counted(more)} more`));
  return rows;
}

// The legend is made anew: the focus stays on the button that was pressed.
function changeVisible(code, button) {
  showVisible();
  $("legend").children[code].children[button].focus();
}

function colorBar({ values, array }) {
  const [low, high] = rangeOf(values);
  const format = (value) => (array[0] === "f4" ? single(value) : String(value));
  const stops = VIRIDIS.map((color) => `rgb(${color.join(",")})`).join(",");
  const bar = element("div", "bar", "");
  bar.style.background = `linear-gradient(to right,${stops})`;
  const ends = element("div", "ends", "");
  ends.append(element("span", "", format(low)), element("span", "", format(high)));
  let missing = 0;
  for (const value of values) missing += Number.isFinite(value) ? 0 : 1;
  if (!missing) return [bar, ends];
  const none = element("div", "entry", "");
  none.append(
    marker([...NONE, 0]),
    element("span", "text", "(none)"),
    element("span", "number", counted(missing)),
  );
  return [bar, ends, none];
}

// ---------------------------------------------------------------- files

function save(parts, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, { type: "text/plain" }));
  link.download = `${page.file}-selection${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function csvText() {
  const field = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  const names = page.columns.map((item) => item.name);
  const head = ["index", ...(page.names ? ["name"] : []), ...names, "x", "y"];
  const lines = selection().map((i) => [
    String(i),
    ...(page.names ? [page.names[i]] : []),
    ...page.columns.map((item) => asText(item, i)),
    single(x[i]),
    single(y[i]),
  ]);
  return [head, ...lines]
    .map((line) => line.map(field).join(",") + LINE_END)
    .join("");
}

// The file without the rows that are not selected.
function starParts() {
  const text = page.array(page.star.text);
  const gaps = page.array(page.star.gaps);
  const rows = page.array(page.star.rows);
  const parts = [];
  let start = 0; // of what is kept
  let position = 0;
  for (let i = 0; i < page.count; i++) {
    position += gaps[i];
    const end = position + rows[i];
    if (!selected[i]) {
      parts.push(text.subarray(start, position));
      start = end;
    }
    position = end;
  }
  parts.push(text.subarray(start));
  return parts;
}

// ---------------------------------------------------------------- input

// The border of what is being selected.
function outline() {
  const { path, tool } = gesture;
  if (tool === "lasso") return path;
  const [[ax, ay], [bx, by]] = [path[0], path[path.length - 1]];
  return [[ax, ay], [bx, ay], [bx, by], [ax, by]];
}

function howOf(event) {
  if (event.shiftKey) return "add";
  return event.altKey ? "remove" : $("how").value;
}

function setTool(tool) {
  document.querySelector(`input[name="tool"][value="${tool}"]`).checked = true;
  $("overlay").dataset.tool = tool;
}

// Where the mouse is on the map; what events say themselves is rounded.
function pixelOf(event) {
  const box = $("overlay").getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function startGesture(event) {
  if (event.button !== 0) return;
  const pixel = pixelOf(event);
  $("overlay").setPointerCapture(event.pointerId);
  const { tool = "move" } = $("overlay").dataset;
  gesture = { tool, start: pixel, last: pixel };
  if (tool !== "move") gesture.path = [toPlace(...pixel)];
  hover(-1);
}

function move(event) {
  const pixel = pixelOf(event);
  if (!gesture) {
    hover(nearest(...pixel), event.clientX, event.clientY);
    return;
  }
  const [left, top] = gesture.last;
  if (gesture.path) {
    gesture.path.push(toPlace(...pixel));
    drawOverlay();
  } else pan(pixel[0] - left, pixel[1] - top);
  gesture.last = pixel;
}

function endGesture(event) {
  if (!gesture) return;
  const pixel = pixelOf(event);
  const [left, top] = gesture.start;
  const isClick = Math.hypot(pixel[0] - left, pixel[1] - top) < 4;
  const { path, tool } = gesture;
  const border = path && outline();
  gesture = null;
  if (isClick && (!path || path.length < 4 || tool === "rectangle")) {
    const i = nearest(...pixel);
    if (i >= 0) select((k) => k === i, howOf(event));
  } else if (path) selectInside(border, howOf(event));
  drawOverlay();
}

function cancelGesture() {
  gesture = null;
  drawOverlay();
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search], select")) return;
  const onMap = event.target === $("overlay");
  const area = plotArea();
  const middle = [area.left + area.width / 2, area.top + area.height / 2];
  const actions = {
    m: () => setTool("move"),
    r: () => setTool("rectangle"),
    l: () => setTool("lasso"),
    0: fit,
    "+": () => zoom(1.25, ...middle),
    "=": () => zoom(1.25, ...middle),
    "-": () => zoom(0.8, ...middle),
    Escape: () => (gesture ? cancelGesture() : select(() => false, "replace")),
  };
  const moves = {
    ArrowLeft: () => pan(40, 0),
    ArrowRight: () => pan(-40, 0),
    ArrowUp: () => pan(0, 40),
    ArrowDown: () => pan(0, -40),
  };
  const action = actions[event.key] || (onMap && moves[event.key]);
  if (!action) return;
  event.preventDefault();
  action();
}

function listen() {
  const overlay = $("overlay");
  overlay.addEventListener("pointerdown", startGesture);
  overlay.addEventListener("pointermove", move);
  overlay.addEventListener("pointerup", endGesture);
  overlay.addEventListener("pointercancel", cancelGesture);
  overlay.addEventListener("pointerleave", () => hover(-1));
  overlay.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      // Some browsers count lines, not pixels.
      const pixels = event.deltaY * (event.deltaMode === 1 ? 30 : 1);
      zoom(Math.exp(-0.002 * pixels), ...pixelOf(event));
    },
    { passive: false },
  );
  document.addEventListener("keydown", press);
  $("tool").addEventListener("change", (event) => setTool(event.target.value));
  $("fit").addEventListener("click", fit);
  $("size").addEventListener("input", requestDrawing);
  $("color").addEventListener("change", (event) => setColumn(+event.target.value));
  $("hidden").lastElementChild.addEventListener("click", () => {
    hidden.clear();
    showVisible();
  });
  $("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const part = event.target.elements[0].value.toLowerCase();
    if (part)
      select((i) => nameOf(i).toLowerCase().includes(part), $("how").value);
  });
  $("clear").addEventListener("click", () => select(() => false, "replace"));
  $("invert").addEventListener("click", () => select((i) => !selected[i], "replace"));
  $("csv").addEventListener("click", () => save([csvText()], ".csv"));
  $("star").addEventListener("click", () => save(starParts(), ".star"));
  const [earlier, , later] = $("leaf").children;
  earlier.addEventListener("click", () => turn(-1));
  later.addEventListener("click", () => turn(1));
  new ResizeObserver(resize).observe($("stage"));
}

function turn(step) {
  leaf += step;
  showSelection();
}

function setColumn(k) {
  column = k;
  colorParticles();
  showLegend();
  refresh();
}

// ---------------------------------------------------------------- start

// An order that no class or tomogram is first or last in, the same every time.
function shuffled(n) {
  const rows = Uint32Array.from({ length: n }, (_, i) => i);
  let seed = 1;
  for (let i = n - 1; i > 0; i--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const k = Math.floor((seed / 2 ** 32) * (i + 1));
    [rows[i], rows[k]] = [rows[k], rows[i]];
  }
  return rows;
}

async function start() {
  page = await unpack();
  [x, y] = page.places.map(page.array);
  visible = new Uint8Array(page.count).fill(1);
  selected = new Uint8Array(page.count);
  looks = new Uint8Array(4 * page.count);
  order = shuffled(page.count);
  if (page.pictures?.rows) page.pictures.of = page.array(page.pictures.rows);
  page.columns.forEach((item, k) => $("color").add(new Option(item.name, k)));
  $("color").parentElement.hidden = !page.columns.length;
  $("size").value = page.count > 50000 ? 2 : page.count > 5000 ? 3 : 4.5;
  column = page.columns.length ? 0 : -1;
  colorParticles();
  startRenderer();
  resize();
  fit();
  listen();
  showSelection();
  draw();
  $("summary").textContent = particles(page.count);
  performance.mark("first-frame");
}

start().catch((error) => {
  $("summary").textContent =
    `The page cannot be shown (${error.message}). It needs Chrome or Edge 80, ` +
    "Firefox 113, Safari 16.4 or a later browser.";
  throw error;
});
