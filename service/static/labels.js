// The list of the model's classes, which the page brings, and its filter.

import { find, write } from "./elements.js";

const [filter, list, counted] = ["labelfilter", "labellist", "labelcount"].map(find);

function sift() {
  const wanted = filter.value.trim().toLowerCase();
  const rows = [...list.children];
  for (const row of rows) row.hidden = !`${row.value} ${row.textContent}`.toLowerCase().includes(wanted);
  write(counted, wanted ? `${rows.filter(({ hidden }) => !hidden).length} of ${rows.length}` : "");
}

export const watchLabels = () => filter.addEventListener("input", sift);
