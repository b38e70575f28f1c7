// The list of the model's classes, which the page brings, and its filter.

import { find, write } from "./elements.js";

const [filter, list, counted] = ["labelfilter", "labellist", "labelcount"].map(find);

function sift() {
  const wanted = filter.value.trim().toLowerCase();
  const rows = [...list.children];
  for (const row of rows) row.hidden = !`${row.value} ${row.textContent}`.toLowerCase().includes(wanted);
  write(counted, wanted ? `${rows.filter(({ hidden }) => !hidden).length} of ${rows.length}` : "");
}

export function watchLabels() {
  // A thousand rows take as long to lay out as all the rest of the page: they wait until they are looked at.
  const fill = () => list.replaceChildren(list.firstElementChild.content);
  find("labels").addEventListener("toggle", fill, { once: true });
  filter.addEventListener("input", sift);
}
