/**
 * The Open Inference Protocol, as far as the page needs it.
 *
 * Requests and answers are a JSON header and then the content of the tensors, as it is: class maps arrive as exact
 * indices, images leave as the bytes of their files.
 */

const HEADER_LENGTH = "Inference-Header-Content-Length";
const TOKEN = "protoseg-token";
/** Of a request, beside the file. */
const REQUEST_SLACK = 4096;

/** What keeps a request from being answered; `kind` decides what the page offers. */
export class ServerError extends Error {
  /**
   * @param {"offline"|"token"|"busy"|"too large"|"invalid"|"missing"|"failed"} kind
   * @param {string} message
   * @param {number} retryAfter seconds, for "busy"
   */
  constructor(kind, message, retryAfter = 0) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

/** What a model is and takes, from its metadata. */
export class Model {
  constructor(metadata) {
    const { parameters } = metadata;
    const facts = JSON.parse(parameters.protoseg);
    const names = JSON.parse(parameters.classes);
    const colors = JSON.parse(parameters.colors);
    this.name = metadata.name;
    this.version = metadata.versions.at(-1);
    this.classes = names.map((name, index) => ({ index, name, color: colors[index] }));
    this.outputs = new Set(metadata.outputs.map((output) => output.name));
    this.sha256 = parameters.sha256;
    this.verdict = parameters.verified;
    this.precision = parameters.precision;
    this.backend = parameters.backend;
    this.reading = facts.metadata.reading;
    /** Height and width, or null: any. */
    this.fixedSize = facts.metadata.fixed_size;
    this.maxPixels = Number(parameters.max_pixels);
    this.maxFileBytes = Number(parameters.max_request_bytes) - REQUEST_SLACK;
  }
}

export class Server {
  get token() {
    return sessionStorage.getItem(TOKEN) ?? "";
  }

  set token(value) {
    sessionStorage.setItem(TOKEN, value);
  }

  /** @returns {Promise<string[]>} names of the models */
  async names() {
    const response = await this.#send("v2/repository/index", { method: "POST", body: "{}" });
    return (await response.json()).map((entry) => entry.name);
  }

  /** @returns {Promise<Model>} as it is served now */
  async model(name) {
    const response = await this.#send(`v2/models/${encodeURIComponent(name)}`);
    return new Model(await response.json());
  }

  /**
   * Segment one file.
   *
   * @param {string} name of the model
   * @param {Blob} file
   * @param {string[]} outputs
   * @returns {Promise<{version: string, milliseconds: number, tensors: Map<string, {shape: number[], data: any}>}>}
   */
  async infer(name, file, outputs) {
    const document = JSON.stringify({
      inputs: [{ name: "images", datatype: "BYTES", shape: [1], parameters: { binary_data_size: file.size + 4 } }],
      outputs: outputs.map((output) => ({ name: output, parameters: { binary_data: true } })),
    });
    const header = new TextEncoder().encode(document);
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, file.size, true);
    const started = performance.now();
    const response = await this.#send(`v2/models/${encodeURIComponent(name)}/infer`, {
      method: "POST",
      body: new Blob([header, length.buffer, file]),
      headers: { "Content-Type": "application/octet-stream", [HEADER_LENGTH]: String(header.length) },
    });
    const content = await received(response.arrayBuffer());
    const milliseconds = performance.now() - started;
    return { milliseconds, ...readAnswer(content, Number(response.headers.get(HEADER_LENGTH))) };
  }

  async #send(address, options = {}) {
    const headers = { ...options.headers, ...(this.token && { Authorization: `Bearer ${this.token}` }) };
    const response = await received(fetch(address, { ...options, headers, cache: "no-store" }));
    if (!response.ok) throw await errorOf(response, this.token !== "");
    return response;
  }
}

async function received(promise) {
  try {
    return await promise;
  } catch {
    throw new ServerError("offline", "The server does not answer. It may have stopped, or the network is down.");
  }
}

async function errorOf(response, hadToken) {
  const text = await response.text().catch(() => "");
  const reason = sentence(reasonOf(text));
  switch (response.status) {
    case 400:
      return new ServerError("invalid", reason);
    case 401:
      return new ServerError("token", hadToken ? "The server refuses this token." : "The server asks for a token.");
    case 404:
      return new ServerError("missing", reason);
    case 413:
      return new ServerError("too large", reason);
    case 503:
      return new ServerError("busy", `The server is busy: ${reason}`, Number(response.headers.get("Retry-After")) || 1);
    default:
      return new ServerError("failed", `The server failed (status ${response.status}): ${reason}`);
  }
}

function reasonOf(text) {
  try {
    return JSON.parse(text).error ?? "no reason given";
  } catch {
    return "no reason given";
  }
}

/** The server counts images of a request; the page sends one, and shows its name beside the message. */
function sentence(reason) {
  const text = reason.replace(/^image 0: /, "");
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function readAnswer(content, headerLength) {
  const document = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 0, headerLength)));
  const tensors = new Map();
  let position = headerLength;
  for (const { name, datatype, shape, parameters } of document.outputs) {
    const end = position + parameters.binary_data_size;
    tensors.set(name, { shape, data: readTensor(datatype, content.slice(position, end)) });
    position = end;
  }
  return { version: document.model_version, tensors };
}

/** Of a `BYTES` tensor the one element that a request for one image brings. */
function readTensor(datatype, content) {
  switch (datatype) {
    case "UINT8":
      return new Uint8Array(content);
    case "INT32":
      return new Int32Array(content);
    case "BYTES":
      return new Blob([content.slice(4)], { type: "image/png" });
    default:
      throw new ServerError("failed", `The server answers with ${datatype}, which this page does not read.`);
  }
}
