// The search page: sends queries and shows the answers.

import { ask, Refused, Unreachable } from "./api.js";
import { renderColumns, sayResults } from "./columns.js";
import { byId, countOf, h, number, picture } from "./dom.js";

const SOON = 700;
const AT_ONCE = 200; // while no results are shown yet
const AGAIN = 1000;

let state = null;
let asked = null; // the query of the results: {text}, {image} or {file}
let incomplete = false; // some model has not answered it yet
let lost = false; // the server did not answer the last request
let first = null; // the first suggested query, with which the page opens
let turn = 0; // of several pending requests, only the last one counts
let timer = null;
const TYPE = "Type what the pictures should show, for example: a lamb on the grass.";
const wish = new URLSearchParams(location.search);

const chosen = () => state?.data.find((set) => set.key === byId("data").value) ?? null;

// -- errors of the server -------------------------------------------------------------------------

async function guarded(work) {
  try {
    const result = await work();
    byId("alarm").hidden = true;
    return result;
  } catch (error) {
    if (error instanceof Refused) {
      say(error.message, true);
      return null;
    }
    if (error instanceof Unreachable) {
      byId("alarm").textContent = "The server does not answer. Is it still running? Trying again …";
      byId("alarm").hidden = false;
      lost = true;
      later(refresh, AGAIN);
      return null;
    }
    throw error;
  }
}

function later(work, wait) {
  clearTimeout(timer);
  timer = setTimeout(work, wait);
}

function say(text, wrong = false) {
  // setting the same text again would make screen readers repeat it
  if (byId("status").textContent !== text) byId("status").textContent = text;
  byId("status").className = wrong ? "notice" : "";
}

async function refresh() {
  const before = state && readiness();
  const answer = await guarded(() => ask("/api/state"));
  if (!answer) return;
  const back = lost;
  lost = false;
  const known = chosen()?.key;
  state = answer;
  drawState();
  if (back || chosen()?.key !== known) await suggest();
  if (!asked) begin();
  else if (back || (incomplete && (!state.busy.length || readiness() !== before))) await run();
  if (!lost && (state.busy.length || incomplete)) later(refresh, pace());
}

const pace = () => (byId("columns").querySelector(".hits") ? SOON : AT_ONCE);

// changes whenever something has become ready
const readiness = () => JSON.stringify([state.models, state.busy.map((job) => job.what)]);

// -- controls ---------------------------------------------------------------------------------------

function fill(select, options, value) {
  const keep = options.some(([key]) => key === value) ? value : options[0]?.[0];
  const now = JSON.stringify([options]);
  if (select.dataset.options !== now) {
    select.replaceChildren(...options.map(([key, text]) => h("option", { value: key }, text)));
    select.dataset.options = now;
  }
  if (keep !== undefined) select.value = keep;
  select.disabled = options.length === 0;
}

function drawState() {
  byId("about").textContent = `${state.models.map((m) => m.name).join(", ")} over ${state.data.map((d) => (d.key ? `${d.name}, ${countOf(d.images, "image")}` : d.name)).join("; ")}`;
  const sets = state.data.filter((set) => set.key);
  const before = byId("data").value;
  fill(byId("data"), sets.map((set) => [set.key, set.name]), before || wish.get("data"));
  if (before !== byId("data").value) drawCollection();
  // one line: what is loading in the background, and later what is loaded
  const job = state.busy[0];
  byId("busy").hidden = !job;
  byId("about").hidden = Boolean(job);
  if (job) {
    const more = state.busy.length - 1;
    byId("busy").textContent = `Loading ${job.what}${job.total ? `, ${number(job.done)} of ${number(job.total)}` : ""}${more ? `; then ${number(more)} more` : ""} …`;
  }
}

function drawCollection() {
  const set = chosen();
  if (!set) return;
  fill(byId("part"), Object.entries(set.parts).map(([part, images]) => [part, `${part} (${number(images)})`]), wish.get("part"));
  const goals = set.goals.map((goal, place) => [String(place), `${set.classes[goal.original]} → ${set.classes[goal.target]}`]);
  byId("goal-control").hidden = goals.length < 2;
  fill(byId("goal"), [...goals, ["", "your own"]], wish.get("goal"));
  const classes = set.classes.map((name, code) => [String(code), name]);
  fill(byId("original"), [["", "any class"], ...classes], null);
  const images = set.goals.filter((goal) => goal.image !== null).map((goal) => [`image:${goal.image}`, `the target image (number ${goal.image})`]);
  fill(byId("target"), [["", "nothing"], ...images, ...set.classes.map((name, code) => [`class:${code}`, name])], null);
  if (set.goals.length) takeGoal(set.goals[Number(byId("goal").value) || 0]);
  for (const name of ["original", "target"]) {
    const value = wish.get(name);
    if (value !== null && [...byId(name).options].some((option) => option.value === value)) byId(name).value = value;
  }
}

function takeGoal(goal) {
  byId("original").value = String(goal.original);
  byId("target").value = goal.image === null ? `class:${goal.target}` : `image:${goal.image}`;
}

async function suggest() {
  const set = chosen();
  if (!set) return;
  const label = byId("original").value;
  const answer = await guarded(() => ask("/api/suggestions", { data: set.key, part: byId("part").value, label }));
  if (!answer) return;
  first = answer.queries[0] ?? null;
  byId("suggested").hidden = !answer.queries.length;
  byId("suggested-title").textContent = label ? `Captions of ${set.classes[label]}` : "Captions of any class";
  byId("suggestions").replaceChildren(
    ...answer.queries.map((query) => h("li", {}, h("button", { type: "button", onclick: () => searchText(query) }, query))),
  );
  markSuggested();
}

function markSuggested() {
  for (const button of byId("suggestions").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.textContent === asked?.text));
  }
}

// shows the selected options in one line while they are closed
function drawChosen() {
  const said = (id) => byId(id).selectedOptions[0]?.textContent ?? "";
  const framed = byId("target").value ? `${said("target")} framed` : "nothing framed";
  byId("chosen").textContent = `: ${[said("data"), said("part"), framed].join(", ")}`;
}

// -- queries --------------------------------------------------------------------------------------

function begin() {
  if (!chosen()) return;
  if (wish.get("image") !== null && wish.get("data") === chosen().key) asked = { image: Number(wish.get("image")) };
  else if (wish.get("q")) asked = { text: wish.get("q") };
  else if (first !== null) asked = { text: first };
  else {
    say(TYPE);
    return;
  }
  if (asked.text) byId("q").value = asked.text;
  wish.delete("q");
  wish.delete("image");
  run();
}

function searchText(text) {
  if (!text.trim()) {
    say(TYPE, true);
    byId("q").focus();
    return;
  }
  byId("q").value = text;
  asked = { text };
  return run();
}

async function run() {
  const set = chosen();
  if (!asked) return;
  if (!set) {
    incomplete = true;
    say("The data set is not ready yet.");
    later(refresh, SOON);
    return;
  }
  const mine = ++turn;
  const common = { data: set.key, part: byId("part").value, shown: byId("shown").value };
  remember(common);
  markSuggested();
  drawChosen();
  const original = byId("original").value;
  const target = byId("target").value;
  byId("columns").setAttribute("aria-busy", "true");
  const answer = await guarded(() => {
    if (asked.text !== undefined) return ask("/api/search", { ...common, q: asked.text, target });
    if (asked.image !== undefined) return ask("/api/captions", { ...common, image: asked.image, original });
    return ask("/api/captions", { ...common, original }, { method: "POST", body: asked.file });
  });
  if (mine !== turn) return;
  byId("columns").removeAttribute("aria-busy");
  if (!answer) {
    if (byId("alarm").hidden) {
      incomplete = false;
      clearResults();
    }
    return;
  }
  const captions = asked.text === undefined;
  const framed = captions ? (original && `captions of ${set.classes[original]}`) : target && byId("target").selectedOptions[0].textContent;
  const context = { data: set.key, captions, framed, image: asked.image };
  incomplete = answer.models.some((column) => column.state === "waiting" || column.state === "working");
  drawAsked(set);
  drawNotes(answer.notes);
  drawColumns(renderColumns(answer.models, captions ? answer.captions : answer.images, context));
  byId("jump").replaceChildren(...answer.models.map((column, place) => h("a", { href: `#model-${place}` }, column.name)));
  // pictures are strips on a phone, so that all models are on one screen; lists of captions are long
  byId("jump").hidden = !captions || answer.models.length < 2;
  say(sayResults(answer.models, context));
  if (incomplete) later(refresh, pace());
}

// keyboard focus stays on its result while more results arrive
function drawColumns(columns) {
  const box = byId("columns");
  const place = [...box.children].findIndex((column) => column.contains(document.activeElement));
  const address = place >= 0 ? document.activeElement.getAttribute("href") : null;
  box.replaceChildren(...columns);
  if (place >= 0) (columns[place].querySelector(`a[href="${CSS.escape(address ?? "")}"]`) ?? columns[place].querySelector("h3")).focus();
}

function clearResults() {
  byId("columns").replaceChildren();
  byId("jump").hidden = true;
  byId("asked").hidden = true;
  drawNotes([]);
}

function drawNotes(notes) {
  byId("notes").replaceChildren(...notes.map((note) => h("li", { class: "soft" }, note)));
}

let shownFile = null;

function drawAsked(set) {
  const box = byId("asked");
  if (shownFile) URL.revokeObjectURL(shownFile);
  shownFile = null;
  box.hidden = asked.text !== undefined;
  if (asked.image !== undefined) {
    const address = `/pair?${new URLSearchParams({ data: set.key, image: asked.image })}`;
    box.replaceChildren(
      h("a", { href: address }, picture(set.key, asked.image, { caption: `image number ${asked.image}` })),
      h("p", {}, `Captions for image number ${asked.image}`),
    );
  } else if (asked.file !== undefined) {
    shownFile = URL.createObjectURL(asked.file);
    box.replaceChildren(h("img", { src: shownFile, alt: "your picture" }), h("p", {}, `Captions for your picture, ${asked.file.name}`));
  }
}

// saves the query in the address, so that it gives the same results again
function remember(common) {
  const keep = { ...common, original: byId("original").value, target: byId("target").value };
  if (asked.text !== undefined) keep.q = asked.text;
  if (asked.image !== undefined) keep.image = asked.image;
  const address = `/?${new URLSearchParams(keep)}`;
  history.replaceState(null, "", address);
  // for the way back from an image's page
  sessionStorage.setItem("search", address);
}

// -- user input -----------------------------------------------------------------------------------

byId("text-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await searchText(byId("q").value);
});
byId("picture").addEventListener("change", () => {
  const [file] = byId("picture").files;
  if (!file) return;
  asked = { file };
  run();
});
byId("data").addEventListener("change", async () => {
  for (const name of ["part", "goal", "original", "target"]) wish.delete(name);
  if (asked?.image !== undefined) {
    asked = null;
    clearResults();
  }
  drawCollection();
  await suggest();
  run();
});
byId("goal").addEventListener("change", async () => {
  const goal = chosen()?.goals[byId("goal").value];
  if (goal && byId("goal").value !== "") takeGoal(goal);
  await suggest();
  run();
});
for (const name of ["part", "original", "target", "shown"]) {
  byId(name).addEventListener("change", async () => {
    if (name === "original" || name === "target") byId("goal").value = "";
    if (name === "original" || name === "part") await suggest();
    run();
  });
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  byId("q").focus();
  byId("q").select();
});
addEventListener("beforeunload", () => clearTimeout(timer));

if (wish.get("shown")) byId("shown").value = wish.get("shown");
if (!byId("shown").value) byId("shown").value = "12";
refresh();
