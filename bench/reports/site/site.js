// What a page of the site does besides being read: sort, filter, choose columns, compare, draw charts.
// Without it every table is whole. Text from records enters as text alone, never as markup.
"use strict";

const all = (selector, place = document) => [...place.querySelectorAll(selector)];
const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// ---- sorting: each group of a table by itself, rows without a value last ----

function sortable(table) {
  all("thead th", table).forEach((head, place) => {
    if (!head.textContent) return;
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : head.dataset.higher === "true";
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      all("tbody", table).forEach((body) => sort(body, place, down));
    });
  });
}

function sort(body, place, down) {
  const number = body.closest("table").tHead.rows[0].cells[place].dataset.number;
  const key = (row) => {
    const text = row.cells[place].textContent.trim();
    return number && text ? parseFloat(text.replace("−", "-").replaceAll(",", "")) : text;
  };
  const rows = all("tr", body).filter((row) => !row.querySelector("th.group"));
  const [empty, full] = [rows.filter((row) => key(row) === ""), rows.filter((row) => key(row) !== "")];
  full.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    const order = typeof x === "number" && typeof y === "number" ? x - y
      : String(x).localeCompare(String(y), "en", { numeric: true });
    return down ? -order : order;
  });
  body.append(...full, ...empty);
}

// ---- the leaderboard ----

function leaderboard(table, form) {
  const bodies = all("tbody", table);
  const count = document.getElementById("count");
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const words = (wanted.search || "").toLowerCase();
    let shown = 0;
    for (const body of bodies) {
      const place = ["group", "guided"].every((key) => !wanted[key] || body.dataset[key] === wanted[key]);
      let some = false;
      for (const row of all("tr", body)) {
        if (row.querySelector("th.group")) continue;
        const fits = place && row.textContent.toLowerCase().includes(words)
          && ["family", "tier", "objective"].every((key) => !wanted[key] || row.dataset[key] === wanted[key]);
        row.hidden = !fits;
        some ||= fits;
        shown += fits;
      }
      body.hidden = !some;
    }
    count.textContent = `${shown} rows`;
    emptyColumns();
  };
  // A column in which no row that is shown has a figure takes no room.
  const chosen = all("input[name=column]", form);
  const emptyColumns = () => {
    const rows = bodies.filter((body) => !body.hidden).flatMap((body) => all("tr", body))
      .filter((row) => !row.hidden && !row.querySelector("th.group"));
    for (const box of chosen) {
      const place = Number(box.value);
      const used = rows.some((row) => row.cells[place].textContent);
      table.tHead.rows[0].cells[place].hidden = !box.checked || !used;
      for (const row of rows) row.cells[place].hidden = !box.checked || !used;
    }
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  comparison(table, document.getElementById("comparison"));
  apply();
}

// Two or three rows side by side; which ones stands in the address, so that it can be passed on.
function comparison(table, section) {
  const boxes = all("input.compare", table);
  const show = () => {
    const rows = boxes.filter((box) => box.checked).map((box) => box.closest("tr"));
    for (const box of boxes) box.disabled = rows.length >= 3 && !box.checked;
    const names = rows.map((row) => row.id).join(",");
    history.replaceState(null, "", names ? `#compare=${names}` : location.pathname + location.search);
    section.hidden = rows.length < 2;
    const place = section.querySelector("table");
    place.replaceChildren();
    if (section.hidden) return;
    const heads = [...table.tHead.rows[0].cells];
    place.append(element("thead", {}, element("tr", {}, element("th"),
      ...rows.map((row) => element("th", { scope: "col" }, row.cells[1].textContent)))));
    const body = element("tbody");
    body.append(line("Scores", rows.map((row) => [row.closest("tbody").querySelector("th.group").textContent])));
    heads.forEach((head, i) => {
      if (i < 2 || !rows.some((row) => row.cells[i].textContent)) return;
      body.append(line(head.textContent, rows.map((row) => [...row.cells[i].childNodes].map((n) => n.cloneNode(true)))));
    });
    if (rows.some((row) => row.dataset.samples)) {
      body.append(line("Samples", rows.map((row) => row.dataset.samples
        ? [element("img", { className: "samples", src: row.dataset.samples, alt: "samples" })] : [])));
    }
    place.append(body);
  };
  const line = (title, cells) => element("tr", {}, element("th", { scope: "row" }, title),
    ...cells.map((nodes) => element("td", {}, ...nodes)));
  boxes.forEach((box) => box.addEventListener("change", show));
  const named = (location.hash.match(/^#compare=(.*)$/) || [, ""])[1].split(",").slice(0, 3);
  boxes.forEach((box) => { box.checked = named.includes(box.closest("tr").id); });
  if (named[0]) show();
}

// ---- charts: a Vega-Lite specification whose "{{name}}" are replaced by what is chosen, but in its numbers ----

function filled(value, chosen) {
  if (typeof value === "string") return value.replace(/\{\{(\w+)\}\}/g, (_, name) => chosen[name]);
  if (Array.isArray(value)) return value.map((each) => filled(each, chosen));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) =>
      [key, key === "values" ? each : filled(each, chosen)]));
  }
  return value;
}

const LEGEND_COLUMN = 250; // pixels: the longest label, its symbol and a gap

const CONFIG = {
  background: null,
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: { labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor",
    tickColor: "currentColor", gridColor: "currentColor", gridOpacity: 0.12, labelFontSize: 12, titleFontSize: 12,
    titleFontWeight: "normal", labelLimit: 240, labelOverlap: "greedy", labelSeparation: 8 },
  legend: { labelColor: "currentColor", titleColor: "currentColor", orient: "bottom", labelLimit: 220,
    labelFontSize: 12, titleFontSize: 12, symbolSize: 90 },
  text: { fill: "currentColor" },
};

function chart(figure) {
  const { spec, choices, colours } = JSON.parse(figure.querySelector("script").textContent);
  const view = figure.querySelector(".view");
  const controls = figure.querySelector(".controls");
  const selects = choices.map(({ label, options }) => {
    const select = element("select");
    let group = null;
    options.forEach((option, i) => {
      if (option.group && group?.label !== option.group) {
        group = element("optgroup", { label: option.group });
        select.append(group);
      }
      (option.group ? group : select).append(element("option", { value: i }, option.text));
    });
    controls.append(element("label", {}, label, select));
    select.addEventListener("change", () => draw());
    return select;
  });
  const draw = () => {
    const chosen = Object.assign({}, ...selects.map((select, i) => choices[i].options[select.value].values));
    const whole = filled(spec, chosen);
    const narrow = view.clientWidth < 480;
    const legend = { ...CONFIG.legend, columns: Math.max(1, Math.floor(view.clientWidth / LEGEND_COLUMN)) };
    const range = { category: colours };
    const config = { ...CONFIG, legend, range, ...(narrow && { axis: { ...CONFIG.axis, labelLimit: 130 } }) };
    return vegaEmbed(view, { width: "container", height: 340, autosize: { type: "fit-x", contains: "padding" },
      ...whole, config }, { actions: false, renderer: "svg", ast: true }) // the page's policy allows no eval
      .then(() => { figure.dataset.drawn = "true"; })
      .catch((error) => { view.textContent = `This chart could not be drawn: ${error.message}`; });
  };
  draw();
}

// A chart is drawn when it comes into sight; all are, before a page is printed.
function charts() {
  const waiting = new Set(all("figure.chart"));
  if (!waiting.size) return;
  const begin = (figure) => { if (waiting.delete(figure)) chart(figure); };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) begin(entry.target);
  }, { rootMargin: "400px" });
  waiting.forEach((figure) => watcher.observe(figure));
  addEventListener("beforeprint", () => waiting.forEach(begin));
}

addEventListener("beforeprint", () => all("details").forEach((each) => { each.open = true; }));

all("table.sortable").forEach(sortable);
const form = document.getElementById("filters");
if (form) leaderboard(document.getElementById("leaderboard"), form);
charts();
