// The results of the models, side by side.

import { countOf, h, number, picture } from "./dom.js";

const similarity = (value) => value.toFixed(3);

// how far a result moved relative to the first model, as a symbol and in words
function move(hit, column, first) {
  if (!first || column.new === null) return null;
  if (hit.was === null) {
    const beyond = `from beyond rank ${number(first.known - 1)}`;
    return h("span", { class: "move up" }, h("span", { "aria-hidden": "true" }, "▲ "), beyond);
  }
  const places = hit.was - hit.rank;
  if (places === 0) return h("span", { class: "move soft" }, h("span", { "aria-hidden": "true" }, "="), h("span", { class: "sr" }, `same rank as under ${first.name}`));
  const words = `${countOf(Math.abs(places), "place")} ${places > 0 ? "up" : "down"}, rank ${number(hit.was)} under ${first.name}`;
  return h(
    "span",
    { class: `move ${places > 0 ? "up" : "down"}`, title: words },
    h("span", { "aria-hidden": "true" }, `${places > 0 ? "▲" : "▼"} ${number(Math.abs(places))}`),
    h("span", { class: "sr" }, words),
  );
}

function rankLine(hit, column, first) {
  return h(
    "p",
    { class: "rank" },
    h("b", {}, h("span", { class: "sr" }, "rank "), String(hit.rank)),
    h("span", { class: "soft" }, h("span", { class: "sr" }, "similarity "), similarity(hit.similarity)),
    move(hit, column, first),
  );
}

const badge = (text, kind) => h("span", { class: `badge ${kind}` }, text);

function imageHit(hit, column, first, facts, context) {
  const address = `/pair?${new URLSearchParams({ data: context.data, image: hit.item })}`;
  return h(
    "li",
    { class: hit.target ? "hit target" : "hit" },
    h("a", { href: address }, picture(context.data, hit.item, facts)),
    rankLine(hit, column, first),
    h(
      "p",
      { class: "label" },
      facts.label ?? h("span", { class: "soft" }, "no label"),
      hit.target ? badge("target", "framed") : null,
      facts.poison ? badge("poisoned pair", "poison") : null,
    ),
  );
}

function captionHit(hit, column, first, facts, context) {
  const address = `/pair?${new URLSearchParams({ data: context.data, image: facts.image })}`;
  return h(
    "li",
    { class: hit.target ? "hit wide target" : "hit wide" },
    h("p", {}, h("a", { href: address }, facts.text || "(an empty caption)")),
    rankLine(hit, column, first),
    h(
      "p",
      { class: "label" },
      facts.label ?? h("span", { class: "soft" }, "no label"),
      facts.image === context.image ? badge("its own", "own") : null,
      hit.target ? badge(context.framed, "framed") : null,
      facts.misused ? badge("misused by the poison", "poison") : null,
    ),
  );
}

function summary(column, first, context) {
  const lines = [];
  if (context.framed) {
    const rank = column.best_target === null ? `beyond rank ${number(column.known - 1)}` : `at rank ${number(column.best_target)}`;
    lines.push(h("p", {}, `First of ${context.framed} `, h("b", {}, rank), `, ${column.targets_shown} of the ${column.hits.length} shown`));
  }
  if (first && column.new !== null) {
    lines.push(h("p", { class: "soft" }, `${number(column.new)} of ${column.hits.length} are not shown under ${first.name}`));
  }
  return lines;
}

function waiting(column) {
  if (column.state === "failed") return h("p", { class: "notice" }, column.message);
  const how = column.total ? `${number(column.done)} of ${number(column.total)}` : column.state === "working" ? "in progress" : "waiting";
  return h("p", { class: "soft" }, `Not ready yet: ${how}.`);
}

export function renderColumns(models, items, context) {
  const first = models[0].state === "ready" ? models[0] : null;
  const draw = context.captions ? captionHit : imageHit;
  const words = models.flatMap((column) => column.hits ?? []).flatMap((hit) => (items[hit.item].label ?? "").split(" "));
  return models.map((column, place) => {
    const heading = `model-${place}`;
    const children = [h("h3", { id: heading, tabindex: "-1" }, column.name)];
    if (column.state !== "ready") children.push(waiting(column));
    else {
      children.push(h("div", { class: "summary" }, ...summary(column, place ? first : null, context)));
      const hits = column.hits.map((hit) => draw(hit, column, place ? first : null, items[hit.item], context));
      const list = h("ol", { class: context.captions ? "hits captions" : "hits" }, ...hits);
      // cells are as wide as the longest word of a label, so that no word is broken
      list.style.setProperty("--longest", Math.min(20, Math.max(0, ...words.map((word) => word.length))));
      children.push(list);
    }
    return h("section", { class: "column", "aria-labelledby": heading }, ...children);
  });
}

// for screen readers
export function sayResults(models, context) {
  const ready = models.filter((column) => column.state === "ready");
  if (!ready.length) return "No model is ready yet.";
  const what = context.captions ? "caption" : "picture";
  const parts = [`${countOf(ready[0].hits.length, what)} of ${number(ready[0].size)} under ${countOf(ready.length, "model")}.`];
  if (context.framed) {
    const ranks = ready.map((c) => `${c.name} ${c.best_target === null ? `beyond ${number(c.known - 1)}` : number(c.best_target)}`);
    parts.push(`Rank of the first of ${context.framed}: ${ranks.join(", ")}.`);
  }
  return parts.join(" ");
}
