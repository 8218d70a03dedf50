// Where a chart's labels stand, and what they say: whole and even at every width and duration.
"use strict";

const MINUTE = 60, HOUR = 3600, DAY = 86400;
const TIME_STEPS = [MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 5 * DAY, 10 * DAY];
const DURATION_STEPS = [1, 2, 5, 10, 15, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY];
const LABEL_WIDTH = 46;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });

function inDuration(seconds) {
  if (seconds < MINUTE) return `${Math.floor(seconds)} s`;
  const [unit, length, lesser, lesserLength] =
    seconds < HOUR ? ["min", MINUTE, "s", 1] : seconds < DAY ? ["h", HOUR, "min", MINUTE] : ["d", DAY, "h", HOUR];
  const rest = Math.floor((seconds % length) / lesserLength);
  return `${Math.floor(seconds / length)} ${unit}${rest ? ` ${rest} ${lesser}` : ""}`;
}

// A figure's value beside its title.
function inWords(name, value) {
  if (value === null || value === undefined) return "?";
  if (name === "requests") return value.toFixed(1);
  return name === "lag" ? inDuration(value) : whole.format(value);
}

function pad(number) {
  return String(number).padStart(2, "0");
}

function instantInWords(seconds) {
  const at = new Date(seconds * 1000);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())} UTC`;
}

// Round instants, so far apart that their labels do not touch, and so far from the edges that none is cut.
function timeSplits(min, max, width) {
  const second = width / (max - min);
  const step = TIME_STEPS.find((it) => it * second >= LABEL_WIDTH * 1.4);
  const found = [];
  if (step) {
    for (let at = Math.ceil(min / step) * step; at <= max; at += step) found.push(at);
  } else {
    const first = new Date(min * 1000);
    const months = Math.max(1, Math.ceil((LABEL_WIDTH * 1.4) / (30 * DAY * second)));
    for (let month = first.getUTCMonth() + 1; ; month += months) {
      const at = Date.UTC(first.getUTCFullYear(), month, 1) / 1000;
      if (at > max) break;
      found.push(at);
    }
  }
  const margin = LABEL_WIDTH / 2 / second;
  return found.filter((at) => at - min >= margin && max - at >= margin);
}

function timeLabel(seconds, min, max) {
  const at = new Date(seconds * 1000);
  if (max - min > 100 * DAY) return at.getUTCMonth() ? MONTHS[at.getUTCMonth()] : String(at.getUTCFullYear());
  if (seconds % DAY === 0) return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}`;
  return `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
}

// From nothing to above the highest in three or four even steps; durations in steps of a clock.
function valueSplits(name, max) {
  let step;
  if (name === "lag") {
    step = DURATION_STEPS.find((it) => it * 4 >= max) ?? Math.ceil(max / 4 / (7 * DAY)) * 7 * DAY;
  } else {
    const rough = max / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    step = [1, 2, 5, 10].map((it) => it * power).find((it) => it >= rough);
  }
  const found = [];
  for (let value = 0; value <= max * 1.0001; value += step) found.push(value);
  return found;
}

function valueLabel(name, value) {
  if (name === "lag") return value ? inDuration(value).split(" ").slice(0, 2).join(" ") : "0";
  return compact.format(value);
}
