// A file -> POST v1/predict -> its answer with the time of each step, or a Refusal.
// The address is relative to the page, which may live below a proxy's path.

import { held, hold } from "./retry.js";

const ATTEMPTS = 6; // at a full server, each after the time that it asks for
const PATIENCE = 60; // seconds; a longer wait is left to people

export class Refusal extends Error {
  constructor(message, { status = 0, again = false } = {}) {
    super(message);
    this.status = status;
    this.again = again; // whether the same may well succeed later
  }
}

export const mediaType = (file) => (file.type.startsWith("image/") ? file.type : "application/octet-stream");

export function address(crops, details) {
  const found = new URL("v1/predict", document.baseURI);
  if (crops !== "ten") found.searchParams.set("crops", crops);
  if (details) found.searchParams.set("details", details);
  return found.href.replace("%2C", ","); // a comma may stand for itself, and reads better
}

// `read;dur=0.6, run;dur=75.8;desc="batch of 1", total;dur=83.4` -> {read: 0.6, ...} in ms.
export function timing(header) {
  const steps = {};
  for (const [, name, duration] of (header ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)) {
    steps[name] = Number(duration);
  }
  return steps;
}

// A client's own limit is waited for however often; a full server may never have room.
const isOver = (status, attempt) => status === 503 && attempt === ATTEMPTS;

// `signal` ends it, with an AbortError.
export async function ask(file, { crops, details, key, signal }) {
  for (let attempt = 1; ; attempt += 1) {
    await held();
    signal?.throwIfAborted();
    const begun = performance.now();
    const reply = await send(file, address(crops, details), { key: key(), signal });
    const body = await reply.json().catch(() => null);
    if (reply.ok && body?.predictions) {
      const steps = timing(reply.headers.get("Server-Timing"));
      return { ...body.predictions[0], body, steps, time: steps.total ?? performance.now() - begun };
    }
    const seconds = Number(reply.headers.get("Retry-After") ?? NaN);
    const full = reply.status === 503 || reply.status === 429;
    if (!full || !(seconds <= PATIENCE) || isOver(reply.status, attempt)) {
      throw refusal(reply, body, { full, key: key() });
    }
    hold(Math.max(1, seconds), reply.status);
  }
}

async function send(file, url, { key, signal }) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Refusal("Your browser cannot read this file. Is it a folder, or has it been moved?");
  });
  const limit = Number(document.body.dataset.maxBody);
  if (file.size > limit) {
    const [size, most] = [file.size, limit].map((bytes) => (bytes / 2 ** 20).toFixed(1));
    throw new Refusal(`The file has ${size} MiB, and this server takes ${most} MiB. Send it scaled down.`, { status: 413 });
  }
  const headers = { "Content-Type": mediaType(file) };
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    return await fetch(url, { method: "POST", body: file, headers, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal("Cannot reach the server. Is it still running?", { again: true });
  }
}

function refusal(reply, body, { full, key }) {
  if (reply.status === 401) {
    // The API's own words tell how to send one; here there is a field for it.
    return new Refusal(key ? "That key is not one of this server’s." : "This server needs an API key.", { status: 401 });
  }
  const words = body?.error ?? `The server answered ${reply.status} without saying why.`;
  const again = full || reply.status >= 500 || reply.status === 408;
  return new Refusal(words, { status: reply.status, again });
}
