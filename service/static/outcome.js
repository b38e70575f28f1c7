// What came of a picture: its answer or its refusal, all parts of the page together.

import { showBars } from "./bars.js";
import { find, write } from "./elements.js";
import { showBox, showHeat, showPicture, showWords } from "./stage.js";
import { showSteps } from "./steps.js";
import { showViews } from "./views.js";
import { agreement, names, percent, time } from "./words.js";

const best = ({ classes: [{ label, probability }] }) => `${names(label).first}, ${percent(probability)}.`;

export function showOutcome({ picture, answer, prepared }) {
  const { problem } = answer;
  showPicture(picture.name, prepared);
  write(find("wrong"), problem?.message ?? "");
  find("again").hidden = !problem?.again;
  find("error").hidden = !problem || problem.status === 401; // the door says that
  find("evidence").hidden = Boolean(problem);
  showViews(problem ? { views: [] } : answer, prepared);
  showSteps(answer);
  if (!problem) write(find("status"), `${picture.name}: ${best(answer)}`);
}

// The answer, or what the view at `place` of it says by itself; `maps` are the classes' evidence,
// if it is to be seen.
export function showPlace({ picture, answer, prepared }, { place, maps, chosenClass, over }) {
  if (answer.problem) {
    showWords({ over: picture.name, best: answer.problem.status === 401 ? "No answer yet" : "No answer", sentence: "" });
    showBars([]);
    showBox(null);
    return showHeat(null, null);
  }
  const view = place === null ? null : answer.views[place];
  const { classes } = view ?? answer;
  const own = view ? ["By itself: ", view.name, view.mirrored ? ", mirrored" : ""] : [];
  showWords({
    over: own.join("") || `${picture.name} · ${over} · ${time(answer.time)}`,
    best: names(classes[0].label).first,
    sentence: view ? `The mean of all is ${best(answer)}` : agreement(answer),
  });
  const selectable = Boolean(maps) && !view;
  showBars(classes, { views: view ? [] : answer.views, chosen: chosenClass, selectable });
  showBox(view);
  const isChosen = ({ index }) => index === chosenClass;
  showHeat(prepared, maps?.find(isChosen) ?? null, answer.classes.find(isChosen)?.label);
}
