// Short words for the document.

export const find = (id) => document.getElementById(id);

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

// Sets the text where it differs: a live region repeats whatever is written into it.
export function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// Writes a sentence, or hides its place where there is none.
export function tell(place, text) {
  write(place, text);
  place.hidden = text === "";
}
