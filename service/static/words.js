// Numbers and names -> what people read.  A number and its unit stay on one line.

export const percent = (share) => (share > 0 && share < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`);

export function time(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)}\u00a0s`;
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)}\u00a0ms`;
}

// WordNet's names are lists, the usual word first: "tabby, tabby cat".
export function names(label) {
  const [first, ...others] = label.split(", ");
  return { first: first || label, others: others.join(", ") };
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// "All 10 views say espresso; their mean is 81.1 %."  Only for answers that hold the views' own.
export function agreement({ classes, views }) {
  const best = classes[0];
  const mean = percent(best.probability);
  const name = names(best.label).first;
  if (views.length < 2) return `One look at the centre: ${name}, ${mean}.`;
  const votes = new Map();
  for (const { classes: [{ index, label }] } of views) {
    votes.set(index, { index, label, number: (votes.get(index)?.number ?? 0) + 1 });
  }
  const mine = votes.get(best.index)?.number ?? 0;
  if (mine === views.length) return `All ${mine} views say ${name}; their mean is ${mean}.`;
  const isBest = ({ index }) => index === best.index;
  const ranked = [...votes.values()].sort((one, other) => other.number - one.number || isBest(other) - isBest(one));
  const told = ranked.filter((vote, place) => place < 4 || isBest(vote));
  const rest = ranked.length > told.length ? ", …" : "";
  const said = (vote) => `${vote.number} ${names(vote.label).first}`;
  if (mine === 0) return `No view says ${name} first (${told.map(said).join(", ")}${rest}), yet all together do: ${mean}.`;
  const [lead, ...others] = told;
  const verb = lead.number === 1 ? "says" : "say";
  const start = `${lead.number} of ${views.length} views ${verb} ${names(lead.label).first}, ${others.map(said).join(", ")}${rest}`;
  return isBest(lead) ? `${start}; the mean of all is ${mean}.` : `${start}; averaged, ${name} is ahead with ${mean}.`;
}
