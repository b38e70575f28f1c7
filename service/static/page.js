// A picture chosen or dropped -> POST v1/predict -> five bars, or the error's own words.
// All addresses are relative to the page, which may live below a proxy's path.

const find = (id) => document.getElementById(id);
const [drop, file, picture, invitation] = ["drop", "file", "picture", "invitation"].map(find);
const [state, error, classes, model, curl] = ["state", "error", "classes", "model", "curl"].map(find);
const [door, key] = ["door", "key"].map(find);

let chosen = null; // the picture shown, kept to ask again when the switch moves
let asking = null; // the request under way; a newer one ends it
// In memory alone, the field's own: browsers write sessionStorage to disk.  A password manager
// fills it in again after a reload.
let keyed = false; // whether the server has asked for a key

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function show(place, text) {
  place.textContent = text;
  place.hidden = text === "";
}

function percent(probability) {
  return probability < 0.001 ? "< 0.1 %" : `${(100 * probability).toFixed(1)} %`;
}

function row({ wordnet_id: wordnetId, label, probability }) {
  const line = element("div", "line");
  line.append(element("span", "label", label), element("span", "probability", percent(probability)));
  const track = element("div", "track");
  const bar = element("div", "bar");
  bar.style.width = `${100 * probability}%`;
  track.append(bar);
  const made = element("li", "class");
  made.append(line, track, element("span", "wordnet", wordnetId ?? ""));
  return made;
}

// The choice of crops that is set: the server wrote in the page which there are.
function crops() {
  const set = document.querySelector("input[name=crops]:checked");
  return { value: set.value, label: set.parentElement.querySelector("b").textContent };
}

function describeCurl() {
  const address = new URL("v1/predict", document.baseURI);
  if (crops().value !== "ten") address.searchParams.set("crops", crops().value);
  const told = chosen?.type ?? "image/jpeg";
  const type = told.startsWith("image/") ? told : "application/octet-stream";
  const name = (chosen?.name ?? "picture.jpg").replaceAll("'", "'\\''");
  const shown = keyed ? "-H 'Authorization: Bearer KEY' " : "";
  curl.textContent = `curl --data-binary '@${name}' -H 'Content-Type: ${type}' ${shown}'${address}'`;
}

function askForKey() {
  keyed = true;
  door.hidden = false;
  key.focus();
  describeCurl();
}

async function answer(signal) {
  const form = new FormData();
  form.append("file", chosen);
  const query = new URLSearchParams({ top: "5", crops: crops().value });
  const headers = key.value && key.validity.valid ? { Authorization: `Bearer ${key.value}` } : {};
  const reply = await fetch(`v1/predict?${query}`, { method: "POST", body: form, headers, signal });
  const body = await reply.json().catch(() => ({ error: `the server answered ${reply.status}` }));
  if (reply.status === 401) askForKey();
  if (!reply.ok) throw new Error(body.error);
  door.hidden = true;
  return body.predictions[0].classes;
}

async function ask() {
  describeCurl();
  if (!chosen) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  show(error, "");
  show(state, "Looking …");
  const begun = performance.now();
  try {
    const best = await answer(mine.signal);
    if (mine !== asking) return;
    classes.replaceChildren(...best.map(row));
    show(state, `${crops().label}, ${Math.round(performance.now() - begun)} ms`);
  } catch (problem) {
    if (mine !== asking) return;
    classes.replaceChildren();
    show(state, "");
    const unreachable = problem instanceof TypeError;
    show(error, unreachable ? "The server cannot be reached; is it still running?" : problem.message);
  }
}

function choose(picked) {
  if (!picked) return;
  chosen = picked;
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.hidden = true; // until it turns out that the browser can show it
  picture.src = URL.createObjectURL(picked);
  invitation.textContent = picked.name;
  ask();
}

async function introduce() {
  try {
    const health = await (await fetch("health")).json();
    const { name, variant, precision } = health.model;
    model.textContent = `${name}, ${variant}, ${precision}, on ${health.provider}`;
  } catch {
    // The page works without it.
  }
}

picture.addEventListener("load", () => (picture.hidden = false));
file.addEventListener("change", () => choose(file.files[0]));
find("crops").addEventListener("change", ask);
door.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}

describeCurl();
introduce();
