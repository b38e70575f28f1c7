// A heatmap takes tens of runs of the network: how far it is, and how to end it.

import { find, write } from "./elements.js";
import { time } from "./words.js";

const WINDOWS = Number(document.body.dataset.windows); // further runs of the network
const NEARLY = 0.97; // the bar does not say that it is done before it is
const TICK = 250; // ms

let running = null; // an AbortController

// Calls `work` with a signal and shows progress until it is done; `run` is what one run takes, in ms.
export async function heating(work, run) {
  const controller = new AbortController();
  running = controller;
  const begun = performance.now();
  const expected = run ? run * WINDOWS : null;
  const show = () => {
    const passed = performance.now() - begun;
    const bar = find("heatprogress");
    if (expected) bar.value = Math.min(NEARLY, passed / expected);
    else bar.removeAttribute("value");
    const about = expected ? ` of about ${time(Math.max(expected, 1000))}` : "";
    write(find("heattime"), `Computing heatmap: ${Math.floor(passed / 1000)} s${about}`);
  };
  show();
  find("heatwait").hidden = false;
  const timer = setInterval(show, TICK);
  try {
    return await work(controller.signal);
  } finally {
    clearInterval(timer);
    if (running === controller) {
      running = null;
      find("heatwait").hidden = true;
    }
  }
}

// The server drops the work of who hangs up.
export function stopHeating() {
  running?.abort();
}

export function watchHeating(onCancel) {
  find("heatcancel").addEventListener("click", onCancel);
  find("heatopacity").addEventListener("input", ({ target }) => {
    find("heat").style.opacity = target.value / 100;
  });
}
