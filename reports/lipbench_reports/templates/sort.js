"use strict";
// The button in a column head sorts the table: ascending, then descending. Cells without a value stay last both ways.
for (const button of document.querySelectorAll("th[aria-sort] button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const keys = new Map([...body.rows].map((row) => [row, row.cells[head.cellIndex].dataset.sort]));
    const filled = [...keys.values()].filter((key) => key !== "");
    const numeric = filled.every((key) => Number.isFinite(Number(key)));
    const compare = (a, b) => numeric ? a - b : a.localeCompare(b);
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return direction * compare(a, b);
    });
    for (const other of head.parentElement.cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    body.append(...rows);
  });
}
