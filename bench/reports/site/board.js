// The front page: a table of every row that filters leave, rows side by side, and the scatter of what is shown.
// The address holds all that is chosen. Text from records enters as text alone, never as markup.
"use strict";

const { rows, heads, families, noise } = JSON.parse(document.getElementById("rows").textContent);
const form = document.getElementById("filters");
const FILTERS = ["group", "family", "budget", "objective", "guidance", "kind"];
const byName = Object.fromEntries(heads.map((head) => [head.name, head]));
const numbers = new Set(heads.map(({ name }) => name).filter((name) =>
  name !== "source" && rows.some((row) => typeof row[name] === "number"))); // a source's number is its name
const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}\s]+/gu, "");

for (const row of rows) {
  row.colour = families.includes(row.family) ? row.family : families.at(-1);
  row.searched = plain(row.row).replace(/\s+/g, "");
}

// ---- the table ----

const text = (row, name) => row.texts?.[name] ?? (row[name] === undefined ? "" : shown(row[name], name));
const DIGITS = { gflops: 2, params: 1, speed: 1, precision: 2, recall: 2 }; // at least; others as printed
const shown = (value, name) => {
  const [printed, fixed] = [String(value), name in DIGITS ? value.toFixed(DIGITS[name]) : ""];
  return ["precision", "recall"].includes(name) ? (printed.length > fixed.length ? printed : fixed) : fixed || printed;
};

function cell(row, name) {
  if (name === "source") {
    return row.source ? element("a", { href: row.url, title: row.from }, `[${row.source}]`)
      : element("a", { href: row.url, title: row.from }, "record");
  }
  const content = text(row, name);
  if (content === "") return "";
  if (name === "row" && row.page) return element("a", { href: row.page, title: content }, content);
  if (name === "row") return element("span", { title: content }, content);
  if (name === "speed") return element("a", { href: row.speed_page }, content);
  if (row.texts?.[name]) return element("a", { href: row.page }, content);
  return element("span", { title: content }, content);
}

// Groups keep their order, and what is not known stands last, whichever way a column is sorted.
const sorter = (name) => (a, b, rowA, rowB, column, way) => {
  const [x, y] = [rowA.getData(), rowB.getData()];
  const turn = way === "asc" ? 1 : -1;
  if (x.order !== y.order) return turn * (x.order - y.order);
  if (x[name] === undefined || y[name] === undefined) {
    return turn * ((x[name] === undefined) - (y[name] === undefined));
  }
  return numbers.has(name) ? x[name] - y[name]
    : String(x[name]).localeCompare(String(y[name]), "en", { numeric: true });
};

const hint = document.getElementById("hint");
function heading(head) {
  const button = element("button", { type: "button", className: "head" }, head.title);
  button.setAttribute("aria-description", head.hint);
  const show = () => {
    hint.textContent = head.hint;
    hint.hidden = false;
    const place = button.getBoundingClientRect();
    hint.style.left = `${Math.max(8, Math.min(place.left, innerWidth - hint.offsetWidth - 8))}px`;
    hint.style.top = `${place.bottom + 10}px`;
  };
  for (const name of ["mouseenter", "focus"]) button.addEventListener(name, show);
  for (const name of ["mouseleave", "blur"]) button.addEventListener(name, () => { hint.hidden = true; });
  return button;
}

const WIDTHS = { row: 210, rank: 66, fid: 68, source: 70, gflops: 84, printed_gflops: 92, params: 106,
  printed_params: 92, family: 84, kind: 100, sfid: 62, inception_score: 70, precision: 66, recall: 62, held_out: 124,
  remarks: 240, other: 220, sampler: 180 };
const title = (group, count) => element("span", {}, `${group} · ${count} row${count === 1 ? "" : "s"}`);
const narrow = matchMedia("(max-width: 44rem)").matches;

const table = new Tabulator("#board", {
  data: rows,
  index: "id",
  height: narrow ? "75vh" : "min(78vh, 56rem)",
  layout: "fitDataFill",
  placeholder: "Nothing found: try fewer words or another filter.",
  groupBy: "group",
  groupHeader: title,
  groupHeaderPrint: (value, count) => title(value, count).innerHTML, // of which Tabulator makes markup
  headerSortElement: "<span></span>",
  printAsHtml: true, // all rows that filters leave, in the page's own style
  printStyled: false,
  printRowRange: "active",
  initialSort: [{ column: "fid", dir: "asc" }],
  columns: [
    { title: "", field: "compare", headerSort: false, width: 34, frozen: !narrow, download: false, print: false,
      titleFormatter: () => element("span", { title: "Compare two or three rows" }, "⇄"),
      formatter: (place) => {
        const { id, row } = place.getData();
        const box = element("input", { type: "checkbox", className: "compare", checked: compared.includes(id) });
        box.setAttribute("aria-label", `Compare ${row}`);
        box.addEventListener("change", () => {
          compared = box.checked ? [...compared, id].slice(-3) : compared.filter((each) => each !== id);
          changed();
        });
        return box;
      } },
    ...heads.map((head) => ({
      title: head.title, field: head.name, visible: head.shown,
      hozAlign: numbers.has(head.name) || head.name === "printed_params" ? "right" : "left",
      frozen: head.name === "row", sorter: sorter(head.name), headerSortStartingDir: head.higher ? "desc" : "asc",
      titleFormatter: () => heading(head), titlePrint: head.title, formatter: (place) => cell(place.getData(), head.name),
      accessorDownload: (_, row) => (head.name === "source" ? row.from : row.texts?.[head.name] ?? row[head.name]),
      width: head.name === "row" && narrow ? 150 : WIDTHS[head.name], resizable: "header",
    })),
  ],
});

// ---- filters ----

const field = (name) => form.elements[name];

function fits(row) {
  if (!FILTERS.every((name) => !field(name).value || row[name] === field(name).value)) return false;
  const extra = field("extra").value;
  if (extra !== "all" && row.extra !== (extra || "none")) return false;
  return plain(field("search").value).split(/\s+/).every((word) => row.searched.includes(word));
}

let visible = rows;
function filter() {
  visible = rows.filter(fits);
  const ids = new Set(visible.map((row) => row.id));
  table.setFilter((row) => ids.has(row.id));
  columns();
  document.getElementById("count").textContent = `${visible.length} row${visible.length === 1 ? "" : "s"}`;
}

// ---- columns: those chosen that have a value in some row that is shown ----

const chooser = form.querySelector("fieldset");
for (const head of heads.slice(1)) {
  const box = element("input", { type: "checkbox", name: "column", value: head.name, checked: head.shown });
  chooser.append(element("label", { title: head.hint }, box, ` ${head.title}`));
}
const boxes = all("input", chooser);
function columns() {
  table.blockRedraw();
  for (const box of boxes) {
    const column = table.getColumn(box.value);
    const wanted = box.checked && (!visible.length || visible.some((row) => row[box.value] !== undefined));
    if (column.isVisible() !== wanted) column.toggle();
  }
  table.restoreRedraw();
}

// ---- rows side by side ----

let compared = [];
const bar = document.getElementById("bar");
const section = document.getElementById("comparison");
function compare() {
  const chosen = compared.map((id) => rows.find((row) => row.id === id)).filter(Boolean);
  all("input.compare").forEach((box) => {
    const row = table.getRow(box.closest(".tabulator-row"));
    if (row) box.checked = compared.includes(row.getData().id);
  });
  bar.hidden = !chosen.length;
  bar.querySelector("span").textContent = `Compare: ${chosen.map((row) => row.row).join(", ")}`
    + (chosen.length < 2 ? ", and another row" : "");
  bar.querySelector("[name=show]").disabled = chosen.length < 2;
  section.hidden = chosen.length < 2;
  const place = section.querySelector("table");
  const line = (title, cells) => element("tr", {}, element("th", { scope: "row" }, title),
    ...cells.map((node) => element("td", {}, node)));
  place.replaceChildren();
  if (section.hidden) return;
  place.append(element("thead", {}, element("tr", {}, element("th"),
    ...chosen.map((row) => element("th", { scope: "col" }, row.row)))));
  const body = element("tbody", {}, line("Conditions", chosen.map((row) => row.group)));
  for (const head of heads.slice(1)) {
    if (chosen.some((row) => text(row, head.name))) body.append(line(head.title, chosen.map((row) => cell(row, head.name))));
  }
  if (chosen.some((row) => row.samples)) {
    body.append(line("Samples", chosen.map((row) => (row.samples
      ? element("img", { className: "samples", src: row.samples, alt: "Samples" }) : ""))));
  }
  place.append(body);
}
bar.querySelector("[name=show]").addEventListener("click", () => section.scrollIntoView());
bar.querySelector("[name=clear]").addEventListener("click", () => { compared = []; changed(); });

// ---- the scatter ----

// The group of the filter, or else the one with the most rows that have both values.
function plotted({ x, y }) {
  const known = visible.filter((row) => row[x] > 0 && row[y] > 0);
  const sizes = new Map();
  known.forEach((row) => sizes.set(row.group, (sizes.get(row.group) ?? 0) + 1));
  const group = [...sizes].sort((a, b) => b[1] - a[1])[0]?.[0];
  const points = known.filter((row) => row.group === group).map((row) => {
    const share = y === "fid" && row.source ? Math.exp(noise) : 1;
    const apart = row.deviations?.[y] ?? 0;
    const bars = share > 1 ? { low: row.fid / share, high: row.fid * share }
      : { low: row[y] > apart ? row[y] - apart : row[y], high: row[y] + apart };
    return { ...row, page: row.page ?? row.url, ...bars };
  });
  document.getElementById("shown").textContent = group
    ? `Shown: ${group}; ${points.length} of ${visible.length} rows.`
    : "No row that the table shows has both values.";
  return points;
}

let points = [];
const scatter = chart(document.getElementById("scatter"), (whole, chosen) => {
  points = plotted(chosen);
  whole.data = { name: "board", values: points.map((row) => ({ ...row })) }; // Vega marks what it is given
});

// ---- the address ----

const axes = () => scatter.selects.map((select) => select.value).join(",");
const first = { columns: boxes.filter((box) => box.checked).map((box) => box.value).join(","), axes: axes() };

function state() {
  const kept = new URLSearchParams();
  for (const name of ["search", ...FILTERS, "extra"]) if (field(name).value) kept.set(name, field(name).value);
  const [sorted] = table.getSorters();
  if (sorted && (sorted.field !== "fid" || sorted.dir !== "asc")) kept.set("sort", `${sorted.field} ${sorted.dir}`);
  const chosen = boxes.filter((box) => box.checked).map((box) => box.value).join(",");
  if (chosen !== first.columns) kept.set("columns", chosen);
  if (axes() !== first.axes) kept.set("axes", axes());
  if (compared.length) kept.set("compare", compared.join(","));
  return kept.toString();
}

let restoring = false;
function changed(typed = false) {
  if (restoring) return;
  const address = state() ? `#${state()}` : location.pathname + location.search;
  if (state() !== location.hash.slice(1)) history[typed ? "replaceState" : "pushState"](null, "", address);
  compare();
}

function restore() {
  restoring = true;
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of ["search", ...FILTERS, "extra"]) field(name).value = kept.get(name) ?? "";
  const chosen = (kept.get("columns") ?? first.columns).split(",");
  boxes.forEach((box) => { box.checked = chosen.includes(box.value); });
  const wanted = (kept.get("axes") ?? first.axes).split(",");
  scatter.selects.forEach((select, i) => {
    select.value = wanted[i];
    if (select.selectedIndex < 0) select.selectedIndex = 0; // an address may name an axis that is not there
  });
  compared = (kept.get("compare") ?? "").split(",").filter((id) => rows.some((row) => row.id === id)).slice(0, 3);
  const [name, way] = (kept.get("sort") ?? "fid asc").split(" ");
  if (byName[name]) table.setSort(name, way === "desc" ? "desc" : "asc");
  filter();
  compare();
  scatter.draw();
  restoring = false;
}

table.on("tableBuilt", () => {
  form.hidden = false;
  restore();
  form.addEventListener("input", (event) => {
    if (event.target.name === "column") columns();
    else { filter(); scatter.draw(); }
    changed(event.target.name === "search");
  });
  form.addEventListener("reset", () => setTimeout(() => { history.pushState(null, "", location.pathname); restore(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  scatter.selects.forEach((select) => select.addEventListener("change", () => changed()));
  table.on("dataSorted", () => changed());
  addEventListener("popstate", restore);
  document.getElementById("csv").addEventListener("click", () => table.download("csv", "backbones.csv"));
  document.getElementById("board").dataset.ready = "true";
});
