// A picture that was given, or a sample: what is known of it.

import { Refusal } from "./asking.js";
import { Line } from "./line.js";
import { prepare } from "./prepared.js";
import { smaller } from "./smaller.js";

const line = new Line(2); // a photograph of 12 megapixels takes 48 MB while it is decoded

export class Picture {
  answers = new Map(); // crops -> its answer, {problem: Refusal}, or {} while it is asked for
  heats = new Map(); // the same, with heatmaps
  copy = null; // {file, width, height}: what is sent in place of a file that is too large
  urgent = false; // whether somebody waits to see it
  #prepared = null;
  #smaller = null;

  // `sample` is an address relative to the page.
  constructor(name, { file = null, sample = null }) {
    Object.assign(this, { name, file, sample });
  }

  // HEIC of "IMG_1.heic"; nothing where the name does not say.
  get kind() {
    return this.name.match(/\.([a-z0-9]{2,5})$/i)?.[1].toUpperCase() ?? "";
  }

  async open() {
    if (this.file) return this.file;
    const reply = await fetch(this.sample).catch(() => null);
    if (!reply?.ok) {
      throw new Refusal("Cannot reach the server for the sample. Is it still running?", { again: true });
    }
    const bytes = await reply.blob();
    this.file = new File([bytes], this.sample.split("/").at(-1), { type: "image/jpeg" });
    return this.file;
  }

  // What the network gets of it, or null.
  get prepared() {
    this.#prepared ??= this.#inLine(() => this.open().then(prepare, () => null));
    return this.#prepared;
  }

  // Whether there is a smaller copy to send in place of `file`, which the server has refused.
  async shrink(file) {
    if (file === this.copy?.file) return false;
    this.#smaller ??= this.#inLine(() => smaller(file));
    this.copy = await this.#smaller;
    if (this.copy) this.file = this.copy.file;
    return Boolean(this.copy);
  }

  #inLine(work) {
    return new Promise((done) => {
      line.add(async () => done(await work()), () => (this.urgent ? 0 : 1));
    });
  }

  // Forget the refusals that `which` names, to ask again.
  forget(which) {
    if (!this.file) this.#prepared = null;
    for (const [crops, { problem }] of this.answers) {
      if (problem && which(problem)) this.answers.delete(crops);
    }
  }
}
