"use strict";
// Everything that a run, a log or a file says goes into the page as text; pictures alone come as HTML, escaped by the server.
const MAX_PICKED = 12, SERIES = 6, DASHES = ["", "6 3", "2 2"], COLUMNS = 6;
const FIRST_FIELDS = ["loss", "online_top1", "knn_top1", "learning_rate"];
const USUAL = { online_top1: "online head", knn_top1: "online k-NN" };
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let data = { runs: {}, settings: {}, folder: "", trouble: "" };
let picked = null, fields = [...FIRST_FIELDS], known = [], opened = "", sort = { by: "started", down: true };
let order = [];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}
async function ask(what, parameters = []) {
  const answer = await fetch(`${what}?${new URLSearchParams(parameters)}`);
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}
function clock(seconds) {
  const s = Math.round(seconds), two = n => String(n).padStart(2, "0");
  const days = Math.floor(s / 86400);
  return (days ? `${days} d ` : "") + `${Math.floor(s / 3600) % 24}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}
const short = value => value === 0 ? "0" : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(4));
const title = name => name.split(".").pop().replaceAll("_", "-");
function settingTitle(name) {
  const same = Object.keys(data.settings).filter(other => title(other) === title(name));
  return same.length > 1 ? name.replaceAll("_", "-") : title(name);
}
function kind(state) {
  if (state === "finished") return "finished";
  if (state === "RUNNING") return "busy";
  return state === state.toUpperCase() || state === "stopped" || state === "not started" ? "wait" : "bad";
}
const setting = (id, name) => (data.settings[name] || {})[id] ?? "";
function fill(select, options, keep) {
  const before = keep ?? select.value;
  const wanted = options.map(([value]) => value).join("\n");
  if (select.dataset.filled !== wanted) {
    select.dataset.filled = wanted;
    select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
  }
  if (options.some(([value]) => value === before)) select.value = before;
}
const sayState = state => state.toLowerCase().replaceAll("_", " ");
const sayMeasure = name => USUAL[name] || name;

function columns() {
  const measure = $("measure").value;
  const number = (value, digits = 1) => value == null ? "" : value.toFixed(digits);
  return [
    { key: "name", title: "run", value: (id, run) => run.name },
    { key: "state", title: "state", value: (id, run) => run.state },
    { key: "progress", title: "progress", value: (id, run) => run.total ? run.done / run.total : -1 },
    { key: "eta", title: "left", number: true, value: (id, run) => run.eta_s || Infinity, text: (id, run) => run.eta_s ? clock(run.eta_s) : "" },
    { key: "measure", title: measure ? `${sayMeasure(measure)}, %` : "measure", number: true,
      value: (id, run) => run.measured[measure] ?? -Infinity,
      text: (id, run) => run.measured[measure] == null ? (run.is_read ? "" : "…") : number(run.measured[measure]) },
    { key: "loss", title: "loss", number: true, value: (id, run) => run.loss ?? Infinity, text: (id, run) => run.loss == null ? "" : short(run.loss) },
    ...Object.keys(data.settings).slice(0, COLUMNS).map(name => ({
      key: name, title: settingTitle(name), setting: true, value: id => setting(id, name), text: id => setting(id, name) })),
  ];
}
function compare(a, b) {
  const x = Number(a), y = Number(b);
  if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x === y ? 0 : x < y ? -1 : 1;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}
function matches(id, run, words) {
  const text = [run.name, run.state, run.job, ...Object.keys(data.settings).map(name => `${name}=${setting(id, name)}`)].join(" ").toLowerCase();
  return words.every(word => text.includes(word));
}
function swatch(id) {
  const place = picked.indexOf(id), svg = draw("svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" });
  if (place >= 0) {
    const line = draw("line", { x1: 0, x2: 26, y1: 5, y2: 5, "stroke-dasharray": DASHES[Math.floor(place / SERIES) % DASHES.length] });
    line.style.stroke = `var(--s${place % SERIES})`;
    svg.append(line);
  }
  return svg;
}
function row(id, run, shown) {
  const tick = make("input", { type: "checkbox", checked: picked.includes(id), ariaLabel: `draw ${run.name}` });
  tick.disabled = !tick.checked && picked.length >= MAX_PICKED;
  tick.onchange = () => { picked = tick.checked ? [...picked, id] : picked.filter(other => other !== id); table(); curves(); };
  const open = make("button", { className: "plain", type: "button", textContent: run.name });
  open.onclick = () => show(id, true);
  const cells = [make("td", { className: "name" }, make("span", { className: "pick" }, tick, open, swatch(id)))];
  const state = make("td", { className: "state" }, make("span", { className: kind(run.state), textContent: run.job ? `${sayState(run.state)}, ${run.job}` : sayState(run.state) }));
  const note = run.silent_s ? `silent for ${clock(run.silent_s)}` : kind(run.state) === "busy" ? "" : run.note;
  if (note) state.append(make("span", { className: "note", textContent: note }));
  cells.push(state);
  const progress = make("td", { className: "progress" });
  if (run.total) {
    progress.append(make("progress", { max: run.total, value: run.done, ariaLabel: `progress of ${run.name}` }), " ",
      run.epochs ? `${kind(run.state) === "busy" ? run.epoch : Math.floor(run.epochs * run.done / run.total)}/${run.epochs}` : `${Math.floor(100 * run.done / run.total)} %`);
  }
  cells.push(progress);
  for (const column of shown.slice(3)) {
    const cell = make("td", { className: column.number ? "number" : "setting", textContent: column.text(id, run) });
    if (cell.textContent) cell.dataset.title = column.title;
    cells.push(cell);
  }
  return make("tr", {}, ...cells);
}
function table() {
  const shown = columns(), by = shown.find(column => column.key === sort.by);
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const value = by ? by.value : (id, run) => run[sort.by];
  order = Object.entries(data.runs).filter(([id, run]) => matches(id, run, words));
  order.sort(([a, x], [b, y]) => (sort.down ? -1 : 1) * compare(value(a, x), value(b, y)) || compare(x.name, y.name));
  const head = make("tr");
  for (const column of shown) {
    const arrow = column.key === sort.by ? (sort.down ? " ↓" : " ↑") : "";
    const button = make("button", { className: "head", type: "button", textContent: column.title + arrow });
    button.onclick = () => { sort = { by: column.key, down: column.key === sort.by ? !sort.down : Boolean(column.number) && column.key === "measure" }; table(); };
    head.append(make("th", { scope: "col", className: column.number ? "number" : "", ariaSort: !arrow ? "none" : sort.down ? "descending" : "ascending" }, button));
  }
  const group = $("group").value, rows = [];
  const groups = new Map();
  for (const [id, run] of order) {
    const name = !group ? "" : group === "state" ? run.state : group === "folder" ? run.name.split("/").slice(0, -1).join("/") : setting(id, group);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push([id, run]);
  }
  for (const name of [...groups.keys()].sort(compare)) {
    const members = groups.get(name);
    if (group) {
      const measure = $("measure").value, values = members.map(([, run]) => run.measured[measure]).filter(found => found != null);
      const mean = values.reduce((sum, found) => sum + found, 0) / values.length;
      const spread = values.length > 1 ? ` ± ${Math.sqrt(values.reduce((sum, found) => sum + (found - mean) ** 2, 0) / (values.length - 1)).toFixed(1)}` : "";
      const said = values.length ? `, ${sayMeasure(measure)} ${mean.toFixed(1)}${spread} %` : "";
      const what = group === "state" ? sayState(name) : group === "folder" ? name || "." : `${settingTitle(group)} ${name}`;
      rows.push(make("tr", { className: "group" }, make("th", { scope: "rowgroup", colSpan: shown.length, textContent: `${what}: ${members.length} ${members.length === 1 ? "run" : "runs"}${said}` })));
    }
    rows.push(...members.map(([id, run]) => row(id, run, shown)));
  }
  const focused = document.activeElement?.closest?.("#runs") ? document.activeElement.ariaLabel || document.activeElement.textContent : "";
  document.querySelector("#runs thead").replaceChildren(head);
  document.querySelector("#runs tbody").replaceChildren(...rows);
  if (focused) [...document.querySelectorAll("#runs button, #runs input")].find(e => (e.ariaLabel || e.textContent) === focused)?.focus();
  $("empty").hidden = order.length > 0;
  $("empty").textContent = Object.keys(data.runs).length ? "No run has all these words." : "There are no runs here yet; this page finds them when they begin.";
  differences();
  for (const box of document.querySelectorAll(".scroll")) box.classList.toggle("cut", box.scrollWidth > box.clientWidth + 1);
}
function differences() {
  const names = Object.keys(data.settings).filter(name => new Set(picked.map(id => setting(id, name))).size > 1);
  const head = make("tr", {}, make("th", { scope: "col", textContent: "setting" }), ...picked.map(id => make("th", { scope: "col" }, data.runs[id].name, " ", swatch(id))));
  const rows = names.map(name => make("tr", {}, make("th", { scope: "row", textContent: name }), ...picked.map(id => make("td", { textContent: setting(id, name) || "–" }))));
  if (!rows.length) rows.push(make("tr", {}, make("td", { className: "quiet", colSpan: picked.length + 1, textContent: picked.length > 1 ? "Their settings are the same." : "Tick two runs or more." })));
  document.querySelector("#differences thead").replaceChildren(...(names.length ? [head] : []));
  document.querySelector("#differences tbody").replaceChildren(...rows);
  $("legend").replaceChildren(...picked.map(id => make("li", {}, swatch(id), data.runs[id].name)));
}

let drawn = null;
async function curves() {
  if (!picked.length) { $("charts").replaceChildren(make("p", { className: "quiet", textContent: "Tick runs in the table to draw them." })); return; }
  const found = await ask("curves", [...picked.map(id => ["id", id]), ...fields.map(name => ["field", name])]);
  known = found.fields;
  fill($("add"), [["", "a curve …"], ...known.filter(name => !fields.includes(name)).map(name => [name, name])], "");
  drawn = found.runs;
  charts();
}
function charts() {
  if (!drawn) return;
  if ($("charts").matches(":hover") && $("charts").querySelector(".cursor")) return;  // somebody reads
  const has = name => Object.values(drawn).some(run => run.fields[name]?.length);
  const shown = fields.filter(has);
  $("charts").replaceChildren(...shown.map(chart), ...(shown.length ? [] : [make("p", { className: "quiet", textContent: "Nothing is logged yet." })]));
}
function along(run, point) {
  const axis = $("axis").value;
  if (axis === "hours") return point[1];
  return axis === "epochs" ? point[0] / run.steps_per_epoch : point[0];
}
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) found.push(+tick.toPrecision(10));
  return found;
}
function chart(name) {
  const W = 400, H = 220, L = 52, R = 12, T = 8, B = 24;
  const lines = picked.map((id, place) => ({ id, place, points: (drawn[id]?.fields[name] || []).map(point => [along(drawn[id], point), point[2]]) })).filter(line => line.points.length);
  const xs = lines.flatMap(line => line.points.map(point => point[0])), ys = lines.flatMap(line => line.points.map(point => point[1]));
  const span = values => { const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b)); return low === high ? [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2] : [low, high]; };
  const [x0, x1] = span(xs), sorted = [...ys].sort((a, b) => a - b);
  const decades = sorted[0] > 0 && sorted[sorted.length - 1] > 30 * sorted[Math.floor(sorted.length / 2)];
  const scale = decades ? Math.log10 : value => value;
  const [y0, y1] = span(ys.map(scale));
  const X = x => L + (W - L - R) * (x - x0) / (x1 - x0), Y = y => H - B - (H - T - B) * (scale(y) - y0) / (y1 - y0);
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${name} over ${$("axis").value}: ${lines.map(line => `${data.runs[line.id].name} ends at ${short(line.points.at(-1)[1])}`).join("; ")}` });
  const marks = decades ? ticks(y0, y1, 4).filter(Number.isInteger).map(power => 10 ** power) : ticks(y0, y1, 4);
  for (const tick of marks) svg.append(draw("line", { class: "rule", x1: L, x2: W - R, y1: Y(tick), y2: Y(tick) }), draw("text", { x: L - 6, y: Y(tick) + 4, "text-anchor": "end" }, short(tick)));
  for (const tick of ticks(x0, x1, 5)) svg.append(draw("text", { x: X(tick), y: H - 6, "text-anchor": X(tick) > W - 24 ? "end" : "middle" }, short(tick)));
  for (const line of lines) {
    const path = draw("path", { d: line.points.map(([x, y], n) => `${n ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join(""), "stroke-dasharray": DASHES[Math.floor(line.place / SERIES) % DASHES.length] });
    path.style.stroke = `var(--s${line.place % SERIES})`;
    svg.append(path);
    if (line.points.length === 1) { const dot = draw("circle", { cx: X(line.points[0][0]), cy: Y(line.points[0][1]), r: 3 }); dot.style.fill = `var(--s${line.place % SERIES})`; svg.append(dot); }
  }
  const read = make("div", { className: "read" });
  svg.onpointermove = event => {
    const box = svg.getBoundingClientRect(), x = x0 + ((event.clientX - box.left) / box.width * W - L) / (W - L - R) * (x1 - x0);
    const near = lines.map(line => [line, line.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)]);
    svg.querySelector(".cursor")?.remove();
    const at = near.map(([, point]) => point[0]).reduce((a, b) => Math.abs(b - x) < Math.abs(a - x) ? b : a);
    svg.append(draw("line", { class: "cursor", x1: X(at), x2: X(at), y1: T, y2: H - B }));
    read.replaceChildren(`${$("axis").value} ${short(at)}: `, ...near.flatMap(([line, point], n) => [n ? ", " : "", make("span", { className: `c`, textContent: short(point[1]) })]));
    [...read.children].forEach((span, n) => { span.style.color = `var(--s${near[n][0].place % SERIES})`; });
  };
  svg.onpointerleave = () => { svg.querySelector(".cursor")?.remove(); read.replaceChildren(); };
  const away = make("button", { className: "plain", type: "button", textContent: "remove", ariaLabel: `remove the curve of ${name}` });
  away.onclick = () => { fields = fields.filter(other => other !== name); charts(); curves(); };
  return make("figure", {}, make("figcaption", {}, make("span", {}, make("b", { textContent: name }), ` over ${$("axis").value}`), away), svg, read);
}

async function show(id, scroll) {
  const isNew = id !== opened;
  opened = id;
  const found = await ask("run", [["id", id]]);
  $("details").hidden = false;
  $("details-title").textContent = found.name;
  const cells = ["job", "state", "id", "nodes", "time", "progress"];
  const head = make("tr", {}, ...[...cells, "note"].map(name => make("th", { scope: "col", textContent: name })));
  const rows = found.jobs.map(job => make("tr", {}, ...cells.map(name => make("td", { textContent: name === "state" ? sayState(job.state) : job[name], className: name === "state" ? kind(job.state) : name === "progress" ? "long" : "" })), make("td", { className: "long", textContent: job.note })));
  $("jobs").replaceChildren(found.jobs.length
    ? make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("caption", { className: "hidden", textContent: "Jobs" }), make("thead", {}, head), make("tbody", {}, ...rows)))
    : make("p", { className: "quiet", textContent: "No jobs have left a trace here." }));
  $("logs").replaceChildren(...found.logs.flatMap(log => [make("h3", { textContent: `${log.job}, end of ${log.file}` }), make("pre", { textContent: log.lines.join("\n"), tabIndex: 0 })]));
  const cut = $("jobs").querySelector(".scroll");
  cut?.classList.toggle("cut", cut.scrollWidth > cut.clientWidth + 1);
  for (const pre of document.querySelectorAll("#logs pre")) pre.scrollTop = pre.scrollHeight;
  $("settings").replaceChildren(...Object.entries(found.settings).map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  if (isNew) {
    $("pictures").replaceChildren();
    if (found.gallery) {
      const button = make("button", { type: "button", textContent: "Show its pictures" });
      button.onclick = async () => { $("pictures").innerHTML = (await ask("gallery", [["id", id]])).html; };
      $("pictures").append(button);
    }
  }
  if (scroll) $("details").scrollIntoView({ behavior: "smooth" });
}

function controls() {
  const counts = {};
  for (const run of Object.values(data.runs)) for (const name of Object.keys(run.measured)) counts[name] = (counts[name] || 0) + 1;
  const names = Object.keys(counts).sort((a, b) => counts[b] - counts[a] || compare(a, b));
  fill($("measure"), names.map(name => [name, sayMeasure(name)]));
  const settings = Object.keys(data.settings).map(name => [name, settingTitle(name)]);
  fill($("group"), [["", "nothing"], ["state", "state"], ["folder", "folder"], ...settings]);
  fill($("sort"), [["started", "newest"], ["name", "name"], ["state", "state"], ["progress", "progress"], ["measure", "measure"], ["loss", "loss"], ...settings]);
}
function summary() {
  const runs = Object.values(data.runs), states = {};
  for (const run of runs) states[run.state] = (states[run.state] || 0) + 1;
  const said = Object.entries(states).sort((a, b) => b[1] - a[1]).map(([state, count]) => `${count} ${sayState(state)}`).join(", ");
  const trouble = data.trouble ? ` SLURM does not answer (${data.trouble}); this is what the jobs wrote.` : "";
  $("summary").textContent = `${runs.length} ${runs.length === 1 ? "run" : "runs"}${said ? `: ${said}` : ""}.${trouble}`;
}
async function look() {
  data = await ask("runs");
  const runs = Object.entries(data.runs);
  if (picked === null && runs.length) {
    const first = runs.filter(([, run]) => run.loss != null).sort(([, a], [, b]) => (b.state === "RUNNING") - (a.state === "RUNNING") || b.started - a.started);
    picked = first.slice(0, 4).map(([id]) => id);
  }
  picked = (picked || []).filter(id => data.runs[id]);
  summary(); controls(); table();
  await curves();
  if (opened && data.runs[opened]) await show(opened, false);
}
async function live() {
  let wait = 3000;
  try {
    if (!document.hidden) {
      const begun = performance.now();
      await look();
      const lives = Object.values(data.runs).some(run => kind(run.state) === "busy" || !run.is_read);
      wait = Math.max(lives ? 3000 : 10000, 4 * (performance.now() - begun));
    }
  } catch (error) {
    $("summary").textContent = `The board does not answer (${error.message}); is it still running?`;
    wait = 10000;
  }
  setTimeout(live, wait);
}
$("filter").oninput = table;
$("group").onchange = $("measure").onchange = table;
$("sort").onchange = () => { sort = { by: $("sort").value, down: ["started", "measure", "progress"].includes($("sort").value) }; table(); };
$("axis").onchange = charts;
$("add").onchange = () => { if ($("add").value) { fields = [...fields, $("add").value]; curves(); } };
live();
