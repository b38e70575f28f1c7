// The ways to give the page pictures: choose, photograph, drop anywhere, paste.

import { find } from "./elements.js";

const LINK = "That was a link, not a file. Save the picture first, then drop the file.";

const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].some((type) => type === "Files" || type === "text/uri-list");

export function watchGifts(onFiles, onTrouble) {
  const give = (files, trouble) => {
    if (files.length) onFiles([...files]);
    else if (trouble) onTrouble(trouble);
  };
  for (const input of [find("file"), find("camera")]) {
    input.addEventListener("change", () => {
      give([...input.files]);
      input.value = ""; // so that the same file may be chosen again
    });
  }
  addEventListener("paste", (event) => give(event.clipboardData?.files ?? []));

  let within = 0; // elements that the drag has entered and not left
  const veil = (depth) => {
    within = depth;
    find("veil").hidden = within <= 0;
  };
  addEventListener("dragenter", (event) => holdsFiles(event) && veil(within + 1));
  addEventListener("dragleave", (event) => holdsFiles(event) && veil(within - 1));
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    veil(0);
    give(event.dataTransfer.files, LINK);
  });
}
