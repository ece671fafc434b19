/** The list of images, each with its state. */

import { find, make, milliseconds } from "./elements.js";

const STATES = { waiting: "waiting", running: "segmenting …", failed: "failed" };

/** One image of the list, from its choice to its answer. */
export class Entry {
  state = "waiting";
  /** @type {import("./segmenting.js").Segmented|null} */
  segmented = null;
  /** @type {import("./server.js").ServerError|null} */
  error = null;
  #thumbnail = make("canvas", { className: "thumbnail", width: 1, height: 1, "aria-hidden": "true" });
  #status = make("span", { className: "status" });

  /**
   * @param {File} file
   * @param {string} name
   * @param {(entry: Entry) => void} onSelect
   */
  constructor(file, name, onSelect) {
    this.file = file;
    this.name = name;
    const text = make("span", { className: "entry-text" }, make("span", { className: "entry-name" }, name), this.#status);
    this.button = make("button", { type: "button", className: "entry", title: name }, this.#thumbnail, text);
    this.button.addEventListener("click", () => onSelect(this));
    this.item = make("li", {}, this.button);
    this.update("waiting");
  }

  update(state, changes = {}) {
    Object.assign(this, { state }, changes);
    this.button.dataset.state = state;
    this.#status.textContent = state === "done" ? milliseconds(this.segmented.milliseconds) : STATES[state];
  }

  setThumbnail(bitmap) {
    Object.assign(this.#thumbnail, { width: bitmap.width, height: bitmap.height });
    this.#thumbnail.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  }
}

/** Mark the current entry, and how many are done. */
export function updateList(entries, current) {
  for (const entry of entries) {
    if (entry === current) entry.button.setAttribute("aria-current", "true");
    else entry.button.removeAttribute("aria-current");
  }
  const done = entries.filter((entry) => entry.state === "done").length;
  find("progress").textContent = entries.length > 1 ? `${done} of ${entries.length}` : "";
}
