"use strict";
// Drawing, and reactions to pointer and keys. The data is in #data; see examples.py, curves.py, codebooks.py.
const DATA = JSON.parse(document.getElementById("data").textContent);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// ---------------------------------------------------------------------------------------------- colours of units
// Six hues of Okabe and Ito in four lightnesses: neighbours in time differ in hue, in lightness or in both, and carry their number.
const HUES = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7"];
const MIX = [[0, 0], [255, 0.45], [0, 0.35], [255, 0.7]]; // towards white or black, how far
function colour(unit) {
  const hue = HUES[unit % 6], [to, share] = MIX[Math.floor(unit / 6) % 4];
  const rgb = [1, 3, 5].map((i) => Math.round(parseInt(hue.slice(i, i + 2), 16) * (1 - share) + to * share));
  return { fill: `rgb(${rgb})`, ink: 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 125 ? "#111" : "#fff" };
}
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---------------------------------------------------------------------------------------------- tracks
let context = null; // for stretches: an <audio> element cannot stop to the millisecond
let playing = null; // {source, track, from, to, began}

class Track {
  constructor(section) {
    this.section = section;
    this.data = DATA.tracks[+section.dataset.track];
    this.audio = section.querySelector("audio");
    this.stage = section.querySelector(".stage");
    this.cursor = section.querySelector(".cursor");
    this.value = section.querySelector(".value");
    this.rows = $$("canvas", section).map((canvas) => ({ canvas, spans: spans(this.data.rows[+canvas.dataset.row]), chosen: -1 }));
    for (const row of this.rows) {
      row.canvas.setAttribute("aria-valuemax", row.spans.length - 1);
      row.canvas.addEventListener("keydown", (e) => this.key(e, row));
      row.canvas.addEventListener("pointermove", (e) => this.show(row.spans[at(row, this.time(e))]));
    }
    this.stage.addEventListener("click", (e) => this.click(e));
    this.audio?.addEventListener("play", () => { stop(); for (const t of TRACKS) if (t !== this) t.audio?.pause(); follow(); });
    for (const event of ["seeking", "timeupdate"]) this.audio?.addEventListener(event, () => this.move());
  }
  time(e) {
    const box = this.stage.getBoundingClientRect();
    return clamp((e.clientX - box.left) / box.width, 0, 1) * this.data.seconds;
  }
  click(e) {
    const row = this.rows.find((r) => r.canvas === e.target);
    if (row) this.choose(row, at(row, this.time(e)), true);
    else { stop(); this.seek(this.time(e)); }
  }
  key(e, row) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[e.key];
    if (step) this.choose(row, clamp(row.chosen + step, 0, row.spans.length - 1), false);
    else if (e.key === "Enter" || e.key === " ") this.choose(row, Math.max(0, row.chosen), true);
    else return;
    e.preventDefault();
  }
  // Mark a unit or phone, go to where it begins, and let it be heard.
  choose(row, n, play) {
    const span = row.spans[n];
    if (!span) return;
    row.chosen = n;
    row.canvas.setAttribute("aria-valuenow", n);
    row.canvas.setAttribute("aria-valuetext", words(span));
    this.draw(row);
    this.show(span);
    stop();
    this.audio?.pause();
    this.seek(span.from);
    if (play && this.audio) this.stretch(span.from, span.to).catch((error) => console.error(error));
  }
  show(span) {
    if (span) this.value.textContent = words(span);
  }
  seek(seconds) {
    if (this.audio) this.audio.currentTime = seconds;
    this.move(seconds);
  }
  move(seconds = this.audio?.currentTime ?? 0) {
    this.cursor.hidden = false;
    this.cursor.style.left = `${(100 * clamp(seconds, 0, this.data.seconds)) / this.data.seconds}%`;
    // While it plays, the cursor stays in sight.
    const scroll = this.section.parentElement, x = (seconds / this.data.seconds) * this.stage.offsetWidth;
    if (x < scroll.scrollLeft || x > scroll.scrollLeft + scroll.clientWidth - 60) scroll.scrollLeft = x - scroll.clientWidth / 4;
  }
  async stretch(from, to) {
    context ??= new AudioContext();
    await context.resume();
    if (!this.sound) {
      const bytes = Uint8Array.from(atob(this.audio.src.split(",")[1]), (c) => c.charCodeAt(0));
      this.sound = await context.decodeAudioData(bytes.buffer);
    }
    stop();
    const source = context.createBufferSource(), gain = context.createGain(), now = context.currentTime, long = to - from;
    source.buffer = this.sound;
    // Two milliseconds in and out, or the cut would click.
    gain.gain.setValueAtTime(0, now);
    gain.gain.linearRampToValueAtTime(1, now + 0.002);
    gain.gain.setValueAtTime(1, now + Math.max(0.002, long - 0.002));
    gain.gain.linearRampToValueAtTime(0, now + long);
    source.connect(gain).connect(context.destination);
    source.start(now, from, long);
    playing = { source, track: this, from, to, began: now };
    this.section.dataset.heard = `${from.toFixed(3)} ${to.toFixed(3)}`;
    follow();
  }
  draw(row) {
    const { canvas } = row, dense = Math.min(2, devicePixelRatio || 1);
    const width = this.stage.clientWidth, height = canvas.clientHeight, second = width / this.data.seconds;
    canvas.width = width * dense;
    canvas.height = height * dense;
    const g = canvas.getContext("2d");
    g.scale(dense, dense);
    g.font = "11px system-ui, sans-serif";
    g.textAlign = "center";
    g.textBaseline = "middle";
    row.spans.forEach((span, n) => {
      const x = span.from * second, w = Math.max(0.6, (span.to - span.from) * second - 1);
      const { fill, ink } = span.manner ? { fill: style(`--${span.manner}`), ink: span.manner === "silence" ? style("--ink") : "#111" } : colour(span.what);
      g.fillStyle = fill;
      g.fillRect(x, 2, w, height - 4);
      if (g.measureText(span.what).width + 4 < w) {
        g.fillStyle = ink;
        g.fillText(span.what, x + w / 2, height / 2 + 0.5);
      }
      if (n === row.chosen) {
        g.strokeStyle = style("--ink");
        g.lineWidth = 2;
        g.strokeRect(x, 1, w, height - 2);
      }
    });
  }
}

// Stretches in seconds from the start of the track.
function spans(row) {
  if (row.kind === "phones") return row.spans.map(([from, to, what, manner]) => ({ from, to, what, manner }));
  let frames = 0;
  return row.units.map((what, n) => {
    const from = frames / row.rate;
    frames += row.durations[n];
    return { from, to: frames / row.rate, what };
  });
}
const words = (s) => `${s.manner ? s.what : `unit ${s.what}`} · ${s.from.toFixed(2)} to ${s.to.toFixed(2)} s`;
function at(row, seconds) {
  return row.spans.findIndex((s) => seconds >= s.from && seconds < s.to);
}
function stop() {
  try { playing?.source.stop(); } catch { /* it was over */ }
  playing = null;
}
// Cursors move with what is heard, frame by frame, as long as something is.
function follow() {
  if (follow.waiting) return;
  const frame = () => {
    follow.waiting = false;
    const on = TRACKS.find((t) => t.audio && !t.audio.paused);
    if (playing) {
      const now = playing.from + context.currentTime - playing.began;
      if (now >= playing.to) { playing.track.move(playing.to); playing = null; } else playing.track.move(now);
    } else if (on) on.move();
    if (playing || on) follow();
  };
  follow.waiting = true;
  requestAnimationFrame(frame);
}

const TRACKS = $$(".track").map((section) => new Track(section));
const EXAMPLES = $$(".example");
const MOST = 800, LEAST = 160; // pixels a second

// A short example fills the width; a longer one scrolls, at a scale that shows single units.
function lay(example) {
  const padding = parseFloat(getComputedStyle(example.querySelector(".stage")).marginLeft);
  const fit = (example.querySelector(".scroll").clientWidth - 2 * padding) / +example.dataset.seconds;
  const wanted = clamp(fit, LEAST, MOST) * (example.zoom ?? 1);
  const second = clamp(wanted, Math.min(fit, LEAST), MOST);
  example.style.setProperty("--second", `${second}px`);
  for (const track of TRACKS) if (example.contains(track.section)) for (const row of track.rows) track.draw(row);
}
for (const example of EXAMPLES)
  for (const button of $$("[data-zoom]", example))
    button.addEventListener("click", () => { example.zoom = clamp((example.zoom ?? 1) * +button.dataset.zoom, 0.05, 20); lay(example); });
const layAll = () => EXAMPLES.forEach(lay);
addEventListener("resize", layAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", layAll);
layAll();

// ---------------------------------------------------------------------------------------------- values under the pointer
const digits = (x) => (Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : +x.toPrecision(3) + "");

function tip(figure, text, x, y) {
  const out = figure.querySelector(".tip");
  out.hidden = text === null;
  if (text === null) return;
  out.textContent = text;
  out.style.left = `${clamp(x + 14, 0, Math.max(0, figure.clientWidth - out.offsetWidth - 4))}px`;
  out.style.top = `${Math.max(0, y - out.offsetHeight - 8)}px`;
}
function inside(e, element) {
  const box = element.getBoundingClientRect();
  return [(e.clientX - box.left) / box.width, (e.clientY - box.top) / box.height];
}
function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle; else high = middle;
  }
  return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
}
for (const svg of $$("[data-chart]")) {
  const chart = DATA.charts[+svg.dataset.chart], [left, top, right, bottom] = chart.box, [x0, x1] = chart.x;
  const WIDTH = svg.viewBox.baseVal.width, figure = svg.closest("figure"), cross = svg.querySelector(".cross");
  const xs = [...new Set(chart.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b).map((x) => [x]);
  let here = null;
  const show = (x) => {
    [here] = nearest(xs, clamp(x, x0, x1));
    const px = left + ((here - x0) / (x1 - x0)) * (right - left);
    cross.setAttribute("d", `M${px} ${top}V${bottom}`);
    const lines = chart.bars ? [`${chart.bars[here]}: ${digits(nearest(chart.series[0].points, here)[1])}`]
      : [`${chart.unit} ${digits(here)}`, ...chart.series.map((s) => [s, nearest(s.points, here)]).filter(([, p]) => p[0] === here)
        .map(([s, p]) => `${s.name}  ${digits(p[1])}`)];
    const box = svg.getBoundingClientRect(), out = figure.getBoundingClientRect();
    tip(figure, lines.join("\n"), box.left - out.left + (px / WIDTH) * box.width, 90);
  };
  const hide = () => { here = null; cross.setAttribute("d", ""); tip(figure, null); };
  svg.addEventListener("pointermove", (e) => show(x0 + ((inside(e, svg)[0] * WIDTH - left) / (right - left)) * (x1 - x0)));
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!step) return;
    e.preventDefault();
    const n = here === null ? (step > 0 ? -1 : xs.length) : xs.findIndex((x) => x[0] === here);
    show(xs[clamp(n + step, 0, xs.length - 1)][0]);
  });
}

// A heat map's values are read back from its colours.
const palette = (() => {
  const anchors = DATA.colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  return Array.from({ length: DATA.levels }, (_, n) => {
    const x = (n / (DATA.levels - 1)) * (anchors.length - 1), k = Math.min(anchors.length - 2, Math.floor(x));
    return anchors[k].map((c, i) => c + (anchors[k + 1][i] - c) * (x - k));
  });
})();
for (const img of $$("[data-map]")) {
  const map = DATA.maps[+img.dataset.map], figure = img.closest("figure");
  let pixels = null;
  img.addEventListener("pointermove", (e) => {
    const width = map.columns.length, height = map.rows.length;
    if (!pixels) {
      const canvas = Object.assign(document.createElement("canvas"), { width, height }), g = canvas.getContext("2d");
      g.drawImage(img, 0, 0);
      pixels = g.getImageData(0, 0, width, height).data;
    }
    const [u, v] = inside(e, img), x = clamp(Math.floor(u * width), 0, width - 1), y = clamp(Math.floor(v * height), 0, height - 1);
    const rgb = pixels.subarray(4 * (y * width + x)), far = palette.map((p) => p.reduce((sum, c, i) => sum + (c - rgb[i]) ** 2, 0));
    const share = (far.indexOf(Math.min(...far)) / (DATA.levels - 1)) ** map.power;
    const out = figure.getBoundingClientRect();
    tip(figure, `${map.rows[y]} → ${map.columns[x]}: ${digits(100 * share)} %`, e.clientX - out.left, e.clientY - out.top);
  });
  img.addEventListener("pointerleave", () => tip(figure, null));
}

// ---------------------------------------------------------------------------------------------- tables that sort
for (const button of $$(".sortable th button"))
  button.addEventListener("click", () => {
    const th = button.parentElement, table = th.closest("table"), n = th.cellIndex, body = table.tBodies[0];
    const sorted = th.getAttribute("aria-sort");
    const up = sorted === "descending" || (sorted !== "ascending" && (n === 0 || th.classList.contains("words")));
    const keys = new Map([...body.rows].map((row) => [row, row.cells[n].dataset.value]));
    const words = th.classList.contains("words");
    const order = (a, b) => (words ? keys.get(a).localeCompare(keys.get(b)) : keys.get(a) - keys.get(b));
    body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
    for (const other of $$("th", table)) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
