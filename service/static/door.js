// The API key: asked for once a server has refused to answer without, and kept in the field alone.
// Browsers write sessionStorage to disk; a password manager fills the field again after a reload.

import { find } from "./elements.js";

const [door, field] = [find("door"), find("key")];

export const key = () => (field.validity.valid ? field.value : "");

export function openDoor() {
  if (!door.hidden) return;
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
