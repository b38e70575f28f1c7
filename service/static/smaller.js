// A picture that is too large for the server -> a smaller copy of it, as a JPEG.  The network sees 256
// pixels of the shorter side, so that little is lost.

import { decode, drawWhole } from "./prepared.js";

const SHORTER_SIDES = [1024, 512, 256]; // pixels; the first one that the server takes
const QUALITY = 0.92;

const [maxBody, maxPixels] = ["maxBody", "maxPixels"].map((limit) => Number(document.body.dataset[limit]));

const encode = (canvas) => new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));

// {file, width, height}, or null where the browser cannot decode it, or nothing is small enough.
export async function smaller(file) {
  const upright = await decode(file).catch(() => null);
  if (!upright) return null;
  try {
    for (const side of SHORTER_SIDES) {
      const scale = Math.min(1, side / Math.min(upright.width, upright.height));
      const canvas = drawWhole(upright, scale);
      const { width, height } = canvas;
      const blob = width * height > maxPixels ? null : await encode(canvas);
      if (!blob || blob.size > maxBody) continue;
      const name = `${file.name.replace(/\.[^.]*$/, "")}-smaller.jpg`;
      return { file: new File([blob], name, { type: blob.type }), width, height };
    }
    return null;
  } finally {
    upright.bitmap.close();
  }
}
