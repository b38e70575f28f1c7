// Numbers and names -> what people read.  A number and its unit stay on one line.

export const percent = (share) => (share > 0 && share < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`);

export function time(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)}\u00a0s`;
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)}\u00a0ms`;
}

// WordNet's names are lists, the usual word first: "tabby, tabby cat".
export function names(label) {
  const [first, ...others] = label.split(", ");
  return { first, others: others.join(", ") };
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// "All 10 views say espresso; their mean is 81.1 %."  Only for answers that hold the views' own.
export function agreement({ classes, views }) {
  const best = classes[0];
  const mean = percent(best.probability);
  const name = names(best.label).first;
  if (views.length < 2) return `One look at the centre: ${name}, ${mean}.`;
  const votes = new Map();
  for (const view of views) {
    const { label } = view.classes[0];
    votes.set(label, (votes.get(label) ?? 0) + 1);
  }
  const mine = votes.get(best.label) ?? 0;
  if (mine === views.length) return `All ${mine} views say ${name}; their mean is ${mean}.`;
  votes.delete(best.label);
  const ranked = [...votes].sort((one, other) => other[1] - one[1]);
  const said = ranked.slice(0, 3).map(([label, number]) => `${number} ${names(label).first}`);
  const rest = ranked.length > 3 ? ", …" : "";
  if (mine === 0) return `No view says ${name} first (${said.join(", ")}${rest}), yet all together do: ${mean}.`;
  const verb = mine === 1 ? "says" : "say";
  const others = `${said.join(", ")}${rest}`;
  return `${mine} of ${views.length} views ${verb} ${name}, ${others}; the mean of all is ${mean}.`;
}
