// Sorts rows by a click on the header of their table, and unfolds what a link leads to.
const number = (text) => parseFloat(text.replace(/^[<>] |,(?=\d{3})/g, ""));
const compare = (a, b) => number(a) - number(b) || a.localeCompare(b, "en", { numeric: true });
for (const head of document.querySelectorAll(".sortable thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  head.ariaSort = "none";
  button.addEventListener("click", () => {
    const way = head.ariaSort === "ascending" ? "descending" : "ascending";
    for (const other of head.parentNode.children) other.ariaSort = "none";
    head.ariaSort = way;
    const body = head.closest("table").tBodies[0];
    const text = (row) => row.cells[head.cellIndex].textContent;
    const known = [...body.rows].filter((row) => !["", "–"].includes(text(row)));
    known.sort((a, b) => compare(text(a), text(b)) * (way === "ascending" ? 1 : -1));
    body.prepend(...known);
  });
}
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target?.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
