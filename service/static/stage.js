// The large picture, what lies over it, and the words above the bars.

import { find, tell, write } from "./elements.js";
import { drawHeat, drawScale, heatWords } from "./heat.js";
import { names, share } from "./words.js";

const [frame, stage, picture, crop, heat, box, placeholder] = ["frame", "stage", "picture", "crop", "heat", "box", "placeholder"].map(find);
const WHOLE = { left: 0, top: 0, width: 1, height: 1 };
const NEARLY = 0.995; // of the picture: an outline would say nothing
let linked = null; // the copy that can be saved

function lay(element, { left, top, width, height }) {
  const percent = (part) => `${100 * part}%`;
  Object.assign(element.style, { left: percent(left), top: percent(top), width: percent(width), height: percent(height) });
}

// The whole picture with its crop outlined; or the crop alone, as large as there is room, for a heatmap.
function draw({ whole, square, crop: part }, onlyCrop) {
  const shown = onlyCrop ? square : whole;
  [picture.width, picture.height] = [shown.width, shown.height];
  picture.getContext("2d").drawImage(shown, 0, 0);
  stage.style.setProperty("--ratio", shown.width / shown.height);
  lay(crop, onlyCrop ? WHOLE : part);
  crop.classList.toggle("outlined", !onlyCrop && part.width * part.height < NEARLY);
}

function explain({ crop: part }, onlyCrop) {
  const area = part.width * part.height;
  if (area >= NEARLY) return "The network gets the whole picture.";
  const shown = onlyCrop ? "Shown here is the central square" : "The network gets the outlined square";
  return `${shown}: ${share(area)} of the picture.`;
}

// `kind` of file, such as HEIC; `answered` whether the server could read it.
export function showPicture(name, prepared, { onlyCrop = false, answered = false, kind = "" } = {}) {
  stage.hidden = !prepared;
  frame.classList.toggle("empty", !prepared);
  if (prepared) draw(prepared, onlyCrop);
  picture.setAttribute("aria-label", onlyCrop ? `${name}, its central square` : name);
  write(find("cropnote"), prepared ? explain(prepared, onlyCrop) : "");
  const blind = `Your browser cannot show this ${kind || "file"}${kind ? " file" : ""}.`;
  tell(placeholder, prepared ? "" : answered ? `${blind} The server can: its answer is shown.` : blind);
}

// `copy` is what was sent in place of a file that is too large, or null.
export function showCopy(copy) {
  find("copy").hidden = !copy;
  if (!copy || copy === linked) return;
  linked = copy;
  const { file, width, height } = copy;
  write(find("copywords"), `The file is larger than this server takes. The answer is of a smaller copy, ${width} x ${height} pixels.`);
  const link = find("copylink");
  URL.revokeObjectURL(link.href);
  Object.assign(link, { href: URL.createObjectURL(file), download: file.name });
}

// A view's outline; none where the whole is shown, or where nobody knows its place.
export function showBox(view) {
  box.hidden = find("boxname").hidden = !view?.box;
  if (box.hidden) return;
  const { left, top, side } = view.box;
  lay(box, { left: left / 256, top: top / 256, width: side / 256, height: side / 256 });
  write(find("boxname"), view.mirrored ? `${view.name}, mirrored` : view.name);
}

// `map` is one class's of an answer's heatmap, or null; `maps` are all of them, which share a scale.
export function showHeat(prepared, map, { maps = [], label = "" } = {}) {
  heat.hidden = !(map && prepared);
  find("heatlegend").hidden = !map;
  if (!map) return;
  const scale = maps.flatMap(({ values }) => values);
  if (prepared) drawHeat(prepared.square, map.values, scale);
  drawScale(scale);
  const words = heatWords(map.values, names(label).first);
  write(find("heatwords"), words);
  write(find("status"), words);
}

export function showWords({ over, best, sentence }) {
  write(find("whose"), over);
  write(find("best"), best);
  write(find("sentence"), sentence);
}
