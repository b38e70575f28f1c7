// How much a class loses where the picture is hidden -> colours over the picture, and words.

import { colour } from "./colours.js";
import { find, write } from "./elements.js";

const PICTURE = 0.3; // of what is seen is the picture, in grey; the rest is the colour
const ROWS = ["upper", "middle", "lower"];
const COLUMNS = ["left", "middle", "right"];

const clamp = (number, most) => Math.min(most, Math.max(0, number));

// Between the cells' middles, bilinearly; x and y count cells.
function between(values, x, y) {
  const [rows, columns] = [values.length - 1, values[0].length - 1];
  const [left, top] = [clamp(Math.floor(x), columns), clamp(Math.floor(y), rows)];
  const [right, bottom] = [clamp(left + 1, columns), clamp(top + 1, rows)];
  const [dx, dy] = [clamp(x - left, 1), clamp(y - top, 1)];
  const upper = values[top][left] * (1 - dx) + values[top][right] * dx;
  const lower = values[bottom][left] * (1 - dx) + values[bottom][right] * dx;
  return upper * (1 - dy) + lower * dy;
}

// `scale` holds every value that the colours must tell apart.
export function drawHeat(square, values, scale) {
  const canvas = find("heat");
  const side = canvas.width;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(square, 0, 0, side, side);
  const image = context.getImageData(0, 0, side, side);
  const pixels = image.data;
  const most = strongest(scale);
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const at = 4 * (y * side + x);
      const grey = 0.3 * pixels[at] + 0.59 * pixels[at + 1] + 0.11 * pixels[at + 2];
      const [column, row] = [((x + 0.5) / side) * values[0].length - 0.5, ((y + 0.5) / side) * values.length - 0.5];
      const shade = colour(between(values, column, row) / most);
      for (let band = 0; band < 3; band += 1) {
        pixels[at + band] = PICTURE * grey + (1 - PICTURE) * shade[band];
      }
    }
  }
  context.putImageData(image, 0, 0);
}

// The largest change in either direction; a hair, where nothing changes anything.
const strongest = (values) => Math.max(1e-4, ...values.flat().map(Math.abs));

export function drawScale(values) {
  const canvas = find("heatscale");
  const context = canvas.getContext("2d");
  const most = strongest(values);
  const least = Math.min(0, ...values.flat());
  for (let x = 0; x < canvas.width; x += 1) {
    const share = least / most + ((1 - least / most) * x) / (canvas.width - 1);
    context.fillStyle = `rgb(${colour(share).join(" ")})`;
    context.fillRect(x, 0, 1, 1);
  }
  const points = (share) => (100 * share).toFixed(Math.abs(share) < 0.1 ? 1 : 0).replace("-", "−");
  const negative = least <= -0.0005; // what is less reads as 0.0
  write(find("heatlow"), negative ? points(least) : "0");
  write(find("heathigh"), points(most));
  find("heatnegative").hidden = !negative;
}

// The ninth of the picture that holds most of the evidence, in words.
export function heatWords(values, name) {
  const ninths = ROWS.map(() => COLUMNS.map(() => 0));
  let all = 0;
  values.forEach((row, y) =>
    row.forEach((value, x) => {
      const share = Math.max(0, value);
      ninths[Math.floor((3 * (y + 0.5)) / values.length)][Math.floor((3 * (x + 0.5)) / row.length)] += share;
      all += share;
    }),
  );
  const highest = Math.max(...values.flat());
  if (highest < 0.001) return `Hiding a part makes ${name} no less probable: its evidence is in no single place.`;
  const most = Math.max(...ninths.flat());
  const [y] = ninths.map((row, place) => [place, Math.max(...row)]).find(([, sum]) => sum === most);
  const x = ninths[y].indexOf(most);
  const where = y === 1 && x === 1 ? "centre" : `${ROWS[y]} ${COLUMNS[x]}`;
  const start = most > all / 3 ? "Most of the evidence" : "The evidence";
  const much = most > all / 3 ? "lies" : "is spread out; the largest share of it lies";
  return `${start} for ${name} ${much} in the ${where}.`;
}
