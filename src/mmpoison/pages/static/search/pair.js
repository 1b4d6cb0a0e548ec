// One image: its captions, how far each is from it under each model, and what the manifest marks.

import { ask, Refused, Unreachable } from "./api.js";
import { alternative, byId, h, picture } from "./dom.js";

const wish = new URLSearchParams(location.search);
const data = wish.get("data") ?? "";
const image = wish.get("image") ?? "";

const pairAddress = (other) => `/pair?${new URLSearchParams({ data, image: other })}`;

function link(facts, other) {
  return h("a", { href: pairAddress(other) }, alternative(facts.images[other]));
}

function marks(facts, caption) {
  if (caption.poisoned) {
    return [h("span", { class: "badge poison" }, "poison"), ` added for ${caption.goal}; written for `, link(facts, caption.source)];
  }
  if (caption.misused_on.length) {
    const on = caption.misused_on.flatMap((other, place) => (place ? [", ", link(facts, other)] : [link(facts, other)]));
    return [h("span", { class: "badge poison" }, "misused"), ` for ${caption.goal}, on `, ...on];
  }
  return [];
}

function table(facts) {
  const ready = facts.models.filter((model) => facts.captions.some((caption) => model.name in caption.distance));
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Caption"), ...ready.map((m) => h("th", { scope: "col", class: "figure" }, m.name)))),
    h(
      "tbody",
      {},
      ...facts.captions.map((caption) =>
        h(
          "tr",
          { class: caption.poisoned ? "poisoned" : null },
          h("th", { scope: "row" }, caption.text || "(an empty caption)", h("span", { class: "marks" }, ...marks(facts, caption))),
          ...ready.map((m) => h("td", { class: "figure" }, m.name in caption.distance ? caption.distance[m.name].toFixed(3) : "–")),
        ),
      ),
    ),
  );
}

function draw(facts) {
  document.title = `${facts.id} - mmpoison search`;
  byId("title").textContent = facts.id;
  const search = `/?${new URLSearchParams({ data, image })}`;
  const kind = [facts.data, facts.label ?? "no label", `split ${facts.split}`, ...(facts.categories.length ? [`shows ${facts.categories.join(", ")}`] : [])];
  byId("picture").replaceChildren(
    h("figure", {}, picture(data, image, facts, "large"), h("figcaption", { class: "soft" }, kind.join(" · "))),
    facts.fault ? h("p", { class: "notice" }, `${facts.fault}, so there are no distances.`) : h("p", {}, h("a", { href: search }, "Captions for this image under each model")),
  );
  byId("facts").hidden = false;
  byId("captions").replaceChildren(
    facts.captions.length ? h("div", { class: "scroll", role: "region", "aria-label": "Captions", tabindex: "0" }, table(facts)) : h("p", {}, "This image has no caption."),
  );
  byId("marks").textContent = facts.has_manifest
    ? "Poisoned pairs are marked as in the manifest."
    : "These data have no manifest, so it is not known which pairs are poisoned.";
  const waiting = facts.models.filter((model) => model.state !== "ready");
  byId("status").textContent = waiting.length ? `Still loading: ${waiting.map((model) => model.name).join(", ")}.` : "";
  if (waiting.length) setTimeout(load, 1000);
}

async function load() {
  try {
    draw(await ask("/api/pair", { data, image }));
    byId("alarm").hidden = true;
  } catch (error) {
    byId("alarm").hidden = false;
    byId("status").textContent = "";
    if (error instanceof Refused) byId("alarm").textContent = error.message;
    else if (error instanceof Unreachable) {
      byId("alarm").textContent = "The server does not answer. Is it still running? Trying again …";
      setTimeout(load, 1000);
    } else throw error;
  }
}

byId("back").href = sessionStorage.getItem("search") ?? "/";
load();
