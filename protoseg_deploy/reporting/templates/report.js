"use strict";
/* Sorting of tables and sliders between pictures; the page is complete without. */

function numberOf(text) {
  const cleaned = text.replace(/[,\s%]/g, "").replace("−", "-").replace("<1", "0.5").replace("·", "0");
  const found = /^[+±]?(-?\d+(\.\d+)?)/.exec(cleaned);
  return found ? Number(found[1]) : null;
}

function sortBy(table, column, ascending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
  const numbers = rows.every(({ text }) => text === "–" || text === "" || numberOf(text) !== null);
  rows.sort((one, other) => {
    const left = numbers ? numberOf(one.text) : one.text;
    const right = numbers ? numberOf(other.text) : other.text;
    if (left === null || right === null) return (left === null) - (right === null);
    const order = numbers ? left - right : left.localeCompare(right);
    return ascending ? order : -order;
  });
  body.append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, column, ascending);
    });
  });
}

function choice(label, figures, chosen, change) {
  const select = document.createElement("select");
  select.setAttribute("aria-label", label);
  figures.forEach((figure, number) => select.append(new Option(figure.dataset.name, String(number))));
  select.value = String(chosen);
  select.addEventListener("change", change);
  return select;
}

for (const panel of document.querySelectorAll(".panel")) {
  const figures = [...panel.querySelectorAll("figure[data-name]")];
  if (figures.length < 2) continue;
  const box = document.createElement("div");
  box.className = "compare";
  const stage = document.createElement("div");
  stage.className = "stage";
  const [left, right] = [document.createElement("img"), document.createElement("img")];
  const show = () => {
    for (const [image, select] of [[left, first], [right, second]]) {
      const source = figures[Number(select.value)].querySelector("img");
      image.src = source.src;
      image.alt = source.alt;
      image.width = source.width;
      image.height = source.height;
    }
  };
  const prediction = figures.findIndex((figure) => figure.dataset.role === "prediction");
  const first = choice("Picture on the left", figures, 0, show);
  const second = choice("Picture on the right", figures, prediction < 0 ? 1 : prediction, show);
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = "0";
  slider.max = "100";
  slider.value = "50";
  slider.setAttribute("aria-label", `How much of the left picture of ${panel.dataset.file} is seen`);
  const place = () => {
    right.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    stage.style.setProperty("--at", slider.value);
  };
  slider.addEventListener("input", place);
  const controls = document.createElement("div");
  controls.className = "controls";
  stage.append(left, right);
  controls.append(first, slider, second);
  box.append(stage, controls);
  panel.append(box);
  show();
  place();
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
