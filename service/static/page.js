// Pictures given -> asked about in a modest number at a time -> what is known of the one selected.
// What is shown together belongs together: an answer stays until the next picture has its own.

import { Refusal, ask } from "./asking.js";
import { chosenCrops, offered, showChoices, watchCrops } from "./choices.js";
import { showCode, watchCopies } from "./code.js";
import { closeDoor, key, openDoor, watchDoor } from "./door.js";
import { find, tell, write } from "./elements.js";
import { watchGifts } from "./giving.js";
import { Line } from "./line.js";
import { showOutcome, showPlace } from "./outcome.js";
import { Picture } from "./picture.js";
import { showStrip, watchSamples } from "./strip.js";
import { chooseAll, watchViews } from "./views.js";
import { count } from "./words.js";

const MOST = 48; // pictures kept; older ones make room
const CALM = 250; // ms; a shorter wait is not worth a word

const line = new Line(2);
const samples = new Map(); // file -> its picture
let given = []; // the pictures that people brought
let selected = null; // the picture to show once it has its answer
let shown = null; // {picture, crops, answer}: what the page shows now
let place = null; // of the view that is shown by itself
let chosenClass = null; // its index, for the evidence
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

async function answerOf(picture, crops, details) {
  try {
    const file = await picture.open();
    return await ask(file, { crops, details, key: key(), onWait });
  } catch (problem) {
    if (!(problem instanceof Refusal)) throw problem;
    if (problem.status === 401) {
      keyed = true;
      openDoor(problem.message);
    }
    return { problem };
  }
}

function onWait(seconds, status) {
  const why = status === 429 ? "Those were many pictures in a short time." : "The server is busy.";
  tell(find("busy"), `${why} Asking again in ${count(Math.ceil(seconds), "second")}.`);
}

// For `Line`: the selected picture first, then the others, then what is but for comparison.
function rank(picture, crops) {
  const chosen = crops === chosenCrops().value;
  if (picture === selected) return chosen ? 0 : 2;
  return chosen && given.includes(picture) ? 1 : null;
}

function select(picture) {
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

function giveSample(file, name) {
  if (!samples.has(file)) samples.set(file, new Picture(name, { sample: `static/samples/${file}` }));
  select(samples.get(file));
}

// Whatever has changed, bring the page up to date.
function show() {
  const { value: crops } = chosenCrops();
  showStrip(given, selected, crops, select);
  if (!selected) return showCode(null, { crops, details: "views", keyed });
  for (const picture of [selected, ...given]) request(picture, crops);
  const answer = selected.answers.get(crops);
  if (answer?.classes || answer?.problem) return commit(selected, crops, answer);
  clearTimeout(looking);
  looking = setTimeout(() => tell(find("busy"), `Looking at ${selected.name} …`), CALM);
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
  showSelected();
  if (answer.problem) return;
  compare(picture);
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

function requestHeat(picture, crops) {
  if (picture.heats.has(crops)) return;
  picture.heats.set(crops, {});
  line.add(
    async () => {
      tell(find("busy"), "Hiding one part after the other …");
      const found = await answerOf(picture, crops, "heatmap");
      tell(find("busy"), "");
      write(find("note"), found.problem?.message ?? "");
      if (found.problem) find("heatswitch").checked = false;
      if (found.problem) picture.heats.delete(crops);
      else picture.heats.set(crops, found);
      show();
    },
    () => (picture === selected ? 0 : null),
    () => picture.heats.delete(crops),
  );
}

watchGifts(give, (trouble) => write(find("note"), trouble));
watchCrops(show);
watchViews((at) => {
  place = at;
  if (shown) showSelected();
});
watchDoor(() => {
  for (const picture of [...given, ...samples.values()]) picture.forget(401);
  if (selected) show();
  else example?.click();
});
watchCopies();
find("again").addEventListener("click", () => {
  selected.forget();
  show();
});
find("heatswitch").addEventListener("change", show);
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
