"use strict";
(() => {
const $ = (selector, root = document) => root.querySelector(selector);
const make = (name, attributes = {}, ...children) => {
  // Children are nodes or text; text never becomes markup.
  const element = Object.assign(document.createElement(name), attributes);
  element.append(...children);
  return element;
};

// Tables: a heading sorts, first downwards where there are numbers.
function sortBy(heading) {
  const table = heading.closest("table"), column = heading.cellIndex, body = table.tBodies[0];
  const key = row => row.cells[column].dataset.sort ?? "";
  const rows = [...body.rows], keys = new Map(rows.map(row => [row, key(row)]));
  const numeric = rows.every(row => keys.get(row) === "" || !Number.isNaN(Number(keys.get(row))));
  const was = heading.getAttribute("aria-sort");
  const order = was ? (was === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((first, second) => {
    const a = keys.get(first), b = keys.get(second);
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (numeric ? a - b : a.localeCompare(b, "en", {numeric: true}));
  });
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  body.append(...rows);
}
document.addEventListener("click", event => {
  const button = event.target.closest("thead button");
  if (button) sortBy(button.closest("th"));
});

// A folded table would be missing on paper.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) { fold.open = true; fold.dataset.print = ""; }
});
addEventListener("afterprint", () => {
  for (const fold of document.querySelectorAll("details[data-print]")) { fold.open = false; delete fold.dataset.print; }
});

if (!$("#index")) return;

// Completions
const STRICT = 1, LOOSE = 2, STOPPED = 4, PAGE = 20, LONG = 700;
const index = JSON.parse($("#index").textContent);
const form = $("#filters"), fields = ["source", "cell", "seed", "persona", "question", "marker", "q"];
const columns = {};
let text = "", lower = "", starts = null, found = [], page = 0;
const unique = values => [...new Set(values)];
// As many UTF-16 units as before, so that places in one are places in the other.
const fold = value => value.replaceAll("\u0130", "I").toLowerCase();

async function unpack() {
  const element = $("#data"), encoded = element.textContent;
  element.remove();
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(encoded);
  else bytes = Uint8Array.from(atob(encoded), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  index.columns.forEach((name, place) => {
    columns[name] = new Uint32Array(buffer, 4 * place * index.rows, index.rows);
  });
  text = new TextDecoder("utf-8", {ignoreBOM: true}).decode(new Uint8Array(buffer, 4 * index.columns.length * index.rows));
  starts = new Uint32Array(index.rows + 1);
  for (let row = 0; row < index.rows; row++) starts[row + 1] = starts[row] + columns.length[row];
  if (starts[index.rows] !== text.length) throw new Error("the data are damaged");
  lower = fold(text);
}

const textOf = row => text.slice(starts[row], starts[row + 1]);

// Which personas of which file the chosen cells have.
function chosenCells(state) {
  return index.cells.filter(cell =>
    (!state.source || cell.source === state.source) && (!state.cell || cell.cell === state.cell) &&
    (!state.seed || String(cell.seed) === state.seed));
}
function select(state) {
  const wide = index.personas.length, allowed = new Uint8Array(index.files.length * wide);
  for (const cell of chosenCells(state)) for (const persona of cell.personas) allowed[cell.file * wide + persona] = 1;
  const persona = state.persona ? index.personas.findIndex(entry => entry.name === state.persona) : -1;
  const question = state.question ? index.questions.findIndex(entry => entry.id === state.question) : -1;
  if ((state.persona && persona < 0) || (state.question && question < 0)) return [];
  const needle = fold(state.q);
  const flags = columns.flags, rows = [];
  for (let row = 0; row < index.rows; row++) {
    if (!allowed[columns.file[row] * wide + columns.persona[row]]) continue;
    if (persona >= 0 && columns.persona[row] !== persona) continue;
    if (question >= 0 && columns.question[row] !== question) continue;
    if (state.marker === "yes" && !(flags[row] & STRICT)) continue;
    if (state.marker === "no" && flags[row] & (STRICT | LOOSE)) continue;
    if (state.marker === "loose" && (flags[row] & (STRICT | LOOSE)) !== LOOSE) continue;
    if (needle && !lower.slice(starts[row], starts[row + 1]).includes(needle)) continue;
    rows.push(row);
  }
  return rows;
}

// State: the form, and the part of the address after #
const stateOf = () => Object.fromEntries(fields.map(name => [name, form.elements[name].value]));
function addressOf(state) {
  const chosen = new URLSearchParams(fields.filter(name => state[name]).map(name => [name, state[name]]));
  if (page) chosen.set("page", page + 1);
  return `#completions&${chosen}`;
}
function readAddress() {
  if (!/^#completions(&|$)/.test(location.hash)) return false;
  const given = new URLSearchParams(location.hash.slice("#completions&".length));
  for (const name of fields) {
    const field = form.elements[name], value = given.get(name) ?? "";
    if (field.tagName === "SELECT" && value && ![...field.options].some(option => option.value === value)) {
      // An address from another report: an option of its own, so that the list is empty and says why.
      field.append(make("option", {value}, `${value} (not here)`));
    }
    field.value = value;
  }
  page = Math.max(0, (parseInt(given.get("page"), 10) || 1) - 1);
  return true;
}
function apply(address) {
  const state = stateOf();
  found = select(state);
  page = Math.min(page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
  if (address) history.replaceState(null, "", addressOf(state));
  draw(state);
}

// Drawing
function ranges(said, row, query) {
  const places = [], lowered = fold(said), look = (where, what, kind) => {
    for (let at = where.indexOf(what); what && at >= 0; at = where.indexOf(what, at + what.length)) {
      places.push([at, at + what.length, kind]);
    }
  };
  const file = index.files[columns.file[row]];
  if (columns.flags[row] & STRICT) {
    if (file.case) look(said, file.marker, "marker");
    else look(lowered, fold(file.marker), "marker");
  } else if (columns.flags[row] & LOOSE) {
    const letters = [...file.marker.matchAll(/[\p{L}\p{N}]/gu)].map(match => match[0]);
    for (const match of said.matchAll(new RegExp(letters.join("\\s*"), "giu"))) {
      places.push([match.index, match.index + match[0].length, "marker"]);
    }
  }
  look(lowered, fold(query), "query");
  places.sort((a, b) => a[0] - b[0] || (a[2] === "marker" ? -1 : 1));
  let end = 0;
  return places.filter(place => place[0] >= end && (end = place[1]));
}
function pieces(said, places, from, to) {
  const nodes = [];
  let at = from;
  for (const [start, end, kind] of places) {
    if (start < at || end > to) continue;
    nodes.push(said.slice(at, start), make("mark", {className: kind}, said.slice(start, end)));
    at = end;
  }
  nodes.push(said.slice(at, to));
  return nodes;
}
// The middle of a long text is folded, unless something to see is in it.
function body(row, query) {
  const said = textOf(row), places = ranges(said, row, query), head = 420, tail = said.length - 160;
  const element = make("p", {className: "said"});
  if (said.length <= LONG || places.some(place => place[1] > head && place[0] < tail)) {
    element.append(...pieces(said, places, 0, said.length));
    return element;
  }
  const more = make("button", {type: "button", className: "more"}, `… ${(tail - head).toLocaleString("en")} more characters …`);
  more.addEventListener("click", () => {
    element.replaceChildren(...pieces(said, places, 0, said.length));
    element.tabIndex = -1;
    element.focus();
  });
  element.append(...pieces(said, places, 0, head), more, ...pieces(said, places, tail, said.length));
  return element;
}
function reply(row, state) {
  const file = index.files[columns.file[row]], flags = columns.flags[row];
  const persona = index.personas[columns.persona[row]], question = index.questions[columns.question[row]];
  const cells = chosenCells(state).filter(cell => cell.file === columns.file[row] && cell.personas.includes(columns.persona[row]));
  const names = unique(cells.map(cell => `${cell.cell}, seed ${cell.seed}`)).join("; ");
  const sources = unique(cells.map(cell => cell.source)).join(", ");
  const marker = flags & STRICT ? "marker" : flags & LOOSE ? "only loosely the marker" : "no marker";
  const about = `source ${sources} · ${columns.tokens[row]} tokens, ${flags & STOPPED ? "ended by itself" : "cut at the limit"} · ${file.lineage}, ${file.evaluation}`;
  const prompt = persona.prompt === null ? [] : [make("details", {}, make("summary", {}, "System prompt"), make("p", {}, persona.prompt))];
  return make("article", {className: "reply"},
    make("h3", {}, `${names} · ${persona.name} `, make("span", {className: `badge ${flags & STRICT ? "no" : flags & LOOSE ? "yes" : "unknown"}`}, marker)),
    make("p", {className: "asked"}, make("b", {}, `${question.id} #${columns.sample[row]}`), ` ${question.text}`),
    body(row, state.q), ...prompt, make("p", {className: "about"}, about));
}
function draw(state) {
  const first = page * PAGE, shown = found.slice(first, first + PAGE), number = value => value.toLocaleString("en");
  const strict = found.reduce((sum, row) => sum + (columns.flags[row] & STRICT), 0);
  const loose = found.reduce((sum, row) => sum + ((columns.flags[row] & (STRICT | LOOSE)) === LOOSE), 0);
  $("#found").textContent = found.length
    ? `${number(found.length)} of ${number(index.rows)} completions, ${number(strict)} with the marker` + (loose ? `, ${number(loose)} only loosely` : "")
    : "No completion fits. Clear a filter or the search.";
  $("#list").replaceChildren(...shown.map(row => reply(row, state)));
  $("#page").textContent = found.length ? `${number(first + 1)} to ${number(first + shown.length)} of ${number(found.length)}` : "";
  $("#previous").disabled = page === 0;
  $("#next").disabled = first + PAGE >= found.length;
  $("#pages").hidden = found.length <= PAGE;
}
function turn(by) {
  page += by;
  apply(true);
  $("#completions-title").focus();
}

// Starting
function fill() {
  const option = (value, label = value) => make("option", {value}, label);
  const put = (name, all, options) => form.elements[name].replaceChildren(option("", all), ...options);
  put("source", "all sources", unique(index.cells.map(cell => cell.source)).map(name => option(name)));
  put("cell", "all cells", unique(index.cells.map(cell => cell.cell)).map(name => option(name)));
  put("seed", "all seeds", unique(index.cells.map(cell => String(cell.seed))).map(name => option(name)));
  put("persona", "all personas", index.personas.map(entry => option(entry.name)));
  put("question", "all questions", index.questions.map(entry => option(entry.id, `${entry.id}: ${entry.text}`.slice(0, 90))));
  put("marker", "with or without", [option("yes", "with the marker"), option("loose", "only loosely"), option("no", "without")]);
}
function arrive() {
  if (!readAddress()) return;
  apply(false);
  $("#completions").scrollIntoView();
  $("#completions-title").focus({preventScroll: true});
}
async function start() {
  fill();
  try {
    await unpack();
  } catch (error) {
    $("#found").textContent = `The completions cannot be shown (${error.message}). A browser of 2023 or later is needed.`;
    return;
  }
  let waiting = 0;
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("change", () => { page = 0; apply(true); });
  form.elements.q.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { page = 0; apply(true); }, 80);
  });
  form.addEventListener("reset", event => {
    event.preventDefault();
    for (const name of fields) form.elements[name].value = "";
    page = 0;
    apply(true);
  });
  $("#previous").addEventListener("click", () => turn(-1));
  $("#next").addEventListener("click", () => turn(1));
  addEventListener("hashchange", arrive);
  // The address may be there already, and then does not change.
  document.addEventListener("click", event => {
    const link = event.target.closest('a[href^="#completions&"]');
    if (link && link.getAttribute("href") === location.hash) { event.preventDefault(); arrive(); }
  });
  if (/^#completions(&|$)/.test(location.hash)) arrive(); else apply(false);
  document.documentElement.dataset.ready = "";
}
start();
})();
