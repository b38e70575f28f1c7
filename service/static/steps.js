// Server-Timing -> a small stacked bar, with its legend in text.

import { element, find, write } from "./elements.js";
import { time } from "./words.js";

const NAMES = ["read", "decode", "queue", "run"]; // as docs/logs-and-traces.md explains them

export function showSteps({ steps }) {
  const place = find("steps");
  place.hidden = !(steps?.total > 0);
  if (place.hidden) return;
  const known = NAMES.filter((name) => name in steps).map((name) => [name, steps[name]]);
  const rest = steps.total - known.reduce((sum, [, duration]) => sum + duration, 0);
  const all = [...known, ["rest", Math.max(0, rest)]];
  write(find("took"), `${time(steps.total)} in the server`);
  find("stepsbar").replaceChildren(
    ...all.map(([name, duration]) => {
      const part = element("span", `step-${name}`);
      part.style.flexGrow = duration;
      return part;
    }),
  );
  find("stepslegend").replaceChildren(
    ...all.map(([name, duration]) => {
      const entry = element("li");
      entry.append(element("i", `step-${name}`), `${name} `, element("span", "", time(duration)));
      return entry;
    }),
  );
}
