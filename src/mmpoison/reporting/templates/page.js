// Sorts a table by a click on a header, copies commands, and unfolds the target of a link.
for (const code of document.querySelectorAll("pre > code")) {
  const button = document.createElement("button");
  button.textContent = "Copy";
  button.addEventListener("click", () => {
    // navigator.clipboard is missing on http and in some browsers for files
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  code.before(button);
}
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
