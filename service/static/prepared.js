// A file -> what the network gets of it: the shorter side scaled to 256, the central square kept,
// upright as EXIF says, transparency on white.  As service/inference/image.py does it, to within what
// browsers scale differently.  And the whole picture, smaller, to show where that square lies.

import { metadata } from "./metadata.js";

const SIDE = 256; // pixels
const LONG = 720; // pixels of the whole picture's longer side, at most: 1.5 MB of memory each

// How stored pixels become upright ones: `setTransform` in units of the upright width and height.
const TURNS = {
  1: [1, 0, 0, 1, 0, 0],
  2: [-1, 0, 0, 1, 1, 0],
  3: [-1, 0, 0, -1, 1, 1],
  4: [1, 0, 0, -1, 0, 1],
  5: [0, 1, 1, 0, 0, 0],
  6: [0, 1, -1, 0, 1, 0],
  7: [0, -1, -1, 0, 1, 1],
  8: [0, -1, 1, 0, 0, 1],
};

// Halves go to the even pixel, as Python's round() does.
function even(number) {
  const rounded = Math.round(number);
  return number % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// The square's place in an upright picture of so many pixels.
function place(width, height) {
  const scale = (side) => Math.trunc((SIDE * side) / Math.min(width, height));
  const size = [scale(width), scale(height)];
  const [left, top] = size.map((side) => even((side - SIDE) / 2));
  const [x, y] = [width / size[0], height / size[1]];
  return { left: left * x, top: top * y, width: SIDE * x, height: SIDE * y };
}

// A part of the upright picture, on a canvas of its own.
function draw({ bitmap, turn, width, height }, part, [across, down]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [across, down];
  const context = canvas.getContext("2d", { willReadFrequently: across === SIDE });
  context.fillStyle = "white";
  context.fillRect(0, 0, across, down);
  context.imageSmoothingQuality = "high";
  context.scale(across / part.width, down / part.height);
  context.translate(-part.left, -part.top);
  const [a, b, c, d, right, bottom] = TURNS[turn];
  context.transform(a, b, c, d, right * width, bottom * height);
  context.drawImage(bitmap, 0, 0);
  return canvas;
}

const shares = (part, { width, height }) => ({
  left: part.left / width,
  top: part.top / height,
  width: part.width / width,
  height: part.height / height,
});

// An upright picture; throws where the browser cannot decode it.
export async function decode(file) {
  const { orientation: turn, profiled, plain } = await metadata(file);
  const converts = profiled && document.body.dataset.colours === "true";
  const bitmap = await createImageBitmap(plain, { colorSpaceConversion: converts ? "default" : "none" });
  const onItsSide = turn > 4;
  const width = onItsSide ? bitmap.height : bitmap.width;
  const height = onItsSide ? bitmap.width : bitmap.height;
  return { bitmap, turn, width, height };
}

// All of an upright picture, on a canvas that is smaller by `scale`.
export function drawWhole(upright, scale) {
  const { width, height } = upright;
  const size = [width, height].map((side) => Math.max(1, Math.round(scale * side)));
  return draw(upright, { left: 0, top: 0, width, height }, size);
}

// {square, whole: canvases, crop: the square's place in shares of the whole}, or null where the
// browser cannot show what the server may well be able to read.
export async function prepare(file) {
  try {
    const upright = await decode(file);
    const { bitmap, width, height } = upright;
    const crop = place(width, height);
    const found = {
      square: draw(upright, crop, [SIDE, SIDE]),
      whole: drawWhole(upright, Math.min(1, LONG / Math.max(width, height))),
      crop: shares(crop, upright),
    };
    bitmap.close();
    return found;
  } catch {
    return null;
  }
}

// A view as it is cut: its box of the square, and then that seen in a mirror.
export function cut(canvas, square, { box, mirrored }) {
  canvas.width = canvas.height = box.side;
  const context = canvas.getContext("2d");
  if (mirrored) context.setTransform(-1, 0, 0, 1, box.side, 0);
  context.drawImage(square, box.left, box.top, box.side, box.side, 0, 0, box.side, box.side);
}
