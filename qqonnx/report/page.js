"use strict";
// The page is complete without this script, which adds themes, tooltips, sorting and filters.

const all = (selector, from = document) => [...from.querySelectorAll(selector)];

// Browsers may deny storage to a file opened from disk.
const storage = (() => { try { return localStorage; } catch { return null; } })();
const theme = document.querySelector(".theme");
theme.hidden = false;
const paint = (value) => {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
};
const before = storage?.getItem("qqonnx-theme") ?? "";
for (const input of all("input", theme)) {
  input.checked = input.value === before;
  input.addEventListener("change", () => { paint(input.value); storage?.setItem("qqonnx-theme", input.value); });
}
paint(before);

const tip = document.querySelector("#tip");
const showTip = (text, x, y) => {
  tip.textContent = text;
  tip.hidden = !text;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y + height + 24 < innerHeight ? y + 18 : y - height - 10}px`;
};
// Browsers show titles with a delay, and only to the mouse.
for (const title of all("svg :is(circle, path) > title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
// All layers are one path, so the layer under the pointer is computed; its row has the text.
const layerAt = (drawing, x) => {
  const rows = document.getElementById(`${drawing.id}-table`).rows;
  const box = drawing.getBoundingClientRect(), left = 46, right = 10, width = 1080;
  const at = ((x - box.left) * width / box.width - left) / (width - left - right);
  const row = rows[Math.floor(at * rows.length)];
  if (!row) return "";
  const [name, shape, , bits, levels, , error] = [...row.cells].map((cell) => cell.textContent.trim());
  return `${name}, ${shape}: ${bits} ${bits === "1" ? "bit" : "bits"}, ${levels} levels, error ${error || "?"} %`;
};
document.addEventListener("pointermove", ({ target, clientX, clientY }) => {
  const drawing = target.closest?.("svg[id^=layers-]");
  showTip(drawing ? layerAt(drawing, clientX) : target.dataset?.tip ?? "", clientX, clientY);
});
document.addEventListener("pointerleave", () => showTip(""));
document.addEventListener("keydown", ({ key }) => { if (key === "Escape") showTip(""); });
document.addEventListener("focusin", ({ target }) => {
  const box = target.getBoundingClientRect();
  showTip(target.closest("svg a")?.getAttribute("aria-label") ?? "", box.right, box.bottom - 8);
});

const open = () => {
  const run = location.hash.startsWith("#run-") && document.getElementById(location.hash.slice(1));
  if (!run) return;
  run.open = true;
  run.scrollIntoView();
  run.querySelector("summary").focus();
};
addEventListener("hashchange", open);
open();

const table = document.querySelector("#table"), body = table.tBodies[0];
const heads = all("th", table.tHead);
const form = document.querySelector(".filters");
const count = document.querySelector("#count");
const first = [...body.rows];
const column = (name) => heads.findIndex((head) => head.dataset.column === name);
let sorted = "";
const updateCount = () => {
  const shown = first.filter((row) => !row.hidden).length;
  count.textContent = `${shown} of ${first.length} runs${sorted}`;
};
// Cells without a number come last in both directions.
const sort = (head, direction) => {
  const at = heads.indexOf(head), sign = direction === "descending" ? -1 : 1;
  const numbers = head.classList.contains("n");
  const keys = new Map(first.map((row) => [row, row.cells[at].textContent.trim()]));
  const compare = (a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (!x || !y) return !x - !y;
    return sign * (numbers ? x - y : x.localeCompare(y, "en", { numeric: true }));
  };
  for (const other of heads) other.setAttribute("aria-sort", other === head ? direction : "none");
  body.append(...first.toSorted(compare));
  sorted = `, sorted by ${head.textContent.trim()}, ${direction}`;
  updateCount();
};
for (const head of heads) {
  head.querySelector("button").addEventListener("click", () => {
    const start = head.dataset.first ?? "ascending";
    const other = start === "ascending" ? "descending" : "ascending";
    sort(head, head.getAttribute("aria-sort") === start ? other : start);
  });
}
const filter = () => {
  const wanted = all("select", form).filter((select) => select.value)
    .map((select) => [column(select.name), select.value]);
  const starred = form.elements.frontier.checked;
  for (const row of first) {
    row.hidden = (starred && !row.classList.contains("star"))
      || wanted.some(([at, value]) => row.cells[at].textContent !== value);
  }
  updateCount();
};
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
// A browser that returns to the page restores the form.
filter();
