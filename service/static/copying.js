// Text to the clipboard, with a word on the button that was pressed.

import { write } from "./elements.js";

const SHOWN = 2000; // ms

// Pages without TLS have no clipboard: there the text is selected in a field, and copied.
function copySelected(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const worked = document.execCommand("copy");
  field.remove();
  return worked;
}

async function copy(text) {
  if (!navigator.clipboard) return copySelected(text);
  return navigator.clipboard.writeText(text).then(() => true, () => false);
}

// `text` is called when the button is.
export function copies(button, text) {
  const word = button.querySelector("span");
  const before = word.textContent;
  button.addEventListener("click", async () => {
    write(word, (await copy(text())) ? "Copied" : "Not copied");
    setTimeout(() => write(word, before), SHOWN);
  });
}
