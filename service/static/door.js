// The API key: asked for where a server answers nobody without one, and kept in the field alone.
// Browsers write sessionStorage to disk; a password manager fills the field again after a reload.

import { find, write } from "./elements.js";

const [door, field] = [find("door"), find("key")];

export const key = () => (field.validity.valid ? field.value : "");

// `words` say what was wrong: no key, or one that the server does not know.
export function openDoor(words) {
  write(find("doorword"), words);
  field.setAttribute("aria-invalid", key() !== "");
  door.hidden = false;
  field.focus();
}

export const closeDoor = () => (door.hidden = true);

export function watchDoor(onKey) {
  door.addEventListener("submit", (event) => {
    event.preventDefault();
    onKey();
  });
}
