"use strict";
(() => {
  const text = JSON.parse(document.getElementById("text").textContent);
  const root = document.documentElement;

  // Tables: a click on a column's title sorts by it, a second click turns the order around. N/A stays last.
  const absent = (cell) => cell === "" || cell.startsWith("N/A");
  const number = (cell) => {
    const found = /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?/i.exec(cell);
    if (!found) return null;
    const unit = /^\s*MiB/.test(cell.slice(found[0].length)) ? 1 / 1024 : 1;
    return parseFloat(found[0].replaceAll(",", "")) * unit;
  };
  const plain = (cell) => cell.textContent.trim();

  function sortBy(table, column, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, cell: plain(row.cells[column]) }));
    const numeric = rows.every(({ cell }) => absent(cell) || number(cell) !== null);
    rows.sort((a, b) => {
      if (absent(a.cell) || absent(b.cell)) return absent(a.cell) - absent(b.cell);
      const order = numeric ? number(a.cell) - number(b.cell) : a.cell.localeCompare(b.cell, undefined, { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows.map(({ row }) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => sortBy(table, column, heading));
      const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
      const numeric = column > 0 && cells.every((cell) => absent(plain(cell)) || number(plain(cell)) !== null);
      if (numeric) heading.classList.add("number");
      for (const cell of cells) {
        if (numeric) cell.classList.add("number");
        if (absent(plain(cell))) cell.classList.add("absent");
      }
    });
  }

  // Light, dark, or as the system has it.
  const button = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  let theme = 0;
  const label = () => { button.textContent = "◐ " + text[themes[theme]]; };
  button.hidden = false;
  label();
  button.addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    if (theme) root.dataset.theme = themes[theme]; else delete root.dataset.theme;
    label();
  });

  // Lost answers by task and variant.
  const exhibits = [...document.querySelectorAll(".exhibit")];
  const filters = document.querySelector(".filters");
  if (filters) {
    const [byTask, byVariant] = ["by-task", "by-variant"].map((id) => document.getElementById(id));
    const variants = (one) => JSON.parse(one.dataset.variants);
    const fill = (select, names) => {
      for (const name of new Set(names)) select.append(new Option(name, name));
      select.parentElement.hidden = select.options.length < 3;
    };
    fill(byTask, exhibits.map((one) => one.dataset.task));
    fill(byVariant, exhibits.flatMap(variants));
    const show = () => {
      for (const one of exhibits) {
        one.hidden = Boolean((byTask.value && one.dataset.task !== byTask.value) ||
          (byVariant.value && !variants(one).includes(byVariant.value)));
      }
      const count = exhibits.filter((one) => !one.hidden).length;
      document.getElementById("count").textContent = `${count} ${text["questions shown"]}`;
    };
    filters.hidden = false;
    filters.addEventListener("change", show);
    filters.addEventListener("submit", (event) => event.preventDefault());
    show();
  }

  // Whoever prints wants to see what is folded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("#tables details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });

  // Plots. Colours of text and axes come from the style sheet, so that they follow the theme and the printer.
  const config = {
    background: null, view: { stroke: null }, font: getComputedStyle(document.body).fontFamily,
    axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", domain: false, labelFlush: false },
    axisBand: { ticks: false, labelPadding: 6 }, axisXQuantitative: { labelOverlap: "parity", labelSeparation: 8 },
    legend: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 220, symbolOpacity: 1 },
  };
  const options = {
    renderer: "svg", config,
    actions: { export: true, source: false, compiled: false, editor: false },
    i18n: { SVG_ACTION: text["Save as SVG"], PNG_ACTION: text["Save as PNG"] },
  };
  const drawn = [...document.querySelectorAll(".plot")].map(async (figure) => {
    const canvas = figure.querySelector(".canvas");
    try {
      const spec = JSON.parse(figure.querySelector(".spec").textContent);
      await vegaEmbed(canvas, spec, { ...options, downloadFileName: figure.id });
      figure.dataset.drawn = "yes";
    } catch (error) {
      canvas.textContent = text["cannot be drawn here"];
      figure.dataset.drawn = "no";
      console.error(error);
    }
  });
  Promise.all(drawn).then(() => { document.body.dataset.ready = "yes"; });
})();
