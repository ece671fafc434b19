/** The page: images in, results out, and what happens when the server does not answer. */

import { announce, bytes, count, find, make, milliseconds } from "./elements.js";
import { showArtefact, showDetails, releaseClass } from "./inspector.js";
import { Entry, updateList } from "./list.js";
import { overlay } from "./pixels.js";
import { pixelsOf, segment, thumbnailOf } from "./segmenting.js";
import { Server, ServerError } from "./server.js";
import { listenToKeys } from "./shortcuts.js";
import { areasInWords, Viewer } from "./viewer.js";

const server = new Server();
const viewer = new Viewer();
/** @type {Entry[]} */
let entries = [];
/** @type {Entry|null} */
let current = null;
/** What the viewer shows, which takes a moment to decode. */
let shown = null;
let isRunning = false;
let pasted = 0;

async function connect() {
  try {
    const names = await server.names();
    const select = find("model");
    const chosen = names.includes(select.value) ? select.value : names[0];
    select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    select.value = chosen;
    select.disabled = names.length < 2;
    await describe();
    return true;
  } catch (error) {
    showTrouble(error);
    return false;
  }
}

async function describe() {
  const model = await server.model(find("model").value);
  showArtefact(model);
  const size = model.fixedSize ? `${model.fixedSize[1]} × ${model.fixedSize[0]} pixels only` : "any size";
  const limits = `up to ${count(model.maxPixels / 1e6)} megapixels and ${bytes(model.maxFileBytes)}`;
  find("accepted").textContent = `JPEG, PNG, TIFF and others; ${size}, ${limits}.`;
  find("served-by").textContent = `Served by ${location.host}: ${model.backend}.`;
  find("offline").hidden = true;
  find("token").hidden = true;
}

/** What concerns all images has its place above them. */
function showTrouble(error) {
  if (error.kind === "token") {
    find("token-reason").textContent = error.message;
    find("token").hidden = false;
    find("offline").hidden = true;
    announce(error.message);
    return;
  }
  const retry = make("button", { type: "button", id: "reconnect" }, "Try again");
  retry.addEventListener("click", reconnect);
  find("offline").replaceChildren(make("span", {}, error.message), retry);
  find("offline").hidden = false;
}

async function reconnect() {
  find("reconnect").disabled = true;
  if (await connect()) {
    announce("The server answers.");
    enqueue(entries.filter((entry) => entry.error?.kind === "offline"));
  }
}

function add(files) {
  const added = [...files].map((file) => new Entry(file, nameOf(file), select));
  if (added.length === 0) return;
  entries.push(...added);
  find("list").append(...added.map((entry) => entry.item));
  document.body.classList.remove("is-empty");
  announce(added.length === 1 ? `${added[0].name} added` : `${added.length} images added`);
  select(added[0]);
  enqueue(added);
}

/** Browsers call every pasted picture image.png. */
function nameOf(file) {
  return file.name === "image.png" && file.lastModified > Date.now() - 1000 ? `pasted-${++pasted}.png` : file.name;
}

function clear() {
  entries = [];
  find("list").replaceChildren();
  document.body.classList.add("is-empty");
  select(null);
  announce("All images removed");
  find("choose").focus();
}

function select(entry) {
  current = entry;
  updateList(entries, current);
  entry?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  showCurrent();
}

function step(places) {
  const place = entries.indexOf(current) + places;
  if (place >= 0 && place < entries.length) {
    select(entries[place]);
    announce(current.name);
  }
}

function enqueue(wanted) {
  for (const entry of wanted) entry.update("waiting", { error: null, round: (entry.round ?? 0) + 1 });
  showCurrent();
  run();
}

async function run() {
  if (isRunning) return;
  isRunning = true;
  for (let entry; (entry = entries.find(({ state }) => state === "waiting")); ) await segmentEntry(entry);
  isRunning = false;
}

async function segmentEntry(entry) {
  const { round } = entry;
  entry.update("running");
  if (entry === current) showCurrent();
  let changes;
  try {
    changes = ["done", { segmented: await segment(server, find("model").value, entry.file, sayBusy) }];
  } catch (error) {
    changes = ["failed", { error: error instanceof ServerError ? error : unreadable(error) }];
  }
  if (entry.round !== round || !entries.includes(entry)) return;
  entry.update(...changes);
  if (entry.state === "done") await finish(entry);
  else fail(entry);
  updateList(entries, current);
  if (entry === current) await showCurrent();
}

async function finish(entry) {
  const { segmented } = entry;
  find("offline").hidden = true;
  if (segmented.model.name === find("model").value) showArtefact(segmented.model);
  const image = await pixelsOf(entry.file, segmented);
  entry.setThumbnail(await thumbnailOf(overlay(image, segmented.classMap, segmented.model.classes, 0.5)));
  const place = entries.length > 1 ? `${entries.indexOf(entry) + 1} of ${entries.length}, ` : "";
  announce(`${place}${entry.name}: segmented in ${milliseconds(segmented.milliseconds)}. ${areasInWords(segmented)}`);
}

function fail(entry) {
  const { error } = entry;
  if (error.kind === "offline" || error.kind === "token") showTrouble(error);
  if (error.kind === "missing") connect();
  if (entry !== current) announce(`${entry.name}: ${error.message}`);
}

function unreadable(error) {
  console.error(error);
  return new ServerError("invalid", "The file cannot be read. Folders are not taken; choose the images in them.");
}

function sayBusy(seconds) {
  const text = `The server is busy; trying again in ${count(seconds)} s.`;
  find("waiting-text").textContent = text;
  announce(text);
}

async function showCurrent() {
  const entry = current;
  const isDone = entry?.state === "done";
  find("waiting").hidden = !entry || isDone || entry.state === "failed";
  find("waiting-text").textContent = entry?.state === "running" ? "Segmenting …" : "Waiting for its turn …";
  showFailure(entry);
  if (!isDone && shown?.entry !== entry) show(null);
  if (!isDone || shown?.segmented === entry.segmented) return;
  const image = await pixelsOf(entry.file, entry.segmented).catch((error) => error);
  if (current !== entry || entry.state !== "done") return;
  if (image instanceof Error) {
    entry.update("failed", { error: unreadable(image) });
    showFailure(entry);
  } else {
    show({ entry, name: entry.name, image, segmented: entry.segmented });
  }
}

function show(what) {
  shown = what;
  viewer.show(shown);
  showDetails(shown, viewer);
}

function showFailure(entry) {
  const hasFailed = entry?.state === "failed";
  if (hasFailed) {
    show(null);
    find("failure-name").textContent = entry.name;
    find("failure-text").textContent = entry.error.message;
  }
  find("failure").hidden = !hasFailed;
}

function listenToFiles() {
  find("choose").addEventListener("click", () => find("files").click());
  find("files").addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
  window.addEventListener("paste", (event) => add(event.clipboardData.files));
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    find("dropping").hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) find("dropping").hidden = true;
  });
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    find("dropping").hidden = true;
    add(event.dataTransfer.files);
  });
}

function listenToButtons() {
  find("clear").addEventListener("click", clear);
  find("retry").addEventListener("click", () => (find("offline").hidden ? enqueue([current]) : reconnect()));
  find("model").addEventListener("change", async () => {
    await describe().catch(showTrouble);
    enqueue(entries);
  });
  find("token").addEventListener("submit", async (event) => {
    event.preventDefault();
    server.token = find("token-value").value;
    if (!(await connect())) return;
    find("token-value").value = "";
    announce("The server takes the token.");
    enqueue(entries.filter((entry) => entry.error?.kind === "token"));
    find("choose").focus();
  });
}

listenToFiles();
listenToButtons();
listenToKeys({
  view: (name) => viewer.setView(name),
  opacity: (points) => viewer.addOpacity(points),
  step,
  choose: () => find("choose").click(),
  release: () => releaseClass(viewer),
});
connect();
