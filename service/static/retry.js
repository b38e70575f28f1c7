// A server that is full, or a client's own limit, names a time: until then nothing is sent, and
// the page counts down.

import { find, tell, write } from "./elements.js";

const WHY = { 429: "Rate limit reached.", 503: "The server is busy." };

let opens = 0; // when requests go out again, on performance.now()'s clock
let why = "";
let timer = 0;

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const left = () => Math.ceil((opens - performance.now()) / 1000); // seconds

function count() {
  clearTimeout(timer);
  tell(find("retry"), left() > 0 ? `${why} Retrying in ${left()} s.` : "");
  if (left() > 0) timer = setTimeout(count, 250);
}

// Send nothing for so many seconds.
export function hold(seconds, status) {
  opens = Math.max(opens, performance.now() + 1000 * seconds);
  why = WHY[status];
  count();
  write(find("status"), find("retry").textContent);
}

// Comes back when requests may be sent.
export async function held() {
  while (opens > performance.now()) await pause(opens - performance.now());
}
