// The crops as they were cut, each with its own best class: what the averaging averages.

import { find, write } from "./elements.js";
import { cut } from "./prepared.js";
import { count, names, percent } from "./words.js";

const NUMBERS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten"];
const fieldset = find("views");
const cards = [...fieldset.querySelectorAll("[data-view]")];
const centre = cards.findIndex((card) => card.classList.contains("centre"));

// The answer's place in `views` -> its card: one crop is the centre's.
const cardOf = (views, place) => cards[views.length === 1 ? centre : place];

const title = (number) => `The ${(NUMBERS[number] ?? String(number)).toLowerCase()} crop${number === 1 ? "" : "s"}`;

export function showViews({ classes, views }, prepared) {
  find("viewsection").hidden = views.length === 0;
  fieldset.classList.toggle("alone", views.length === 1);
  const shown = views.map((view, place) => cardOf(views, place));
  for (const card of cards) card.hidden = !shown.includes(card);
  views.forEach((view, place) => {
    const [card, best] = [shown[place], view.classes[0]];
    const canvas = card.querySelector("canvas");
    canvas.hidden = !(prepared && view.box);
    if (!canvas.hidden) cut(canvas, prepared.square, view);
    card.classList.toggle("dissent", best.index !== classes[0].index);
    write(card.querySelector("b"), names(best.label).first);
    write(card.querySelector(".share"), percent(best.probability));
  });
  if (views.length === 0) return;
  drawAll(prepared);
  write(find("meanshare"), percent(classes[0].probability));
  write(find("viewshead"), title(views.length));
  write(find("viewsentence"), explain(views));
}

// The picture of the average.
function drawAll(prepared) {
  const canvas = find("meanpicture");
  canvas.hidden = !prepared;
  if (prepared) canvas.getContext("2d").drawImage(prepared.square, 0, 0);
}

function explain(views) {
  const side = views[0]?.box?.side;
  const cutting = side ? `${count(side, "pixel")} wide, cut from the central 256 × 256` : "cut from the central square";
  if (views.length === 1) return `The centre of the picture, ${cutting}.`;
  const pointing = matchMedia("(hover: hover)").matches ? "Hover over" : "Choose";
  return `Corners, centre and their mirror images, ${cutting}. ${pointing} one to see what it predicts alone.`;
}

// Where the pointer was seen last.  A page that moves below it makes `pointerover` too, and nobody
// has pointed at anything.
const pointer = { x: -1, y: -1 };
for (const kind of ["pointermove", "pointerdown"]) {
  addEventListener(kind, ({ clientX: x, clientY: y }) => Object.assign(pointer, { x, y }), { capture: true });
}
const hasMoved = ({ clientX, clientY }) => clientX !== pointer.x || clientY !== pointer.y;

// Calls `onShow` with a view's place in the answer, or null for all of them: while it is pointed
// at, and for as long as it is chosen; Escape ends that.
export function watchViews(onShow) {
  const chosen = () => fieldset.querySelector("input:checked").value;
  const shown = (value) => {
    if (value === "") return null;
    return fieldset.classList.contains("alone") ? 0 : Number(value);
  };
  fieldset.addEventListener("change", () => onShow(shown(chosen())));
  fieldset.addEventListener("pointerover", (event) => {
    const card = event.target.closest(".view");
    if (event.pointerType === "mouse" && hasMoved(event)) onShow(shown(card ? card.querySelector("input").value : chosen()));
  });
  fieldset.addEventListener("pointerleave", () => onShow(shown(chosen())));
  addEventListener("keydown", ({ key }) => {
    if (key !== "Escape" || chosen() === "") return;
    chooseAll();
    if (fieldset.contains(document.activeElement)) fieldset.querySelector("input").focus();
    onShow(null);
  });
}

export function chooseAll() {
  fieldset.querySelector("input").checked = true;
}
