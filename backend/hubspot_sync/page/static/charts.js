// Charts of stored figures: lines with gaps where nobody knows, bands for a shut gate, and marks.
"use strict";

const INKS = ["line", "area", "enqueued", "failed", "held", "throttled", "gap", "mark", "grid", "text"];
// What a chart has at least above it, so that noise does not fill it.
const LEAST = { pending: 4, delivered: 4, lag: 10, requests: 0.5 };
const LINES = {
  pending: [["line", "area"]],
  delivered: [["line", "area"], ["enqueued"], ["failed"]],
  lag: [["line", "area"]],
  requests: [["line", "area"], ["failed"]],
};

// Of each chart, its columns: instants, then the values of each line.
function columnsOf(series, type) {
  const span = series.span_seconds;
  const until = Date.parse(series.until) / 1000;
  const columns = { at: [], pending: [[]], delivered: [[], [], []], lag: [[]], requests: [[], []] };
  for (const point of series.points) {
    const start = Date.parse(point.at) / 1000;
    const length = Math.min(span, until - start);
    // Of the span that has just begun there is too little to divide by.
    if (length < span * 0.2 && length < span) continue;
    const isKnown = point.delivered !== null;
    // Of the time in which no worker lived, nothing was delivered that could be divided by it.
    const known = Math.min(length, Math.max(60, point.lived * span));
    const minutes = known / 60;
    const chosen = type ? (point.by_type[type] ?? { enqueued: 0, delivered: 0, failed: 0 }) : point;
    columns.at.push(start + length / 2);
    columns.pending[0].push(isKnown ? point.waiting : null);
    columns.delivered[0].push(isKnown ? chosen.delivered / minutes : null);
    columns.delivered[1].push(isKnown || chosen.enqueued ? (chosen.enqueued / length) * 60 : null);
    columns.delivered[2].push(isKnown ? chosen.failed / minutes : null);
    columns.lag[0].push(isKnown ? point.lag_seconds : null);
    const inVain = isKnown ? point.refused + point.throttled + point.unanswered : 0;
    columns.requests[0].push(isKnown ? point.answered / known : null);
    columns.requests[1].push(isKnown ? inVain / known : null);
  }
  return columns;
}

// Spans in which no worker lived, joined.
function gapsOf(series) {
  const gaps = [];
  for (const point of series.points) {
    if (point.delivered !== null) continue;
    const start = Date.parse(point.at) / 1000;
    const last = gaps.at(-1);
    if (last && last[1] >= start) last[1] = start + series.span_seconds;
    else gaps.push([start, start + series.span_seconds]);
  }
  return gaps;
}

function closuresOf(series) {
  const until = Date.parse(series.until) / 1000;
  return series.closures.map((closure) => ({
    ...closure,
    from: Date.parse(closure.began_at) / 1000,
    to: closure.ended_at === null ? until : Math.min(until, Date.parse(closure.ended_at) / 1000),
  }));
}

class Chart {
  constructor(figure, onPoint) {
    this.figure = figure;
    this.name = figure.dataset.figure;
    this.place = figure.querySelector(".chart");
    this.bands = [];
    this.marks = [];
    this.range = [0, 1];
    for (const ink of INKS) {
      const probe = document.createElement("i");
      probe.className = `ink-${ink}`;
      this.place.append(probe);
    }
    this.plot = new uPlot(this.options(onPoint), [[], ...LINES[this.name].map(() => [])], this.place);
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.place);
  }

  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }

  ink(name) {
    return getComputedStyle(this.place.querySelector(`.ink-${name}`)).color;
  }

  options(onPoint) {
    const axis = { stroke: () => this.ink("text"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const isolated = (plot, index) => {
      const values = plot.data[index];
      return values.flatMap((value, at) => (value != null && values[at - 1] == null && values[at + 1] == null ? [at] : []));
    };
    return {
      ...this.size(),
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, sync: { key: "overview" } },
      padding: [10, 6, 0, 0],
      scales: {
        x: { time: true, range: () => this.range },
        y: { range: (_, __, highest) => [0, Math.max(LEAST[this.name], (highest ?? 0) * 1.1)] },
      },
      axes: [
        {
          ...axis,
          size: 20,
          gap: 4,
          grid: { show: false },
          splits: (plot) => timeSplits(...this.range, plot.bbox.width / devicePixelRatio),
          values: (_, splits) => splits.map((at) => timeLabel(at, ...this.range)),
        },
        {
          ...axis,
          size: 52,
          gap: 6,
          grid: { stroke: () => this.ink("grid"), width: 1 },
          splits: (_, __, ___, max) => valueSplits(this.name, max),
          values: (_, splits) => splits.map((value) => valueLabel(this.name, value)),
        },
      ],
      series: [
        {},
        ...LINES[this.name].map(([stroke, fill]) => ({
          stroke: () => this.ink(stroke),
          fill: fill && (() => this.ink(fill)),
          width: stroke === "enqueued" ? 1 : 1.5,
          points: { show: true, size: 5, filter: isolated },
          spanGaps: false,
        })),
      ],
      hooks: {
        drawClear: [(plot) => this.drawBands(plot)],
        draw: [(plot) => this.drawMarks(plot)],
        setCursor: [(plot) => onPoint(plot.cursor.idx, plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null)],
      },
    };
  }

  drawBands(plot) {
    const { left, top, width, height } = plot.bbox;
    for (const [ink, from, to] of this.bands) {
      const start = Math.max(left, plot.valToPos(from, "x", true));
      const end = Math.min(left + width, plot.valToPos(to, "x", true));
      if (end <= left || start >= left + width) continue;
      plot.ctx.fillStyle = this.ink(ink);
      // One that was short is seen all the same.
      plot.ctx.fillRect(start, top, Math.max(end - start, 2 * devicePixelRatio), height);
    }
  }

  drawMarks(plot) {
    const { left, top, width, height } = plot.bbox;
    const context = plot.ctx;
    context.save();
    context.strokeStyle = context.fillStyle = this.ink("mark");
    context.lineWidth = devicePixelRatio;
    context.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const mark of this.marks) {
      const x = Math.round(plot.valToPos(mark, "x", true));
      if (x < left || x > left + width) continue;
      context.beginPath();
      context.moveTo(x, top);
      context.lineTo(x, top + height);
      context.stroke();
      const side = 4 * devicePixelRatio;
      context.beginPath();
      context.moveTo(x - side, top - side);
      context.lineTo(x + side, top - side);
      context.lineTo(x, top + side / 2);
      context.fill();
    }
    context.restore();
  }

  show(range, columns, bands, marks) {
    this.range = range;
    this.bands = bands;
    this.marks = marks;
    this.plot.setData([columns.at, ...columns[this.name]]);
  }
}
