// A picture from the webcam: nothing is asked of it before its button is pressed, and it is off
// again once its window is closed.

import { element, find } from "./elements.js";

const WANTED = { video: { width: { ideal: 1280 }, height: { ideal: 960 } } }; // pixels
const QUALITY = 0.95; // of the JPEG

const TROUBLE = {
  NotAllowedError: "The browser may not use the webcam. Allow it in the browser’s settings for this page.",
  NotFoundError: "No webcam was found. Connect one, or choose a file.",
};
const OTHER = "The webcam does not start. Close other programs that may be using it.";

const [button, dialog, preview] = ["webcam", "shooting", "preview"].map(find);
let asking = false;
let taken = 0;

async function open() {
  preview.srcObject = await navigator.mediaDevices.getUserMedia(WANTED);
  await preview.play();
  dialog.showModal();
}

function turnOff() {
  for (const track of preview.srcObject?.getTracks() ?? []) track.stop();
  preview.srcObject = null;
}

function shoot(onPicture) {
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [preview.videoWidth, preview.videoHeight];
  canvas.getContext("2d").drawImage(preview, 0, 0);
  dialog.close();
  taken += 1;
  const name = `webcam-${taken}.jpg`;
  const type = "image/jpeg";
  canvas.toBlob((blob) => onPicture(new File([blob], name, { type })), type, QUALITY);
}

// The button stays hidden where there is no webcam to ask for: browsers offer none to pages without
// TLS, but for those of the same machine.
export function watchWebcam(onPicture, onTrouble) {
  if (!navigator.mediaDevices?.getUserMedia) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (asking) return;
    asking = true;
    await open().catch(({ name }) => {
      turnOff();
      onTrouble(TROUBLE[name] ?? OTHER);
    });
    asking = false;
  });
  dialog.addEventListener("close", turnOff);
  find("shoot").addEventListener("click", () => shoot(onPicture));
  find("stopshooting").addEventListener("click", () => dialog.close());
}
