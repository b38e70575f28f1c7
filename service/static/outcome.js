// What came of a picture: its answer or its refusal, all parts of the page together.

import { showBars } from "./bars.js";
import { find, write } from "./elements.js";
import { showBox, showCopy, showHeat, showPicture, showWords } from "./stage.js";
import { showSteps } from "./steps.js";
import { showViews } from "./views.js";
import { agreement, guesses, names, percent, time } from "./words.js";

const UNSURE = Number(document.body.dataset.unsure); // page.py says where it comes from

const best = ({ classes: [{ label, probability }] }) => `${names(label).first}, ${percent(probability)}`;

// Whether the best class is more likely wrong than this page should say in large letters.
export const isUnsure = ({ classes: [{ probability }] }) => probability < UNSURE;

export function showOutcome({ picture, answer, prepared }) {
  const { problem } = answer;
  write(find("wrong"), problem?.message ?? "");
  find("again").hidden = !problem?.again;
  find("error").hidden = !problem || problem.status === 401; // the door says that
  find("evidence").hidden = Boolean(problem);
  showViews(problem ? { views: [] } : answer, prepared);
  showSteps(answer);
  if (!problem) write(find("status"), `${picture.name}: ${isUnsure(answer) ? "not sure; " : ""}${best(answer)}.`);
}

// The answer, or what the crop at `place` of it predicts by itself; `maps` are the classes'
// heatmaps, if they are to be seen.
export function showPlace({ picture, answer, prepared }, { place, maps, chosenClass, over }) {
  const { problem } = answer;
  showPicture(picture.name, prepared, { onlyCrop: Boolean(maps), answered: !problem, kind: picture.kind });
  showCopy(problem ? null : picture.copy);
  if (problem) {
    showWords({ over: picture.name, best: problem.status === 401 ? "No answer yet" : "No answer", sentence: "" });
    showBars([]);
    showBox(null);
    return showHeat(null, null);
  }
  const view = place === null ? null : answer.views[place];
  showWords(view ? ofView(view, answer) : ofAnswer(picture, answer, over));
  const selectable = Boolean(maps) && !view;
  showBars((view ?? answer).classes, { views: view ? [] : answer.views, chosen: chosenClass, selectable });
  showBox(view);
  const isChosen = ({ index }) => index === chosenClass;
  showHeat(prepared, maps?.find(isChosen) ?? null, { maps, label: answer.classes.find(isChosen)?.label });
}

function ofAnswer(picture, answer, over) {
  const { classes } = answer;
  const unsure = isUnsure(answer);
  return {
    over: `${picture.name} · ${over} · ${time(answer.time)}`,
    best: unsure ? "Not sure" : names(classes[0].label).first,
    sentence: unsure ? `Best guesses: ${guesses(classes)}. ${agreement(answer)}` : agreement(answer),
  };
}

function ofView(view, answer) {
  return {
    over: `This crop alone: ${view.name}${view.mirrored ? ", mirrored" : ""}`,
    best: names(view.classes[0].label).first,
    sentence: `Average of all crops: ${best(answer)}.`,
  };
}
