// Work waits in line: a few requests at a time, the most urgent first.

export class Line {
  #waiting = [];
  #busy = 0;
  #most;

  constructor(most) {
    this.#most = most;
  }

  // `rank` is asked when there is room: the lowest goes first; null drops the work, and tells so.
  add(work, rank, onDrop) {
    this.#waiting.push({ work, rank, onDrop });
    this.#next();
  }

  #next() {
    while (this.#busy < this.#most) {
      const ranked = this.#waiting.map((entry) => ({ entry, place: entry.rank() }));
      const wanted = ranked.filter(({ place }) => place !== null);
      for (const { entry, place } of ranked) if (place === null) entry.onDrop();
      wanted.sort((one, other) => one.place - other.place);
      this.#waiting = wanted.map(({ entry }) => entry);
      const entry = this.#waiting[0];
      if (!entry) return;
      this.#waiting.shift();
      this.#busy += 1;
      entry.work().finally(() => {
        this.#busy -= 1;
        this.#next();
      });
    }
  }
}
