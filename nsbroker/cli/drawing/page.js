"use strict";
// All details come from the elements of the drawing.  Names are only ever set as text, never as markup.
const plot = document.getElementById("plot");
const map = document.getElementById("map");
const labels = document.getElementById("labels");
const panel = document.getElementById("panel");
const search = document.getElementById("search");
const found = document.getElementById("found");
const hint = panel.firstElementChild;
const width = Number(plot.dataset.columnWidth);
const columns = [...plot.querySelectorAll(".column")];
const bars = [...plot.querySelectorAll(".bar")];
const things = [...columns, ...bars];
const facts = new Map();
let kept = null;
let place = 0;

for (const thing of things) {
  const title = thing.querySelector("title");
  const lines = title.textContent.split("\n");
  const members = thing.dataset.columns ?? thing.dataset.column;
  facts.set(thing, {
    lines,
    row: Number(thing.dataset.row ?? -1),
    columns: members.split(" ").map(Number),
    find: thing.dataset.find.toLowerCase(),
  });
  // The panel shows the details, so remove the title: the browser would show it as a tooltip.
  title.remove();
  thing.setAttribute("role", "button");
  thing.setAttribute("aria-label", lines.join(", "));
  thing.setAttribute("tabindex", "-1");
}
things[0]?.setAttribute("tabindex", "0");

function related(thing) {
  const own = facts.get(thing);
  const on = new Set([thing]);
  if (own.row >= 0) {
    for (const number of own.columns) on.add(columns[number]);
    return on;
  }
  for (const bar of bars) {
    if (!facts.get(bar).columns.includes(own.columns[0])) continue;
    on.add(bar);
    if (bar.classList.contains("shared")) for (const number of facts.get(bar).columns) on.add(columns[number]);
  }
  return on;
}

function show(thing) {
  const on = thing ? related(thing) : new Set();
  document.body.classList.toggle("lit", thing !== null);
  for (const one of things) one.classList.toggle("on", on.has(one));
  if (!thing) return panel.replaceChildren(hint);
  const [head, ...lines] = facts.get(thing).lines;
  const heading = document.createElement("h2");
  heading.textContent = head;
  const list = document.createElement("dl");
  for (const line of lines) {
    const cut = line.indexOf(": ");
    const [what, how] = [document.createElement("dt"), document.createElement("dd")];
    what.textContent = line.slice(0, cut);
    how.textContent = line.slice(cut + 2);
    list.append(what, how);
  }
  panel.replaceChildren(heading, list);
}

function keep(thing) {
  kept?.classList.remove("kept");
  kept?.removeAttribute("aria-pressed");
  kept = thing === kept ? null : thing;
  kept?.classList.add("kept");
  kept?.setAttribute("aria-pressed", "true");
  show(kept ?? thing);
}

function rest() {
  const focused = things.includes(document.activeElement) ? document.activeElement : null;
  show(kept ?? focused);
}

function reveal(number) {
  const free = map.clientWidth - labels.clientWidth;
  const left = number * width;
  if (left < map.scrollLeft || left + width > map.scrollLeft + free) map.scrollLeft = left - (free - width) / 2;
}

function focus(thing, number) {
  for (const one of things) one.setAttribute("tabindex", one === thing ? "0" : "-1");
  place = number;
  thing.focus({ preventScroll: true });
  reveal(number);
}

const at = (row, number) => things.find((one) => facts.get(one).row === row && facts.get(one).columns.includes(number));

function step(thing, down, right) {
  const rows = Math.max(-1, ...bars.map((bar) => facts.get(bar).row));
  let { row } = facts.get(thing);
  let number = place;
  for (;;) {
    row += down;
    number += right;
    if (row < -1 || row > rows || number < 0 || number >= columns.length) return;
    const next = at(row, number);
    if (next && next !== thing) return focus(next, number);
  }
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Listen on the map and not on the plot: Chromium lets Tab stop at an SVG element that listens to focus events.
map.addEventListener("keydown", (event) => {
  const thing = event.target.closest(".bar, .column");
  if (!thing || event.ctrlKey || event.metaKey || event.altKey) return;
  const { row } = facts.get(thing);
  const across = [...columns.keys()].filter((number) => at(row, number));
  if (event.key in MOVES) step(thing, ...MOVES[event.key]);
  else if (event.key === "Home") focus(at(row, across[0]), across[0]);
  else if (event.key === "End") focus(at(row, across.at(-1)), across.at(-1));
  else if (event.key === "Enter" || event.key === " ") keep(thing);
  else return;
  event.preventDefault();
});

map.addEventListener("focusin", (event) => {
  const thing = event.target.closest(".bar, .column");
  if (!thing) return;
  const own = facts.get(thing).columns;
  if (!own.includes(place)) place = own[0];
  if (!kept) show(thing);
});
map.addEventListener("focusout", () => { if (!kept) show(null); });
map.addEventListener("mouseover", (event) => {
  const thing = event.target.closest(".bar, .column");
  if (thing && !kept) show(thing);
});
map.addEventListener("mouseout", (event) => {
  if (!event.relatedTarget?.closest?.(".bar, .column")) rest();
});
map.addEventListener("click", (event) => {
  const thing = event.target.closest(".bar, .column");
  if (thing) keep(thing);
});

// --- search

let matches = [];
let shown = 0;

function find() {
  const word = search.value.trim().toLowerCase();
  const named = new Set(word ? columns.filter((one) => facts.get(one).find.includes(word)).map((one) => facts.get(one).columns[0]) : []);
  const hit = new Set();
  const inside = new Set(named);
  for (const bar of bars) {
    const own = facts.get(bar);
    const itself = word && own.find.includes(word);
    if (itself || own.columns.some((number) => named.has(number))) hit.add(bar);
    if (itself) for (const number of own.columns) inside.add(number);
  }
  for (const number of inside) hit.add(columns[number]);
  document.body.classList.toggle("searching", word !== "");
  for (const one of things) one.classList.toggle("found", hit.has(one));
  matches = [...inside].sort((left, right) => left - right);
  shown = 0;
  found.textContent = word ? `${matches.length} of ${columns.length} columns` : "";
  if (matches.length) reveal(matches[0]);
}

search.addEventListener("input", find);
search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !matches.length) return;
  shown = (shown + (event.shiftKey ? matches.length - 1 : 1)) % matches.length;
  reveal(matches[shown]);
  found.textContent = `${shown + 1} of ${matches.length} columns found`;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape") {
    if (document.activeElement === search) {
      search.value = "";
      find();
    }
    if (kept) keep(kept);
    rest();
  }
});
