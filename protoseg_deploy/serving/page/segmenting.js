/** From a file to a segmented image: limits, request, repetition, and what is kept of the answer. */

import { decode, isReadHere, readHeader } from "./formats.js";
import { measure } from "./pixels.js";
import { ServerError } from "./server.js";
import { bytes, count } from "./elements.js";

const BUSY_TRIES = 5;
const RELOAD_TRIES = 3;
const THUMBNAIL = 96;

/**
 * A segmented image.
 *
 * @typedef {object} Segmented
 * @property {import("./server.js").Model} model as it was when it answered
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array|Int32Array} classMap
 * @property {Uint8Array|null} confidence
 * @property {Blob|null} classMapPng
 * @property {Blob|null} picture the pixels that the network saw, where the file is not read here
 * @property {number} milliseconds of the request
 * @property {Float64Array} counts pixels of each class
 * @property {number|null} meanConfidence
 * @property {Float64Array|null} classConfidence
 */

/**
 * Segment a file.
 *
 * @param {import("./server.js").Server} server
 * @param {string} name of the model
 * @param {File} file
 * @param {(seconds: number) => void} onBusy called before a busy server is asked again
 * @returns {Promise<{segmented: Segmented, image: ImageData}>} with the pixels, as `pixelsOf` gives them
 */
export async function segment(server, name, file, onBusy) {
  const header = await readHeader(file);
  for (let attempt = 0; attempt < RELOAD_TRIES; attempt++) {
    const model = await server.model(name);
    refuseBeyondLimits(model, file, header);
    const ask = (withPicture) => inferPatiently(server, model, file, outputsOf(model, withPicture), onBusy);
    let isShownHere = isReadHere(header, model.reading);
    let answer = await ask(!isShownHere);
    let image = isShownHere ? await decodeFitting(file, answer) : null;
    if (isShownHere && !image) {
      isShownHere = false;
      answer = await ask(true);
    }
    // A bundle that is exchanged becomes another version: the digest shown has to be the one that answered.
    if (answer.version !== model.version) continue;
    const segmented = segmentedOf(model, answer, isShownHere);
    image ??= await pixelsOf(file, segmented);
    return { segmented, image };
  }
  throw new ServerError("failed", "The model is being exchanged again and again. Try later.");
}

/** Pixels of a segmented image as the network saw them; they are decoded when they are needed, to save memory. */
export function pixelsOf(file, segmented) {
  return decode(segmented.picture ?? file);
}

/** A picture, made small. */
export async function thumbnailOf(picture) {
  const scale = Math.min(1, THUMBNAIL / Math.min(picture.width, picture.height));
  return createImageBitmap(picture, {
    resizeWidth: Math.max(1, Math.round(picture.width * scale)),
    resizeHeight: Math.max(1, Math.round(picture.height * scale)),
    resizeQuality: "medium",
  });
}

function refuseBeyondLimits(model, file, header) {
  if (file.size === 0) throw new ServerError("invalid", "The file is empty.");
  if (file.size > model.maxFileBytes) {
    throw new ServerError(
      "too large",
      `The file has ${bytes(file.size)}; this server takes up to ${bytes(model.maxFileBytes)}. It was not sent.`,
    );
  }
  if (header.width * header.height > model.maxPixels) {
    const size = `${count(header.width)} × ${count(header.height)} pixels`;
    throw new ServerError(
      "too large",
      `The image has ${size}; this server takes up to ${count(model.maxPixels)} pixels. It was not sent.`,
    );
  }
}

function outputsOf(model, withPicture) {
  const wanted = ["class_map", "confidence", "class_map_png"].filter((output) => model.outputs.has(output));
  return withPicture ? [...wanted, "image_png"] : wanted;
}

async function inferPatiently(server, model, file, outputs, onBusy) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await server.infer(model.name, file, outputs);
    } catch (error) {
      if (error.kind !== "busy" || attempt === BUSY_TRIES) throw error;
      onBusy(error.retryAfter);
      await new Promise((resolve) => setTimeout(resolve, error.retryAfter * 1000));
    }
  }
}

/** Pixels of a file, if the browser decodes it to the size of its class map. */
async function decodeFitting(file, answer) {
  const [, height, width] = answer.tensors.get("class_map").shape;
  const image = await decode(file).catch(() => null);
  return image?.width === width && image.height === height ? image : null;
}

function segmentedOf(model, { tensors, milliseconds }, isShownHere) {
  const [, height, width] = tensors.get("class_map").shape;
  const classMap = tensors.get("class_map").data;
  const confidence = tensors.get("confidence")?.data ?? null;
  return {
    model,
    width,
    height,
    classMap,
    confidence,
    classMapPng: tensors.get("class_map_png")?.data ?? null,
    picture: isShownHere ? null : tensors.get("image_png").data,
    milliseconds,
    ...measure(classMap, confidence, model.classes),
  };
}
