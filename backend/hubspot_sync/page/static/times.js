// Instants in the viewer's zone; UTC is under the pointer, and without this script in the text.
"use strict";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function two(number) {
  return String(number).padStart(2, "0");
}

function dayOf(at) {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

function timeOf(at) {
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

// What the clocks there are called at that instant: summer time has another name.
function zoneAt(at) {
  const parts = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(at);
  return parts.find((part) => part.type === "timeZoneName").value;
}

function lasting(seconds) {
  const words = [];
  for (const [unit, length] of UNITS) {
    const whole = Math.floor(seconds / length);
    seconds -= whole * length;
    if (whole) words.push(`${whole} ${unit}`);
    else if (words.length) break;
  }
  return words.slice(0, 2).join(" ") || "0 s";
}

function relative(at, canBeAhead) {
  const seconds = (Date.now() - at) / 1000;
  return seconds < 0 && canBeAhead ? `in ${lasting(-seconds)}` : `${lasting(Math.max(0, seconds))} ago`;
}

function brief(at) {
  const day = dayOf(at);
  return day === dayOf(new Date()) ? timeOf(at) : `${day} ${timeOf(at).slice(0, 5)}`;
}

const FORMS = {
  moment: (at) => `${brief(at)} · ${relative(at)}`,
  due: (at) => relative(at, true),
  clock: (at) => `${brief(at)} ${zoneAt(at)}`,
  exact: (at) => `${dayOf(at)} ${timeOf(at)} ${zoneAt(at)}`,
  precise: (at) => `${dayOf(at)} ${timeOf(at)}.${String(at.getMilliseconds()).padStart(3, "0")} ${zoneAt(at)}`,
};

function tell() {
  for (const place of document.querySelectorAll("time[data-as]")) {
    const words = FORMS[place.dataset.as](new Date(place.dateTime));
    if (place.textContent !== words) place.textContent = words;
  }
}

// The field shows the viewer's time; what is sent, and stands in the address, is UTC.
function ownZone(field) {
  const sent = document.createElement("input");
  sent.type = "hidden";
  sent.name = field.name;
  field.removeAttribute("name");
  field.parentElement.querySelector("small")?.remove();
  if (field.value) {
    const at = new Date(`${field.value}Z`);
    sent.value = at.toISOString();
    field.value = `${dayOf(at)}T${timeOf(at)}`;
  }
  field.addEventListener("change", () => (sent.value = field.value ? new Date(field.value).toISOString() : ""));
  field.after(sent);
}

for (const field of document.querySelectorAll("input[data-instant]")) ownZone(field);
if (zone !== "UTC") {
  const place = zone.replaceAll("_", " ");
  document.getElementById("zone").textContent = `Times are those of ${place}; UTC is under the pointer. Charts are in UTC.`;
}
tell();
document.addEventListener("htmx:afterSwap", tell);
setInterval(tell, 10_000);
