// Thumbnails of the pictures that were given, each with its answer or its error.

import { element, find, write } from "./elements.js";
import { names, percent } from "./words.js";

const list = find("mine");
const samples = [...document.querySelectorAll("#samples button")];
const made = new Map(); // picture -> its list item
let seen = null; // the picture that was selected last, and brought into sight

function make(picture, onPick) {
  const item = element("li");
  const button = Object.assign(element("button"), { type: "button" });
  const canvas = Object.assign(element("canvas"), { width: 112, height: 112 });
  canvas.setAttribute("aria-hidden", "true");
  button.append(canvas, element("span", "name", picture.name), element("span", "said"));
  button.addEventListener("click", () => onPick(picture));
  item.append(button);
  picture.prepared.then((prepared) => {
    item.classList.toggle("blind", !prepared);
    if (prepared) canvas.getContext("2d").drawImage(prepared.square, 0, 0, 112, 112);
  });
  return item;
}

// The best answer of those that there are: the one for `crops`, if it is there.
function words(picture, crops) {
  const answer = picture.answers.get(crops);
  if (answer?.problem) return "no answer";
  if (!answer?.classes) return "…";
  const [{ label, probability }] = answer.classes;
  return `${names(label).first}\n${percent(probability)}`;
}

export function showStrip(pictures, selected, crops, onPick) {
  for (const [picture, item] of made) {
    if (pictures.includes(picture)) continue;
    item.remove();
    made.delete(picture);
  }
  for (const picture of pictures) {
    if (!made.has(picture)) {
      made.set(picture, make(picture, onPick));
      list.append(made.get(picture));
    }
    const item = made.get(picture);
    item.classList.toggle("wrong", Boolean(picture.answers.get(crops)?.problem));
    write(item.querySelector(".said"), words(picture, crops));
    item.querySelector("button").setAttribute("aria-pressed", picture === selected);
  }
  list.hidden = pictures.length === 0;
  if (selected !== seen) made.get(selected)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  seen = selected;
  for (const button of samples) {
    button.setAttribute("aria-pressed", selected?.sample === `static/samples/${button.dataset.file}`);
  }
}

export function watchSamples(onPick) {
  for (const button of samples) {
    button.addEventListener("click", () => onPick(button.dataset.file, button.querySelector(".name").textContent));
  }
  return samples[0];
}
