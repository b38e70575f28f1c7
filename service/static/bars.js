// Classes -> bars.  The rows stay and change, so that they move instead of flickering.

import { element, find, write } from "./elements.js";
import { names, percent } from "./words.js";

const list = find("classes");

function makeRow() {
  const row = element("li");
  const label = element("label");
  const radio = Object.assign(element("input"), { type: "radio", name: "class", className: "unseen" });
  const line = element("span", "line");
  line.append(element("span", "label"), element("span", "wordnet"), element("span", "probability"));
  const track = element("span", "track");
  track.append(element("span", "bar"), element("span", "dots"));
  label.append(radio, line, track);
  row.append(label);
  return row;
}

function dots(place, shares) {
  while (place.children.length > shares.length) place.lastChild.remove();
  while (place.children.length < shares.length) place.append(element("i"));
  shares.forEach((share, number) => (place.children[number].style.left = `${100 * share}%`));
}

function fill(row, found, { views, chosen, selectable }) {
  const part = (name) => row.querySelector(`.${name}`);
  const { first, others } = names(found.label);
  write(part("label"), first);
  write(part("probability"), percent(found.probability));
  write(part("wordnet"), [found.wordnet_id, others].filter(Boolean).join(" · "));
  part("wordnet").title = others;
  part("bar").style.width = `${100 * found.probability}%`;
  const own = views.length < 2 ? [] : views.flatMap((view) => view.classes.filter(({ index }) => index === found.index));
  dots(part("dots"), own.map(({ probability }) => probability));
  const radio = row.querySelector("input");
  radio.value = found.index;
  radio.disabled = !selectable;
  radio.checked = selectable && found.index === chosen;
}

// `views` are those whose own shares are marked on the bars; `chosen` is a class's index.
export function showBars(classes, { views = [], chosen = null, selectable = false } = {}) {
  while (list.children.length > classes.length) list.lastChild.remove();
  while (list.children.length < classes.length) list.append(makeRow());
  list.classList.toggle("selectable", selectable);
  classes.forEach((found, place) => fill(list.children[place], found, { views, chosen, selectable }));
  find("barlegend").hidden = classes.length === 0;
  find("barlegend").classList.toggle("gone", views.length < 2);
}
