// Shows one pair at a time. A verdict counts once the server has confirmed that it is on disk.

const $ = (id) => document.getElementById(id);
const VERDICTS = ["keep", "drop", "unsure"];
const SAYS = { keep: "keep", drop: "drop", unsure: "unsure", "": "open" };

let verdicts = [];
let place = 0;
let busy = false;
let scoreName = "score";
let goals = []; // groups of the scan
const done = []; // verdicts for undo: {place, was, verdict} or {place, group}
let shownGroup = null; // the group whose pairs are shown
const known = new Map(); // fetched pairs

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const value = answer.json(); // fails if the answer breaks off, e.g. when the server is killed
  return { status: answer.status, value: await (answer.ok ? value : value.catch(() => ({}))) };
}

function say(text) {
  $("said").textContent = text;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = text === "";
}

const LOST = "The server does not answer, so new verdicts are not saved. Run the same command again: saved verdicts are safe, and this page will reconnect.";

function pairOf(number) {
  if (!known.has(number)) {
    const asked = ask(`/api/pairs/${number}`).then(({ status, value }) => {
      if (status !== 200) throw new Error("no pair");
      new Image().src = `/images/${value.image}/large`;
      return value;
    });
    asked.catch(() => known.delete(number));
    known.set(number, asked);
  }
  return known.get(number);
}

function showCounts() {
  const count = (what) => verdicts.filter((verdict) => verdict === what).length;
  const open = count("");
  $("bar").max = Math.max(verdicts.length, 1);
  $("bar").value = verdicts.length - open;
  $("counts").textContent = `${verdicts.length - open} of ${verdicts.length} decided: ${count("keep")} keep, ${count("drop")} drop, ${count("unsure")} unsure`;
  const verdict = verdicts[place] ?? "";
  $("verdict").textContent = verdict === "" ? "" : `Your verdict: ${SAYS[verdict]}`;
  for (const one of document.querySelectorAll(".member")) {
    one.dataset.verdict = verdicts[one.value];
    one.ariaCurrent = String(Number(one.value) === place);
  }
  for (const name of VERDICTS) $(name).setAttribute("aria-pressed", String(name === verdict));
  $("undo").disabled = done.length === 0;
  $("previous").disabled = place === 0;
  $("next").disabled = place >= verdicts.length - 1;
  $("open").disabled = open === 0;
}

function list(id, rows) {
  $(id).replaceChildren(...rows);
  $(`${id}-part`).hidden = rows.length === 0;
}

function picture(image, caption, number, size) {
  image.hidden = false;
  image.alt = caption;
  image.src = `/images/${number}/${size}`;
}

function showGoal(number) {
  const goal = number === null ? undefined : goals[number];
  $("goal-part").hidden = $("group-keys").hidden = goal === undefined;
  showGroup(number);
  if (goal === undefined) return;
  $("goal-part").classList.toggle("calm", goal.grade === "as in clean data");
  $("goal-head").textContent = `Group ${number + 1} of ${goals.length}: ${goal.grade}`;
  $("goal").textContent = goal.sentence;
  $("goal-why").textContent = `Why: ${goal.why}`;
  const others = goal.other_explanations;
  $("goal-others").textContent = others.length ? `Other possible explanations: ${others.join("; ")}` : "";
}

async function showGroup(number) {
  if (number === shownGroup) return;
  shownGroup = number;
  list("group", []);
  if (number === null) return;
  const { value } = await ask(`/api/groups/${number}`).catch(() => ({ value: [] }));
  if (number !== shownGroup) return; // the page moved to another group meanwhile
  const rows = new Map();
  for (const pair of value) {
    if (!rows.has(pair.image)) rows.set(pair.image, tile(pair.image));
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "member", dir: "auto", textContent: pair.caption, value: pair.place });
    button.addEventListener("click", () => show(pair.place));
    rows.get(pair.image).append(button);
  }
  $("group-head").textContent = `${value.length} of ${goals[number].pairs} pairs of this group shown`;
  list("group", [...rows.values()]);
  showCounts();
}

function tile(number) {
  const row = document.createElement("li");
  const image = document.createElement("img");
  image.loading = "lazy";
  image.addEventListener("error", () => {
    const missing = document.createElement("p");
    missing.className = "missing";
    missing.textContent = "cannot be shown";
    image.replaceWith(missing);
  });
  picture(image, "", number, "small");
  row.append(image);
  return row;
}

function neighbour(pair) {
  const row = tile(pair.image);
  const words = document.createElement("p");
  words.dir = "auto";
  words.textContent = pair.caption;
  const distance = document.createElement("p");
  distance.className = "soft";
  distance.textContent = `distance ${pair.distance.toFixed(3)}`;
  row.append(words, distance);
  return row;
}

async function show(number, said = "") {
  place = Math.min(Math.max(number, 0), verdicts.length - 1);
  const wanted = place;
  showCounts();
  let pair;
  try {
    pair = await pairOf(wanted);
  } catch {
    trouble(LOST);
    return;
  }
  if (wanted !== place) return; // the page moved to another pair meanwhile
  $("pair").hidden = false;
  $("place").textContent = `Pair ${place + 1} of ${verdicts.length}`;
  $("caption").textContent = pair.caption;
  $("name").textContent = pair.name;
  const facts = [];
  facts.push(`${scoreName[0].toUpperCase()}${scoreName.slice(1)}: ${pair.distance.toFixed(3)}`);
  if (pair.kept !== null) facts.push(pair.kept ? "kept by the scan" : "dropped by the scan");
  $("facts").textContent = facts.join(", ");
  showGoal(pair.goal);
  $("no-image").hidden = true;
  picture($("image"), `Image of pair ${place + 1}`, pair.image, "large");
  list("others", pair.others.map((caption) => {
    const row = document.createElement("li");
    row.dir = "auto";
    row.textContent = caption;
    return row;
  }));
  list("by-image", pair.by_image.map(neighbour));
  list("by-caption", pair.by_caption.map(neighbour));
  showCounts();
  const verdict = verdicts[place];
  say(`${said}Pair ${place + 1} of ${verdicts.length}: ${pair.caption}.${verdict ? ` Your verdict: ${SAYS[verdict]}.` : ""}`);
  window.scrollTo(0, 0);
  if (place + 1 < verdicts.length) pairOf(place + 1).catch(() => {});
}

function nextOpen(from) {
  for (let step = 1; step <= verdicts.length; step += 1) {
    const number = (from + step) % verdicts.length;
    if (verdicts[number] === "") return number;
  }
  return -1;
}

// Saves a verdict on disk; returns whether it was saved.
async function save(number, verdict, was) {
  if (busy) return false;
  busy = true;
  try {
    const { name } = await pairOf(number);
    const { status, value } = await ask(`/api/pairs/${number}/verdict`, { pair: name, verdict, was });
    if (status === 410) {
      location.reload();
      return false;
    }
    if (value.verdicts) verdicts = value.verdicts;
    if (status === 409) {
      trouble(`Pair ${number + 1} was set to ${SAYS[verdicts[number]]} in another tab or by hand; nothing was changed. Press the key again to change it.`);
      showCounts();
      return false;
    }
    if (status !== 200) {
      trouble(`Not saved: ${value.error ?? "the server refused it"}`);
      return false;
    }
    trouble("");
    return true;
  } catch {
    trouble(LOST);
    return false;
  } finally {
    busy = false;
  }
}

async function decide(verdict) {
  const number = place;
  const was = verdicts[number];
  if (!(await save(number, verdict, was))) return;
  done.push({ place: number, was, verdict });
  const said = `Pair ${number + 1}: ${SAYS[verdict]}, saved. `;
  if (verdicts.every((one) => one !== "")) {
    await show(Math.min(number + 1, verdicts.length - 1), `${said}All pairs are decided. `);
  } else {
    await show(verdicts[number + 1] === "" ? number + 1 : nextOpen(number), said);
  }
}

// Decides all undecided pairs of a group; an empty verdict undoes that. Returns how many, or -1.
async function saveGroup(group, verdict) {
  if (busy) return -1;
  busy = true;
  try {
    const { status, value } = await ask(`/api/groups/${group}/verdict`, { verdict });
    if (status !== 200) {
      trouble(`Not saved: ${value.error ?? value.detail ?? "the server refused it"}`);
      return -1;
    }
    verdicts = value.verdicts;
    trouble("");
    return value.count;
  } catch {
    trouble(LOST);
    return -1;
  } finally {
    busy = false;
  }
}

async function decideGroup(verdict) {
  const number = place;
  const { goal } = await pairOf(number);
  if (goal === null || goal === undefined) return;
  const count = await saveGroup(goal, verdict);
  if (count < 0) return;
  done.push({ place: number, group: goal });
  const next = nextOpen(number);
  await show(next < 0 ? number : next, `Group ${goal + 1}: ${SAYS[verdict]}, ${count} pairs saved. `);
}

async function undo() {
  const last = done.at(-1);
  if (last === undefined) return;
  if (last.group !== undefined) {
    if (await saveGroup(last.group, "") >= 0) {
      done.pop();
      await show(last.place, `Undone. `);
    }
    return;
  }
  if (await save(last.place, last.was, last.verdict)) {
    done.pop();
    await show(last.place, `Undone. `);
  } else if (verdicts[last.place] !== last.verdict) {
    done.pop(); // another page has changed the verdict since: nothing to undo
    await show(last.place);
  }
}

async function refresh() {
  if (busy) return;
  try {
    const { status, value } = await ask("/api/review");
    if (busy) return;
    if (status !== 200) {
      trouble(value.error ?? "The server refuses to answer.");
      return;
    }
    if (value.verdicts.length !== verdicts.length) {
      location.reload(); // another review is served here now
      return;
    }
    verdicts = value.verdicts;
    if ($("trouble").textContent === LOST) {
      trouble("");
      say("The server is back.");
      show(place);
    } else {
      showCounts();
    }
  } catch {
    trouble(LOST);
  }
}

const ACTIONS = {
  k: () => decide("keep"),
  d: () => decide("drop"),
  u: () => decide("unsure"),
  g: () => decideGroup("drop"),
  h: () => decideGroup("keep"),
  z: undo,
  o: () => { const number = nextOpen(place); if (number >= 0) show(number); },
  ArrowLeft: () => { if (place > 0) show(place - 1); },
  ArrowRight: () => { if (place < verdicts.length - 1) show(place + 1); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const action = ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action === undefined || verdicts.length === 0) return;
  event.preventDefault();
  action();
});

for (const [id, key] of [["keep", "k"], ["drop", "d"], ["unsure", "u"], ["drop-group", "g"], ["keep-group", "h"], ["undo", "z"], ["open", "o"], ["previous", "ArrowLeft"], ["next", "ArrowRight"]]) {
  $(id).addEventListener("click", () => ACTIONS[key]());
}
$("image").addEventListener("error", () => {
  $("image").hidden = true;
  $("no-image").hidden = false;
  $("no-image").textContent = "The image cannot be shown: it is missing or broken.";
});

async function start() {
  let review;
  try {
    review = (await ask("/api/review")).value;
  } catch {
    trouble(LOST);
    return;
  }
  if (!Array.isArray(review.verdicts)) {
    trouble(review.error ?? "The server refuses to answer.");
    return;
  }
  verdicts = review.verdicts;
  scoreName = review.score_name;
  goals = review.goals;
  $("title").textContent = review.title;
  $("file").textContent = review.file;
  document.title = `${review.title} · mmpoison`;
  const first = verdicts.indexOf("");
  await show(first < 0 ? 0 : first);
  setInterval(refresh, 3000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
}

start();
