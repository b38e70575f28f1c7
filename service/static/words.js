// Numbers and names -> what people read.  A number and its unit stay on one line.

export const percent = (part) => (part > 0 && part < 0.001 ? "<0.1%" : `${(100 * part).toFixed(1)}%`);

export function time(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)}\u00a0s`;
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)}\u00a0ms`;
}

// Of a picture's area, in whole percents.
export const share = (part) => (part < 0.01 ? "less than 1%" : `${Math.round(100 * part)}%`);

// WordNet's names are lists, the usual word first: "tabby, tabby cat".
export function names(label) {
  const [first, ...others] = label.split(", ");
  return { first: first || label, others: others.join(", ") };
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// "All 10 crops predict espresso. Average: 81.1%."  Only for answers that hold the crops' own.
export function agreement({ classes, views }) {
  const best = classes[0];
  const mean = percent(best.probability);
  const name = names(best.label).first;
  if (views.length < 2) return `The centre crop alone: ${name}, ${mean}.`;
  const votes = new Map();
  for (const { classes: [{ index, label }] } of views) {
    votes.set(index, { index, label, number: (votes.get(index)?.number ?? 0) + 1 });
  }
  const mine = votes.get(best.index)?.number ?? 0;
  if (mine === views.length) return `All ${mine} crops predict ${name}. Average: ${mean}.`;
  const isBest = ({ index }) => index === best.index;
  const ranked = [...votes.values()].sort((one, other) => other.number - one.number || isBest(other) - isBest(one));
  const told = ranked.filter((vote, place) => place < 4 || isBest(vote));
  const rest = ranked.length > told.length ? ", …" : "";
  const said = (vote) => `${vote.number} ${names(vote.label).first}`;
  const [lead, ...others] = told;
  const verb = lead.number === 1 ? "predicts" : "predict";
  const start = `${lead.number} of ${views.length} crops ${verb} ${[names(lead.label).first, ...others.map(said)].join(", ")}${rest}.`;
  return isBest(lead) ? `${start} Average: ${mean}.` : `${start} On average ${name} is ahead: ${mean}.`;
}

// "Egyptian cat, tabby or lynx", as many of the best classes.
export function guesses(classes, number = 3) {
  const best = classes.slice(0, number).map(({ label }) => names(label).first);
  return best.length < 2 ? best.join("") : `${best.slice(0, -1).join(", ")} or ${best.at(-1)}`;
}
