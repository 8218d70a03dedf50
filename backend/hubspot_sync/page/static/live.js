// The overview's figures and charts, moved by server-sent events.
"use strict";

const live = document.getElementById("live");
const state = document.getElementById("live-state");
const seconds = Number(live.dataset.seconds);
const beats = [];
const charts = new Map();
const minutes = [4, 2];
let source = null;

const whole = new Intl.NumberFormat("en");

function inWords(name, value) {
  if (value === null || value === undefined) return "?";
  if (name === "requests") return value.toFixed(1);
  if (name !== "lag") return whole.format(value);
  if (value < 60) return `${Math.floor(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
}

function short(name, value) {
  if (name === "lag" && value >= 60) return value < 3600 ? `${Math.round(value / 6) / 10} min` : `${Math.round(value / 360) / 10} h`;
  if (name === "lag") return `${value} s`;
  return new Intl.NumberFormat("en", { notation: "compact" }).format(value);
}

// Clocks differ: what counts is the server's.
function now() {
  return beats.at(-1)?.at ?? Date.now() / 1000;
}

function color(element, name) {
  return getComputedStyle(element.querySelector(`.ink-${name}`) ?? element).color;
}

// From nothing to a little above the highest, and never so near that noise fills the chart.
function span(name) {
  const least = { pending: 10, delivered: 10, lag: 10, requests: 2 }[name];
  return (_, __, highest) => [0, Math.max(least, (highest ?? 0) * 1.15)];
}

function draw(figure) {
  const name = figure.dataset.figure;
  const place = figure.querySelector(".chart");
  for (const ink of ["line", "area", "grid", "text"]) {
    const probe = document.createElement("i");
    probe.className = `ink-${ink}`;
    place.append(probe);
  }
  const axis = { stroke: () => color(place, "text"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const chart = new uPlot(
    {
      width: place.clientWidth,
      height: place.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, sync: { key: "overview" } },
      padding: [8, 4, 0, 0],
      scales: { x: { time: true, range: () => [now() - seconds, now()] }, y: { range: span(name) } },
      axes: [
        {
          ...axis,
          size: 18,
          gap: 2,
          grid: { show: false },
          splits: () => minutes.map((minute) => now() - minute * 60),
          values: () => minutes.map((minute) => `−${minute} min`),
        },
        {
          ...axis,
          size: 44,
          gap: 6,
          space: 34,
          grid: { stroke: () => color(place, "grid"), width: 1 },
          values: (_, values) => values.map((value) => short(name, value)),
        },
      ],
      series: [
        {},
        {
          stroke: () => color(place, "line"),
          fill: () => color(place, "area"),
          width: 1.5,
          points: { show: false },
          spanGaps: false,
        },
      ],
      hooks: { setCursor: [(chart) => show(figure, chart.cursor.idx)] },
    },
    [[], []],
    place,
  );
  new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: place.clientHeight })).observe(place);
  charts.set(name, chart);
}

// The value under the pointer, else the newest.
function show(figure, index) {
  const name = figure.dataset.figure;
  const beat = beats[index ?? beats.length - 1];
  if (beat) figure.querySelector("[data-value]").textContent = inWords(name, beat[name]);
}

function take(message) {
  for (const beat of message.beats) {
    const last = beats.at(-1);
    // Where nobody watched, nothing is known: the line has a gap.
    if (last && beat.at - last.at > 5) beats.push({ at: last.at + 1 });
    beats.push(beat);
  }
  while (beats.length && beats[0].at < now() - seconds) beats.shift();
  const at = beats.map((beat) => beat.at);
  for (const [name, chart] of charts) {
    chart.setData([at, beats.map((beat) => beat[name] ?? null)]);
    show(chart.root.closest("figure"), chart.cursor.idx);
  }
  const newest = beats.at(-1);
  state.textContent = newest && newest.pending === null ? "The database does not answer; the figures wait for it." : "";
  if (message.notices && message.notices !== document.getElementById("notices").dataset.mark) {
    htmx.trigger(document.body, "notices-changed");
  }
  const reasons = document.getElementById("reasons");
  if (newest?.failed != null && Number(reasons.dataset.failed) !== newest.failed) {
    htmx.trigger(document.body, "failed-changed");
  }
}

function watch() {
  if (source || document.hidden) return;
  source = new EventSource(live.dataset.stream);
  source.addEventListener("beats", (event) => take(JSON.parse(event.data)));
  source.addEventListener("over", () => location.reload());
  source.addEventListener("error", () => {
    state.textContent = "The figures stand still: the application does not answer. They go on by themselves.";
    // Some answers end a source for good.
    if (source.readyState === EventSource.CLOSED) {
      unwatch();
      setTimeout(watch, 5000);
    }
  });
}

// A browser keeps few connections to a server; those of pages that nobody sees are given back.
function unwatch() {
  source?.close();
  source = null;
}

for (const figure of live.querySelectorAll("[data-figure]")) draw(figure);
document.addEventListener("visibilitychange", () => (document.hidden ? unwatch() : watch()));
window.addEventListener("pagehide", unwatch);
window.addEventListener("pageshow", watch);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts.values()) chart.redraw(false, true);
});
watch();
