// What a page of the site does besides being read: sort tables, open menus, draw charts.
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
  const heads = all("thead tr:last-child th", table);
  heads.forEach((head, place) => {
    if (!head.textContent) return;
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : head.dataset.higher === "true";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      all("tbody", table).forEach((body) => sort(body, place, down));
    });
  });
}

function sort(body, place, down) {
  const number = all("thead tr:last-child th", body.closest("table"))[place].dataset.number;
  const key = (row) => {
    const text = row.cells[place].textContent.trim();
    return number && text ? parseFloat(text.replace("−", "-").replaceAll(",", "")) : text;
  };
  const rows = all("tr", body);
  const [empty, full] = [rows.filter((row) => key(row) === ""), rows.filter((row) => key(row) !== "")];
  full.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    const order = typeof x === "number" && typeof y === "number" ? x - y
      : String(x).localeCompare(String(y), "en", { numeric: true });
    return down ? -order : order;
  });
  body.append(...full, ...empty);
}

// ---- menus: one open at a time, closed by Escape and by a click elsewhere ----

const menus = all("details.menu");
menus.forEach((menu) => menu.addEventListener("toggle", () => {
  if (menu.open) menus.forEach((other) => { if (other !== menu) other.open = false; });
}));
addEventListener("click", (event) => menus.forEach((menu) => {
  if (!menu.contains(event.target)) menu.open = false;
}));
addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && menus.find((menu) => menu.open);
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
});

// ---- tabs: one section at a time, which the address names ----

function tabs(place) {
  const sections = all(":scope > section", place);
  if (sections.length < 2) return;
  const list = element("div", { className: "tablist" });
  list.setAttribute("role", "tablist");
  const buttons = sections.map((section, i) => {
    const button = element("button", { type: "button" }, section.dataset.title);
    button.setAttribute("role", "tab");
    section.setAttribute("role", "tabpanel");
    section.setAttribute("aria-label", section.dataset.title);
    section.querySelector("h3").hidden = true;
    button.addEventListener("click", () => { location.hash = encodeURIComponent(section.dataset.title); });
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = buttons[(i + step + buttons.length) % buttons.length];
      next.focus();
      next.click();
    });
    return button;
  });
  list.append(...buttons);
  place.prepend(list);
  const show = () => {
    const named = sections.findIndex((each) => encodeURIComponent(each.dataset.title) === location.hash.slice(1));
    sections.forEach((section, i) => {
      section.hidden = i !== Math.max(named, 0);
      buttons[i].setAttribute("aria-selected", String(!section.hidden));
      buttons[i].tabIndex = section.hidden ? -1 : 0;
    });
  };
  addEventListener("hashchange", show);
  addEventListener("beforeprint", () => sections.forEach((section) => {
    section.hidden = false;
    section.querySelector("h3").hidden = false;
  }));
  show();
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
    titleFontWeight: "normal", labelLimit: 240, labelOverlap: "greedy", labelSeparation: 4,
    labelFlush: false },
  legend: { labelColor: "currentColor", titleColor: "currentColor", orient: "bottom", labelLimit: 220,
    labelFontSize: 12, titleFontSize: 12, symbolSize: 90 },
  text: { fill: "currentColor" },
};

// Names beside marks, as the specification has them; see `_with_names` in bench/reports/charts.py.
function named(vega) {
  const { usermeta: names } = vega;
  if (!names?.mark) return vega;
  const { from } = vega.marks.find(({ name }) => name === "networks_marks");
  return { ...vega, data: [...vega.data, { ...names.data, source: from.data }], marks: [...vega.marks, names.mark] };
}

// A chart that another script looks after gets its numbers from `before`.
function chart(figure, before = () => {}) {
  const { spec, choices, colours } = JSON.parse(figure.querySelector("script").textContent);
  const view = figure.querySelector(".view");
  const controls = figure.querySelector(".controls");
  const selects = choices.map(({ label, options }) => {
    const select = element("select");
    select.append(...options.map((option, i) => element("option", { value: i }, option.text)));
    controls.append(element("label", {}, label, select));
    select.addEventListener("change", () => draw());
    return select;
  });
  const draw = () => {
    const chosen = Object.assign({}, ...selects.map((select, i) => choices[i].options[select.value].values));
    const whole = filled(spec, chosen);
    before(whole, chosen);
    const narrow = view.clientWidth < 480;
    const legend = { ...CONFIG.legend, columns: Math.max(1, Math.floor(view.clientWidth / LEGEND_COLUMN)) };
    const range = { category: colours };
    const config = { ...CONFIG, legend, range, ...(narrow && { axis: { ...CONFIG.axis, labelLimit: 130 } }) };
    return vegaEmbed(view, { width: "container", height: 340, autosize: { type: "fit-x", contains: "padding" },
      ...whole, config }, { actions: false, renderer: "svg", ast: true, patch: named }) // no eval: the page's policy
      .then(() => { figure.dataset.drawn = "true"; })
      .catch((error) => { view.textContent = `This chart could not be drawn: ${error.message}`; });
  };
  draw();
  return { draw, selects, choices };
}

// A chart is drawn when it comes into sight; all are, before a page is printed.
function charts() {
  const waiting = new Set(all("figure.chart:not(#scatter)"));
  if (!waiting.size) return;
  const begin = (figure) => { if (waiting.delete(figure)) chart(figure); };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) begin(entry.target);
  }, { rootMargin: "400px" });
  waiting.forEach((figure) => watcher.observe(figure));
  addEventListener("beforeprint", () => waiting.forEach(begin));
}

addEventListener("beforeprint", () => all("main details:not(.menu)").forEach((each) => { each.open = true; }));

all(".zoom").forEach((button) => button.addEventListener("click", () =>
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"))));
all("table.sortable").forEach(sortable);
all(".tabs").forEach(tabs);
charts();
