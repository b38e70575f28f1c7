// Pictures given -> asked about in a modest number at a time -> what is known of the one selected.
// What is shown together belongs together: an answer stays until the next picture has its own.

import { Refusal, ask } from "./asking.js";
import { chosenCrops, offered, showChoices, showFold, watchCompare, watchCrops } from "./choices.js";
import { showCode, showJson, watchCopies } from "./code.js";
import { closeDoor, key, openDoor, watchDoor } from "./door.js";
import { find, tell, write } from "./elements.js";
import { showFiles, watchFiles } from "./files.js";
import { watchGifts } from "./giving.js";
import { heating, stopHeating, watchHeating } from "./heating.js";
import { watchLabels } from "./labels.js";
import { Line } from "./line.js";
import { showOutcome, showPlace } from "./outcome.js";
import { Picture } from "./picture.js";
import { showSamples, watchSamples } from "./samples.js";
import { chooseAll, watchViews } from "./views.js";
import { watchWebcam } from "./webcam.js";

const MOST = 100; // pictures kept, of 1.8 MB of memory each; older ones make room
const TOO_LARGE = 413; // the status that says so, from the server or from a proxy before it
const CALM = 250; // ms; a shorter wait is not worth a word

const line = new Line(2);
const samples = new Map(); // file -> its picture
let given = []; // the pictures that people brought
let selected = null; // the picture to show once it has its answer
let shown = null; // {picture, crops, answer}: what the page shows now
let place = null; // of the view that is shown by itself
let compared = null; // the picture whose choices of crops are compared
let chosenClass = null; // its index, for the heatmap
let keyed = document.body.dataset.keyed === "true"; // whether the server wants a key
let looking = 0; // the timer of the word that we wait

const wantsHeat = () => find("heatswitch").checked;

// Ask for one answer, unless it is known or asked for.
function request(picture, crops) {
  if (picture.answers.has(crops)) return;
  picture.answers.set(crops, {});
  line.add(
    async () => {
      picture.answers.set(crops, await answerOf(picture, crops, "views"));
      show();
    },
    () => rank(picture, crops),
    () => picture.answers.delete(crops),
  );
}

// What the server takes is sent as it is; what is too large for it, as a smaller copy.
async function askAbout(picture, how) {
  const file = await picture.open();
  try {
    return await ask(file, how);
  } catch (problem) {
    if (problem.status !== TOO_LARGE || !(await picture.shrink(file))) throw problem;
    return askAbout(picture, how);
  }
}

async function answerOf(picture, crops, details, signal) {
  try {
    return await askAbout(picture, { crops, details, key, signal });
  } catch (problem) {
    if (!(problem instanceof Refusal)) throw problem;
    if (problem.status === 401) {
      keyed = true;
      openDoor(problem.message);
    }
    return { problem };
  }
}

// For `Line`: the selected picture first, then the others, then what is but for comparison.
function rank(picture, crops) {
  const chosen = crops === chosenCrops().value;
  if (picture === selected) return chosen ? 0 : 2;
  return chosen && given.includes(picture) ? 1 : null;
}

function select(picture) {
  if (picture !== selected) switchHeatOff();
  selected = picture;
  picture.urgent = true;
  chooseAll();
  place = null;
  show();
}

function give(files) {
  const added = files.slice(0, MOST).map((file) => new Picture(file.name, { file }));
  given = [...given, ...added].slice(-MOST);
  for (const picture of added) request(picture, chosenCrops().value);
  select(added[0]);
  const many = `The page looks at ${MOST} pictures at a time: the first of your ${files.length}.`;
  write(find("note"), files.length > MOST ? many : "");
}

// Takes away all that were given; what is shown stays.
function clear() {
  given = [];
  write(find("note"), "");
  show();
}

function giveSample(file, name) {
  if (!samples.has(file)) samples.set(file, new Picture(name, { sample: `static/samples/${file}` }));
  select(samples.get(file));
}

// Whatever has changed, bring the page up to date.
function show() {
  const { value: crops } = chosenCrops();
  showSamples(selected);
  showFiles(given, selected, crops, select);
  showFold(selected?.answers.get(crops));
  if (!selected) return showCode(null, { crops, details: "views", keyed });
  for (const picture of [selected, ...given]) request(picture, crops);
  const answer = selected.answers.get(crops);
  if (answer?.classes || answer?.problem) return commit(selected, crops, answer);
  clearTimeout(looking);
  looking = setTimeout(() => tell(find("busy"), `Classifying ${selected.name} …`), CALM);
}

async function commit(picture, crops, answer) {
  const prepared = await picture.prepared;
  if (picture !== selected || crops !== chosenCrops().value) return;
  clearTimeout(looking);
  tell(find("busy"), "");
  const isNew = shown?.answer !== answer;
  shown = { picture, crops, answer, prepared };
  if (isNew) {
    chosenClass = answer.classes?.[0].index;
    if (!answer.views?.[place]) place = null;
    showOutcome(shown);
    if (answer.classes) closeDoor();
  }
  showChoices(picture.answers);
  showCode(picture, { crops, details: wantsHeat() ? "views,heatmap" : "views", keyed });
  showJson(answer);
  showSelected();
  if (answer.problem) return;
  if (compared === picture) compare(picture);
  if (wantsHeat()) requestHeat(picture, crops);
}

// The other choices one after the other: side by side they would take each other's time.
function compare(picture) {
  const known = [...picture.answers.values()].every((answer) => answer.classes || answer.problem);
  const next = offered.find((crops) => !picture.answers.has(crops));
  if (known && next) request(picture, next);
}

function showSelected() {
  const maps = wantsHeat() ? shown.picture.heats.get(shown.crops)?.heatmap?.classes : null;
  showPlace(shown, { place, maps, chosenClass, over: chosenCrops().name });
}

function switchHeatOff() {
  find("heatswitch").checked = false;
  stopHeating();
}

function requestHeat(picture, crops) {
  if (picture.heats.has(crops)) return;
  picture.heats.set(crops, {});
  const wanted = () => picture === selected && wantsHeat();
  line.add(
    async () => {
      const found = await findHeat(picture, crops);
      if (found?.heatmap) picture.heats.set(crops, found);
      else picture.heats.delete(crops);
      if (found?.problem && picture === selected) switchHeatOff();
      write(find("note"), found?.problem?.message ?? "");
      show();
    },
    () => (wanted() ? 0 : null),
    () => picture.heats.delete(crops),
  );
}

// An answer with a heatmap, a refusal as {problem}, or null if it was cancelled.
async function findHeat(picture, crops) {
  const { run } = picture.answers.get(crops)?.steps ?? {};
  try {
    return await heating((signal) => answerOf(picture, crops, "heatmap", signal), run);
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error;
  }
}

const say = (trouble) => write(find("note"), trouble);
watchGifts(give, say);
watchWebcam((file) => give([file]), say);
watchCrops(show);
watchCompare(() => {
  compared = selected;
  if (shown) show();
});
watchFiles(select, clear);
watchHeating(() => {
  switchHeatOff();
  show();
});
watchViews((at) => {
  place = at;
  if (shown) showSelected();
});
watchDoor(() => {
  for (const picture of [...given, ...samples.values()]) picture.forget(({ status }) => status === 401);
  if (selected) show();
  else example?.click();
});
watchCopies();
watchLabels();
find("again").addEventListener("click", () => {
  for (const picture of [...given, ...samples.values()]) picture.forget(({ again }) => again);
  show();
});
find("heatswitch").addEventListener("change", () => {
  if (!wantsHeat()) stopHeating();
  show();
});
find("classes").addEventListener("change", (event) => {
  chosenClass = Number(event.target.value);
  showSelected();
});

// Something to see at once; not where it would but ask for a key, nor for nobody.
const example = watchSamples(giveSample);
const begin = () => {
  if (document.hidden || selected) return;
  document.removeEventListener("visibilitychange", begin);
  example?.click();
};
show();
if (!keyed) {
  document.addEventListener("visibilitychange", begin);
  begin();
}
