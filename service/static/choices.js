// Each choice of crops with its time and its best three, side by side.

import { element, find, write } from "./elements.js";
import { names, percent, time } from "./words.js";

const table = find("choices");

export const offered = [...table.querySelectorAll("tbody tr")].map((row) => row.dataset.crops);

export function chosenCrops() {
  const { value, dataset } = table.querySelector("input:checked");
  return { value, name: dataset.name };
}

export const watchCrops = (onChange) => table.addEventListener("change", onChange);

function best(classes) {
  const list = element("ol");
  for (const { label, probability } of classes.slice(0, 3)) {
    const entry = element("li");
    entry.append(element("span", "", names(label).first), " ", element("span", "share", percent(probability)));
    list.append(entry);
  }
  return list;
}

// What stands on the fold while it is closed.
export function showFold(answer) {
  write(find("foldwords"), [chosenCrops().name.toLowerCase(), answer?.classes ? time(answer.time) : ""].filter(Boolean).join(", "));
}

export const watchCompare = (onCompare) => find("compare")?.addEventListener("click", onCompare);

// `answers`: crops -> an answer, a refusal as {problem}, or nothing yet.
export function showChoices(answers) {
  for (const row of table.querySelectorAll("tbody tr")) {
    const answer = answers.get(row.dataset.crops);
    const three = row.querySelector(".three");
    write(row.querySelector(".time"), answer?.classes ? time(answer.time) : "–");
    if (answer?.classes) three.replaceChildren(best(answer.classes));
    else write(three, answer?.problem ? "no answer" : answer ? "…" : "–");
  }
}
