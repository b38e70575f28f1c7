// Shares from -1 to 1 -> colours whose lightness changes evenly: straight lines in OKLCH
// (https://www.w3.org/TR/css-color-4/#ok-lab), from dark to warm light, and to blue below zero.

const STEPS = 256; // in either direction

function ramp(hue, mostLight) {
  const canvas = document.createElement("canvas");
  canvas.width = STEPS;
  canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let step = 0; step < STEPS; step += 1) {
    const share = step / (STEPS - 1);
    const lightness = 0.16 + (mostLight - 0.16) * share;
    const chroma = 0.17 * Math.sin(Math.PI * (0.08 + 0.8 * share));
    context.fillStyle = `oklch(${lightness} ${chroma} ${hue(share)})`;
    context.fillRect(step, 0, 1, 1);
  }
  return context.getImageData(0, 0, STEPS, 1).data;
}

const warm = ramp((share) => 10 + 85 * share, 0.94);
const cold = ramp(() => 250, 0.94);

// [red, green, blue] of 0 to 255.
export function colour(share) {
  const at = 4 * Math.round((STEPS - 1) * Math.min(1, Math.abs(share)));
  const from = share < 0 ? cold : warm;
  return [from[at], from[at + 1], from[at + 2]];
}
