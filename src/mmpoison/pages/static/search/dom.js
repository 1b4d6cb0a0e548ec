// Builds elements. Text goes in as text: nothing that comes from data is ever read as markup.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const number = (value) => value.toLocaleString("en");

export function countOf(count, one, several = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : several}`;
}

// an image's alternative text: its caption, else its label and id
export function alternative(facts) {
  return facts.caption || [facts.label, facts.id].filter(Boolean).join(", ");
}

export function picture(data, image, facts, side = "small") {
  const address = `/api/image?${new URLSearchParams({ data, image, side })}`;
  return h("img", { src: address, alt: alternative(facts), loading: "lazy", decoding: "async" });
}
