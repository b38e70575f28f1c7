// The request that the page has made, for a terminal and for Python, to copy.

import { address, mediaType } from "./asking.js";
import { copies } from "./copying.js";
import { find, write } from "./elements.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// `picture` may be null: nothing was chosen yet.
export function showCode(picture, { crops, details, keyed }) {
  const name = picture?.file?.name ?? picture?.name ?? "picture.jpg";
  const type = picture?.file ? mediaType(picture.file) : "image/jpeg";
  const key = keyed ? "-H 'Authorization: Bearer KEY' " : "";
  const curl = [`curl --data-binary ${quoted(`@${name}`)} -H 'Content-Type: ${type}' ${key}'${address(crops, details)}'`];
  if (picture?.sample) curl.unshift(`curl -O '${new URL(picture.sample, document.baseURI)}'`);
  write(find("curl"), curl.join("\n"));
  const python = ["from alexnet_client import Client", ""];
  if (picture?.sample) {
    python.unshift("from urllib.request import urlretrieve", "");
    python.push(`urlretrieve("${new URL(picture.sample, document.baseURI)}", ${JSON.stringify(name)})`);
  }
  const server = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const list = details.split(",").map((detail) => `"${detail}"`).join(", ");
  python.push(
    `with Client("${server}"${keyed ? ', api_key="KEY"' : ""}) as client:`,
    `    answer = client.classify(${JSON.stringify(name)}, crops="${crops}"${details ? `, details=[${list}]` : ""})`,
    "for found in answer.classes:",
    '    print(f"{found.probability:.1%}  {found.label}")',
  );
  write(find("python"), python.join("\n"));
}

// The answer as the API gives it, or nothing.
export function showJson(answer) {
  find("showjson").hidden = !answer?.body;
  write(find("json"), answer?.body ? JSON.stringify(answer.body, null, 2) : "");
}

export function watchCopies() {
  for (const button of document.querySelectorAll("[data-copies]")) {
    copies(button, () => find(button.dataset.copies).textContent);
  }
}
