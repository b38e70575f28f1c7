// Bytes of an image -> {orientation, profiled, plain}: how EXIF data want it turned, whether it has a
// colour profile, and the file without those EXIF data.  By the rule of service/inference/appearance.py,
// since browsers have other rules: they do not turn WebP.  What AVIF and HEIC ask for is part of their
// container, and browsers turn it themselves.

const EXIF = "Exif\0\0";
const PROFILE = "ICC_PROFILE\0";
const ORIENTATION = 0x0112;
const READERS = { 1: "getUint8", 3: "getUint16", 4: "getUint32" }; // BYTE, SHORT, LONG
const WEBP_EXIF = 0x08; // of VP8X's flags

const text = (bytes, from, length) => String.fromCharCode(...bytes.subarray(from, from + length));
const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// EXIF data -> 1 to 8, as the standard numbers it; 1 for damaged data.
export function orientation(exif) {
  let start = 0;
  while (start < 2 * EXIF.length && text(exif, start, EXIF.length) === EXIF) start += EXIF.length;
  const little = { "II*\0": true, "MM\0*": false }[text(exif, start, 4)];
  if (little === undefined) return 1;
  const tiff = view(exif.subarray(start));
  try {
    const directory = tiff.getUint32(4, little);
    const end = directory + 2 + 12 * tiff.getUint16(directory, little);
    for (let at = directory + 2; at < end; at += 12) {
      const reader = READERS[tiff.getUint16(at + 2, little)];
      if (tiff.getUint16(at, little) !== ORIENTATION || !reader) continue;
      const value = tiff[reader](at + 8, little);
      return value >= 1 && value <= 8 ? value : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return 1;
}

// Each walk yields {kind, from, to, body}: a segment or chunk, and where its contents are.

function* jpegSegments(bytes) {
  const data = view(bytes);
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff) {
    if (bytes[at + 1] === 0xff) at += 1; // filling
    else if (bytes[at + 1] === 0xda) return; // the pixels
    else {
      const to = at + 2 + data.getUint16(at + 2);
      yield { kind: bytes[at + 1], from: at, to, body: bytes.subarray(at + 4, to) };
      at = to;
    }
  }
}

function* pngChunks(bytes) {
  const data = view(bytes);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const to = at + 12 + data.getUint32(at);
    yield { kind: text(bytes, at + 4, 4), from: at, to, body: bytes.subarray(at + 8, to - 4) };
    at = to;
  }
}

function* webpChunks(bytes) {
  const data = view(bytes);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = data.getUint32(at + 4, true);
    yield { kind: text(bytes, at, 4), from: at, to: at + 8 + length, body: bytes.subarray(at + 8, at + 8 + length) };
    at += 8 + length + (length % 2);
  }
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

// Of a PNG's chunk, whose sum covers its type too.
const isWhole = (bytes, { from, to }) => to <= bytes.length && view(bytes).getUint32(to - 4) === crc32(bytes.subarray(from + 4, to - 4));

// The bytes of a file without these parts, not copied.
function without(file, parts) {
  const kept = [];
  let at = 0;
  for (const { from, to } of parts) {
    kept.push(file.slice(at, from));
    at = to;
  }
  return new Blob([...kept, file.slice(at)], { type: file.type });
}

function ofJpeg(bytes, file) {
  const segments = [...jpegSegments(bytes)];
  const exif = segments.filter(({ kind, body }) => kind === 0xe1 && text(body, 0, EXIF.length) === EXIF);
  const profiled = segments.some(({ kind, body }) => kind === 0xe2 && text(body, 0, PROFILE.length) === PROFILE);
  return { orientation: exif.length ? orientation(exif[0].body) : 1, profiled, plain: without(file, exif) };
}

function ofPng(bytes, file) {
  const chunks = [...pngChunks(bytes)];
  const exif = chunks.filter(({ kind }) => kind === "eXIf");
  const first = exif.find((chunk) => isWhole(bytes, chunk));
  const profiled = chunks.some(({ kind }) => kind === "iCCP");
  return { orientation: first ? orientation(first.body) : 1, profiled, plain: without(file, exif) };
}

function ofWebp(bytes, file) {
  const chunks = [...webpChunks(bytes)];
  const find = (wanted) => chunks.find(({ kind }) => kind === wanted);
  const exif = find("VP8X")?.body[0] & WEBP_EXIF ? find("EXIF") : null;
  // A chunk is renamed, for the file's length stands in its head: "XXXX" means nothing.
  const named = exif ? [file.slice(0, exif.from), "XXXX", file.slice(exif.from + 4)] : [file];
  const plain = new Blob(named, { type: file.type });
  return { orientation: exif ? orientation(exif.body) : 1, profiled: Boolean(find("ICCP")), plain };
}

export async function metadata(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return ofJpeg(bytes, file);
  if (text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n") return ofPng(bytes, file);
  if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 4) === "WEBP") return ofWebp(bytes, file);
  return { orientation: 1, profiled: true, plain: file };
}
