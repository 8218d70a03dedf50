// The overview's figures: stored ones by range, and the newest by server-sent events.
"use strict";

const live = document.getElementById("live");
const state = document.getElementById("live-state");
const readout = document.getElementById("readout");
const byType = document.getElementById("by-type");
const range = live.dataset.range;
// What is stored grows by the minute.
const RELOAD_MS = range === "1h" || range === "24h" ? 30_000 : 300_000;
const charts = [];
let series = null;
let columns = null;
let sample = null;
let type = "";
let source = null;
let reloading = null;

function draw() {
  if (!series) return;
  columns = columnsOf(series, type);
  const now = Math.max(Date.parse(series.until) / 1000, sample?.at ?? 0);
  if (sample && sample.pending !== null && (range === "1h" || range === "24h")) addNewest();
  const bands = [
    ...gapsOf(series).map((gap) => ["gap", ...gap]),
    ...closuresOf(series).map((closure) => [closure.state, closure.from, closure.ended_at === null ? now : closure.to]),
  ];
  const marks = series.marks.map((mark) => Date.parse(mark.at) / 1000);
  for (const chart of charts) chart.show([Date.parse(series.since) / 1000, now], columns, bands, marks);
}

// What is now, and the last minute, which is not stored yet.
function addNewest() {
  columns.at.push(sample.at);
  columns.pending[0].push(sample.pending);
  columns.lag[0].push(sample.lag);
  // A minute beside means of ten would seem to be a peak.
  const isMinute = range === "1h";
  columns.delivered[0].push(type || !isMinute ? null : sample.delivered);
  columns.delivered[1].push(null);
  columns.delivered[2].push(null);
  columns.requests[0].push(isMinute ? sample.requests : null);
  columns.requests[1].push(null);
}

function showNewest() {
  if (!sample || readout.textContent) return;
  for (const place of document.querySelectorAll("[data-live]")) {
    place.textContent = inWords(place.dataset.live, sample[place.dataset.live]);
  }
}

// What stood at the instant under the pointer.
function showPast(index, at) {
  if (index == null || at === null || !series) {
    if (readout.textContent) {
      readout.textContent = "";
      showNewest();
    }
    return;
  }
  const values = Object.fromEntries(charts.map(({ name }) => [name, columns[name].map((line) => line[index])]));
  const [delivered, enqueued, failed] = values.delivered;
  const [answered, inVain] = values.requests;
  const rate = (value) => (value == null ? "?" : value < 10 ? value.toFixed(1) : whole.format(value));
  const span = series.span_seconds / 2;
  const words = [instantInWords(columns.at[index])];
  if (delivered == null && enqueued == null && values.pending[0] == null) words.push("no worker lived");
  else words.push(`a minute: ${rate(enqueued)} enqueued, ${rate(delivered)} delivered, ${rate(failed)} failed`);
  if (values.pending[0] != null) words.push(`${whole.format(values.pending[0])} waiting, lag ${inDuration(values.lag[0])}`);
  if (answered != null) words.push(`${answered.toFixed(2)} requests/s answered, ${(inVain ?? 0).toFixed(2)} in vain`);
  for (const closure of closuresOf(series)) {
    if (closure.from <= columns.at[index] + span && closure.to >= columns.at[index] - span) {
      words.push(`${closure.state} since ${instantInWords(closure.from)}${closure.reason ? `: ${closure.reason}` : ""}`);
    }
  }
  for (const mark of series.marks) {
    if (Math.abs(Date.parse(mark.at) / 1000 - columns.at[index]) <= span) words.push(`${mark.kind} ${mark.words}`);
  }
  readout.textContent = words.join(" · ");
}

function showTypes() {
  const sums = new Map();
  for (const point of series.points) {
    for (const [name, counts] of Object.entries(point.by_type)) {
      const sum = sums.get(name) ?? { enqueued: 0, delivered: 0, failed: 0 };
      for (const key of Object.keys(sum)) sum[key] += counts[key];
      sums.set(name, sum);
    }
  }
  byType.hidden = !sums.size;
  const rows = [...sums].sort().map(([name, sum]) => {
    const row = document.createElement("tr");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "link";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(type === name));
    button.addEventListener("click", () => {
      type = type === name ? "" : name;
      for (const other of byType.querySelectorAll("button")) {
        other.setAttribute("aria-pressed", String(type === other.textContent));
      }
      draw();
    });
    const cells = [button, sum.enqueued, sum.delivered, sum.failed].map((value, position) => {
      const cell = document.createElement("td");
      cell.className = position ? "number" : "id";
      cell.append(position ? whole.format(value) : value);
      return cell;
    });
    row.append(...cells);
    return row;
  });
  byType.querySelector("tbody").replaceChildren(...rows);
}

async function load() {
  clearTimeout(reloading);
  if (document.hidden) return;
  try {
    const answer = await fetch(`${live.dataset.series}?range=${range}`, { redirect: "error" });
    if (answer.ok) {
      series = await answer.json();
      draw();
      // What has the focus stays where it is.
      if (!byType.contains(document.activeElement)) showTypes();
    }
  } catch {
    // The stream says so too; the charts stay as they were.
  }
  reloading = setTimeout(load, RELOAD_MS);
}

function unknownPast() {
  const isKnown = !series || series.points.some((point) => point.delivered !== null);
  return isKnown ? "" : "No worker lived in this time, so nothing is known of it but what was enqueued.";
}

function take(message) {
  sample = message.samples.at(-1);
  showNewest();
  draw();
  state.textContent = sample.pending === null ? "The database does not answer; the figures wait for it." : unknownPast();
  if (message.notices && message.notices !== document.getElementById("notices").dataset.mark) {
    htmx.trigger(document.body, "notices-changed");
  }
  const reasons = document.getElementById("reasons");
  if (sample.failed != null && Number(reasons.dataset.failed) !== sample.failed) {
    htmx.trigger(document.body, "failed-changed");
  }
}

function watch() {
  if (source || document.hidden) return;
  load();
  source = new EventSource(live.dataset.stream);
  source.addEventListener("samples", (event) => take(JSON.parse(event.data)));
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
  clearTimeout(reloading);
}

for (const figure of live.querySelectorAll("[data-figure]")) charts.push(new Chart(figure, showPast));
document.addEventListener("visibilitychange", () => (document.hidden ? unwatch() : watch()));
window.addEventListener("pagehide", unwatch);
window.addEventListener("pageshow", watch);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.plot.redraw(false, true);
});
watch();
