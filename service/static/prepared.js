// A file -> what the network gets of it: the shorter side scaled to 256, the central square kept,
// upright as EXIF says, transparency on white.  As service/inference/image.py does it, to within what
// browsers scale differently.

const SIDE = 256; // pixels
const FINE = 640; // pixels; the same square for the eye

// Halves go to the even pixel, as Python's round() does.
function even(number) {
  const rounded = Math.round(number);
  return number % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// The square's place in a picture of so many pixels.
function place(width, height) {
  const scale = (side) => Math.trunc((SIDE * side) / Math.min(width, height));
  const size = [scale(width), scale(height)];
  const [left, top] = size.map((side) => even((side - SIDE) / 2));
  const [x, y] = [width / size[0], height / size[1]];
  return [left * x, top * y, SIDE * x, SIDE * y];
}

function draw(bitmap, side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d", { willReadFrequently: side === SIDE });
  context.fillStyle = "white";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, ...place(bitmap.width, bitmap.height), 0, 0, side, side);
  return canvas;
}

// Null where the browser cannot show what the server may well be able to read.
export async function prepare(file) {
  try {
    // The service does not look at colour profiles.
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    const found = { square: draw(bitmap, SIDE), fine: draw(bitmap, FINE) };
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
