/** What is known of the current image and of the artefact: legend, facts, files to save. */

import { announce, count, find, make, milliseconds, percent, save } from "./elements.js";

const SHORT_DIGEST = 12;
/** Names of classes that are not in an image, before they are folded. */
const MOST_ABSENT = 12;
const VERDICTS = {
  passed: { text: "verified", level: "is-good", warning: "" },
  failed: {
    text: "failed its verification",
    level: "is-bad",
    warning:
      "This model failed its verification: its answers differ from those of the trained network. Do not rely on them.",
  },
  "not verified": {
    text: "not verified",
    level: "is-doubtful",
    warning:
      "This model is not verified: nobody has compared its answers with those of the trained network. " +
      "Run protoseg verify on its bundle.",
  },
};

/** The artefact of a model, in the header, and a warning where it did not pass. */
export function showArtefact(model) {
  const verdict = VERDICTS[model?.verdict] ?? VERDICTS["not verified"];
  find("artefact").replaceChildren(...(model ? artefactFacts(model) : []));
  find("verdict").hidden = !model || verdict.warning === "";
  find("verdict").className = `notice ${model?.verdict === "failed" ? "is-error" : "is-warning"}`;
  find("verdict").textContent = verdict.warning;
}

/**
 * Legend, facts and downloads of an image.
 *
 * @param {{name: string, segmented: import("./segmenting.js").Segmented}|null} shown
 * @param {import("./viewer.js").Viewer} viewer
 */
export function showDetails(shown, viewer) {
  const details = find("details");
  if (!shown) {
    // What follows stays where it is until the next image is there.
    details.style.minHeight = `${details.offsetHeight}px`;
    details.replaceChildren();
    return;
  }
  details.style.minHeight = "";
  details.replaceChildren(
    make("h2", { className: "file-name", title: shown.name }, shown.name),
    summary(shown.segmented),
    ...legend(shown.segmented, viewer),
    downloads(shown, viewer),
    facts(shown.segmented),
  );
}

/** Ends what Enter on a class began. */
export function releaseClass(viewer) {
  for (const button of find("details").querySelectorAll("[aria-pressed=true]")) button.ariaPressed = "false";
  viewer.highlight(-1);
}

function artefactFacts(model) {
  const { text, level } = VERDICTS[model.verdict] ?? VERDICTS["not verified"];
  return [
    fact("Verdict", make("span", { className: `badge ${level}` }, text)),
    fact("Precision", model.precision),
    fact("SHA-256", digestButton(model.sha256)),
  ];
}

function fact(name, ...value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, ...value));
}

function digestButton(sha256) {
  const button = make(
    "button",
    { type: "button", className: "digest", title: `${sha256}\nClick to copy`, "aria-label": `Copy the SHA-256 ${sha256}` },
    sha256.slice(0, SHORT_DIGEST),
  );
  button.addEventListener("click", async () => {
    const isCopied = await navigator.clipboard?.writeText(sha256).then(() => true, () => false);
    button.textContent = isCopied ? "copied" : sha256;
    announce(isCopied ? "SHA-256 copied" : "The browser does not allow copying; the whole digest is shown.");
    if (isCopied) setTimeout(() => (button.textContent = sha256.slice(0, SHORT_DIGEST)), 1500);
  });
  return button;
}

function summary({ width, height, milliseconds: time }) {
  return make("p", { className: "summary" }, `${count(width)} × ${count(height)} pixels, ${milliseconds(time)}`);
}

function facts({ model, meanConfidence, picture }) {
  const entries = meanConfidence === null ? [] : [fact("Mean confidence", percent(meanConfidence))];
  entries.push(
    fact("Model", `${model.name}, version ${model.version}`),
    fact("Artefact", digestButton(model.sha256), ` ${model.precision}`),
    fact("Backend", model.backend),
  );
  if (picture) entries.push(fact("Pixels", "as the server decoded them"));
  return make("dl", { className: "facts" }, ...entries);
}

function legend(segmented, viewer) {
  const { model, counts } = segmented;
  const sorted = [...model.classes].sort((one, other) => counts[other.index] - counts[one.index]);
  const present = sorted.filter(({ index }) => counts[index] > 0);
  const absent = sorted.filter(({ index }) => counts[index] === 0);
  const list = make("ul", { className: "legend" }, ...present.map((entry) => legendEntry(entry, segmented, viewer)));
  const parts = [make("h3", {}, "Classes ", make("small", {}, "share and pixels")), list];
  if (absent.length > 0) parts.push(absentClasses(absent.map(({ name }) => name)));
  return parts;
}

function absentClasses(names) {
  const title = "Not in this image: ";
  if (names.length <= MOST_ABSENT) return make("p", { className: "absent" }, title, names.join(", "));
  const summary = make("summary", {}, title, `${count(names.length)} classes`);
  return make("details", { className: "absent" }, summary, names.join(", "));
}

function legendEntry({ index, name, color }, { counts, classMap, classConfidence }, viewer) {
  const share = counts[index] / classMap.length;
  const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
  swatch.style.backgroundColor = `rgb(${color.join(" ")})`;
  const bar = make("span", { className: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", share);
  bar.style.setProperty("--color", `rgb(${color.join(" ")})`);
  const button = make(
    "button",
    { type: "button", className: "class", "aria-pressed": "false", "data-class": index, "data-pixels": counts[index] },
    swatch,
    make("span", { className: "class-name" }, name),
    make("span", { className: "share" }, percent(share)),
    make("span", { className: "pixels" }, count(counts[index]), make("span", { className: "visually-hidden" }, " pixels")),
    bar,
  );
  if (classConfidence) button.title = `Mean confidence ${percent(classConfidence[index])}`;
  highlightOn(button, index, viewer);
  return make("li", {}, button);
}

/** While the pointer or the focus is on it; a press keeps it. */
function highlightOn(button, index, viewer) {
  const pressed = () => find("details").querySelector("[aria-pressed=true]");
  const rest = () => viewer.highlight(Number(pressed()?.dataset.class ?? -1));
  button.addEventListener("pointerenter", () => viewer.highlight(index));
  button.addEventListener("focus", () => viewer.highlight(index));
  button.addEventListener("pointerleave", rest);
  button.addEventListener("blur", rest);
  button.addEventListener("click", () => {
    const isPressed = button.ariaPressed === "true";
    releaseClass(viewer);
    button.ariaPressed = String(!isPressed);
    rest();
  });
}

function downloads({ name, segmented }, viewer) {
  const stem = name.replace(/\.[^.]*$/, "") || "image";
  const classes = make("button", { type: "button", id: "save-classes" }, "Class map PNG");
  const overlay = make("button", { type: "button", id: "save-overlay" }, "Overlay PNG");
  classes.addEventListener("click", async () => {
    save(segmented.classMapPng ?? (await viewer.classMapPng()), `${stem}_classes.png`);
  });
  overlay.addEventListener("click", async () => save(await viewer.overlayPng(), `${stem}_overlay.png`));
  classes.title = segmented.classMapPng ? "Palette PNG: its indices are the classes" : "Colours of the classes";
  overlay.title = "At the opacity that is set";
  return make("div", { className: "downloads", role: "group", "aria-label": "Download" }, classes, overlay);
}
