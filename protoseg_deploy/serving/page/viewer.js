/** The picture of the current image: views, opacity, highlighted class, and what is under the pointer. */

import { announce, find, percent } from "./elements.js";
import { colorize, colorizeConfidence, dimOthers, overlay } from "./pixels.js";

const TITLES = { image: "Image", overlay: "Overlay", classes: "Class map", confidence: "Confidence" };
const SHARP_ABOVE = 2;

export class Viewer {
  #canvas = find("canvas").getContext("2d", { willReadFrequently: true });
  #mask = find("mask").getContext("2d");
  /** @type {{name: string, image: ImageData, segmented: import("./segmenting.js").Segmented}|null} */
  #shown = null;
  #highlighted = -1;
  #isPainting = false;

  constructor() {
    find("views").addEventListener("change", () => this.#paint());
    find("opacity").addEventListener("input", () => this.#paint());
    find("stage").addEventListener("pointermove", (event) => this.#readOut(event));
    find("stage").addEventListener("pointerleave", () => (find("readout").textContent = ""));
    new ResizeObserver(() => this.#sharpen()).observe(find("stage"));
  }

  get #view() {
    return find("views").querySelector("input:checked").value;
  }

  /** Share of the class colour, 0 to 1. */
  get alpha() {
    return find("opacity").value / 100;
  }

  /** Show an image, or nothing. */
  show(shown) {
    this.#shown = shown;
    const hasConfidence = Boolean(shown?.segmented.confidence);
    find("confidence-view").hidden = !hasConfidence;
    if (!hasConfidence && this.#view === "confidence") this.#choose("overlay");
    const { width, height } = shown?.image ?? { width: 1, height: 1 };
    for (const context of [this.#canvas, this.#mask]) Object.assign(context.canvas, { width, height });
    find("readout").textContent = "";
    find("canvas").hidden = !shown;
    this.#sharpen();
    this.#paintNow();
    this.highlight(-1);
  }

  /** Switch to a view, unless there is none of that name for this image. */
  setView(view) {
    if (!this.#shown || (view === "confidence" && !this.#shown.segmented.confidence)) return;
    this.#choose(view);
    this.#paint();
    announce(TITLES[view]);
  }

  addOpacity(points) {
    find("opacity").value = Number(find("opacity").value) + points;
    this.#paint();
    announce(`Opacity ${find("opacity").value} %`);
  }

  /** Darken what is not of a class; -1: nothing. */
  highlight(index) {
    this.#highlighted = index;
    const { width, height } = this.#mask.canvas;
    this.#mask.clearRect(0, 0, width, height);
    if (this.#shown && index >= 0) {
      this.#mask.putImageData(dimOthers(this.#shown.segmented.classMap, index, width, height), 0, 0);
    }
  }

  /** The overlay at the opacity that is set. */
  overlayPng() {
    return pngOf(this.#overlay());
  }

  /** The class map in colours, for models with more classes than a palette has. */
  classMapPng() {
    const { classMap, model, width, height } = this.#shown.segmented;
    return pngOf(colorize(classMap, model.classes, width, height));
  }

  #choose(view) {
    find("views").querySelector(`[value=${view}]`).checked = true;
  }

  #overlay() {
    const { image, segmented } = this.#shown;
    return overlay(image, segmented.classMap, segmented.model.classes, this.alpha);
  }

  /** At most once a frame, however fast the slider moves. */
  #paint() {
    if (this.#isPainting) return;
    this.#isPainting = true;
    requestAnimationFrame(() => {
      this.#isPainting = false;
      this.#paintNow();
    });
  }

  #paintNow() {
    const view = this.#view;
    find("opacity-value").textContent = `${find("opacity").value} %`;
    find("opacity").disabled = view !== "overlay";
    if (!this.#shown) return;
    const { image, segmented, name } = this.#shown;
    const { width, height, classMap, confidence, model } = segmented;
    const pictures = {
      image: () => image,
      overlay: () => this.#overlay(),
      classes: () => colorize(classMap, model.classes, width, height),
      confidence: () => colorizeConfidence(confidence, width, height),
    };
    this.#canvas.putImageData(pictures[view](), 0, 0);
    this.#canvas.canvas.setAttribute("aria-label", `${TITLES[view]} of ${name}. ${areasInWords(segmented)}`);
  }

  /** Pixels of small images stay squares; large ones are made smaller smoothly. */
  #sharpen() {
    const { clientWidth, clientHeight } = find("stage");
    const { width, height } = this.#canvas.canvas;
    const isSharp = Math.min(clientWidth / width, clientHeight / height) >= SHARP_ABOVE;
    find("stage").classList.toggle("is-sharp", isSharp);
  }

  #readOut(event) {
    if (!this.#shown) return;
    const { width, height, classMap, confidence, model } = this.#shown.segmented;
    const frame = this.#canvas.canvas.getBoundingClientRect();
    const scale = Math.min(frame.width / width, frame.height / height);
    const x = Math.floor((event.clientX - frame.left - (frame.width - width * scale) / 2) / scale);
    const y = Math.floor((event.clientY - frame.top - (frame.height - height * scale) / 2) / scale);
    const isInside = x >= 0 && y >= 0 && x < width && y < height;
    const pixel = y * width + x;
    const parts = isInside ? [`x ${x}, y ${y}`, model.classes[classMap[pixel]]?.name ?? "no class"] : [];
    if (isInside && confidence) parts.push(percent(confidence[pixel] / 255));
    find("readout").textContent = parts.join("  ·  ");
  }
}

/** Shares of all classes that are there, largest first. */
export function areasInWords({ counts, classMap, model }) {
  const present = model.classes.filter(({ index }) => counts[index] > 0);
  present.sort((one, other) => counts[other.index] - counts[one.index]);
  return `${present.map(({ index, name }) => `${name} ${percent(counts[index] / classMap.length)}`).join(", ")}.`;
}

function pngOf(picture) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
