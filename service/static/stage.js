// The large picture, what lies over it, and the words above the bars.

import { find, tell, write } from "./elements.js";
import { drawHeat, drawScale, heatWords } from "./heat.js";
import { names } from "./words.js";

const [picture, heat, box, placeholder] = ["picture", "heat", "box", "placeholder"].map(find);

export function showPicture(name, prepared) {
  const context = picture.getContext("2d");
  context.clearRect(0, 0, picture.width, picture.height);
  if (prepared) context.drawImage(prepared.fine, 0, 0);
  picture.setAttribute("aria-label", `${name}, its central square`);
  find("frame").classList.toggle("empty", !prepared);
  tell(placeholder, prepared ? "" : "Your browser cannot show this file.");
}

// A view's outline; none where the whole is shown, or where nobody knows its place.
export function showBox(view) {
  box.hidden = !view?.box;
  if (box.hidden) return;
  const share = (pixels) => `${(100 * pixels) / 256}%`;
  Object.assign(box.style, { left: share(view.box.left), top: share(view.box.top) });
  Object.assign(box.style, { width: share(view.box.side), height: share(view.box.side) });
  write(find("boxname"), view.mirrored ? `${view.name}, mirrored` : view.name);
}

// `map` is one class's of an answer's heatmap, or null.
export function showHeat(prepared, map, label) {
  heat.hidden = !(map && prepared);
  find("heatlegend").hidden = !map;
  if (!map) return;
  if (prepared) drawHeat(prepared.square, map.values);
  drawScale(map.values);
  const words = heatWords(map.values, names(label).first);
  write(find("heatwords"), words);
  write(find("status"), words);
}

export function showWords({ over, best, sentence }) {
  write(find("whose"), over);
  write(find("best"), best);
  write(find("sentence"), sentence);
}
