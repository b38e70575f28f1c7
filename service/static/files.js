// Several pictures: a table with the answer or the error of each, to filter, to walk through, to copy.

import { copies } from "./copying.js";
import { element, find, write } from "./elements.js";
import { isUnsure } from "./outcome.js";
import { count, names, percent } from "./words.js";

const THUMB = 80; // pixels

const [section, rows, filter] = ["files", "rows", "filter"].map(find);
const made = new Map(); // picture -> its row
let listed = { pictures: [], crops: "", selected: null };

function make(picture, onPick) {
  const row = element("tr");
  const thumb = element("td", "thumb");
  const canvas = Object.assign(element("canvas"), { width: THUMB, height: THUMB });
  canvas.setAttribute("aria-hidden", "true");
  thumb.append(canvas);
  const name = Object.assign(element("th"), { scope: "row" });
  name.append(Object.assign(element("button", "name", picture.name), { type: "button" }));
  row.append(thumb, name, element("td", "said"), element("td", "probability"));
  row.addEventListener("click", () => onPick(picture));
  picture.prepared.then((prepared) => {
    if (prepared) canvas.getContext("2d").drawImage(prepared.square, 0, 0, THUMB, THUMB);
  });
  return row;
}

function fill(row, answer) {
  const [said, probability] = [".said", ".probability"].map((part) => row.querySelector(part));
  row.classList.toggle("wrong", Boolean(answer?.problem));
  row.classList.toggle("unsure", Boolean(answer?.classes && isUnsure(answer)));
  const best = answer?.classes?.[0];
  write(said, answer?.problem?.message ?? (best ? names(best.label).first : "…"));
  write(probability, best ? percent(best.probability) : "");
  said.colSpan = answer?.problem ? 2 : 1; // a sentence wants room
  probability.hidden = Boolean(answer?.problem);
}

function keep(pictures, onPick) {
  for (const [picture, row] of made) {
    if (pictures.includes(picture)) continue;
    row.remove();
    made.delete(picture);
  }
  for (const picture of pictures) {
    if (made.has(picture)) continue;
    made.set(picture, make(picture, onPick));
    rows.append(made.get(picture));
  }
}

function sift() {
  const wanted = filter.value.trim().toLowerCase();
  for (const row of made.values()) row.hidden = !row.textContent.toLowerCase().includes(wanted);
}

function summary(pictures, crops) {
  const answers = pictures.map((picture) => picture.answers.get(crops));
  const done = answers.filter((answer) => answer?.classes).length;
  const failed = answers.filter((answer) => answer?.problem).length;
  const words = [`${done} of ${count(pictures.length, "picture")} classified`, failed ? `${failed} failed` : ""];
  return words.filter(Boolean).join(", ");
}

// Whatever has changed of the pictures that were given.
export function showFiles(pictures, selected, crops, onPick) {
  const moved = selected !== listed.selected;
  listed = { pictures, crops, selected };
  section.hidden = pictures.length < 2;
  find("walk").hidden = pictures.length < 2;
  keep(pictures, onPick);
  for (const [picture, row] of made) {
    fill(row, picture.answers.get(crops));
    row.classList.toggle("selected", picture === selected);
    row.querySelector("button").setAttribute("aria-pressed", picture === selected);
  }
  sift();
  write(find("filecount"), summary(pictures, crops));
  const place = pictures.indexOf(selected);
  write(find("walked"), place < 0 ? count(pictures.length, "picture") : `${place + 1} of ${pictures.length}`);
  if (moved && made.has(selected)) reveal(made.get(selected));
}

// Scrolls the table, never the page.
function reveal(row) {
  const box = section.querySelector(".scroll");
  const head = box.querySelector("thead").offsetHeight;
  const [top, bottom] = [row.offsetTop - head, row.offsetTop + row.offsetHeight];
  if (top < box.scrollTop) box.scrollTop = top;
  else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
}

// A file's row as the copied text has it.
function record({ name, answers }) {
  const answer = answers.get(listed.crops);
  if (answer?.problem) return { filename: name, error: answer.problem.message };
  return { filename: name, classes: answer?.classes ?? [] };
}

const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

function asCsv() {
  const lines = listed.pictures.map(record).map(({ filename, classes, error = "" }) => {
    const { index = "", wordnet_id = "", label = "", probability = "" } = classes?.[0] ?? {};
    return [filename, index, wordnet_id ?? "", label, probability, error].map((cell) => quoted(String(cell))).join(",");
  });
  return ["filename,index,wordnet_id,label,probability,error", ...lines, ""].join("\n");
}

const asJson = () => JSON.stringify(listed.pictures.map(record), null, 2);

export function watchFiles(onPick, onClear) {
  filter.addEventListener("input", sift);
  copies(find("copycsv"), asCsv);
  copies(find("copyjson"), asJson);
  find("clear").addEventListener("click", onClear);
  const walk = (step) => {
    const { pictures, selected } = listed;
    const place = pictures.indexOf(selected) + step; // a sample's is -1
    onPick(pictures[(place + pictures.length) % pictures.length]);
  };
  find("previous").addEventListener("click", () => walk(-1));
  find("next").addEventListener("click", () => walk(1));
}
