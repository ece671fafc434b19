/**
 * What the header of an image file says.
 *
 * Browsers and the server read plain 8-bit PNGs and JPEGs alike. Of anything else (16 bits, transparency, orientation
 * in a PNG, CMYK, TIFF, HEIC, …) the page asks the server for the pixels that the network saw.
 */

/** Of a file, that are read for its header; where a JPEG has more before its size, the size stays unknown. */
const HEADER_BYTES = 1 << 18;
const PNG = [137, 80, 78, 71, 13, 10, 26, 10];
/** Chunks after which pixels are not simply what is stored. */
const PNG_CHANGES = ["tRNS", "eXIf", "acTL"];

/**
 * @param {Blob} file
 * @returns {Promise<{width: number, height: number, isPlain: boolean}>} 0: unknown
 */
export async function readHeader(file) {
  const bytes = new DataView(await file.slice(0, HEADER_BYTES).arrayBuffer());
  const unknown = { width: 0, height: 0, isPlain: false };
  try {
    if (PNG.every((byte, index) => bytes.getUint8(index) === byte)) return pngHeader(bytes);
    if (bytes.getUint16(0) === 0xffd8) return jpegHeader(bytes) ?? unknown;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return unknown;
}

function pngHeader(bytes) {
  const [width, height, depth, colorType] = [bytes.getUint32(16), bytes.getUint32(20), bytes.getUint8(24), bytes.getUint8(25)];
  let isPlain = depth <= 8 && [0, 2, 3].includes(colorType);
  for (let position = 8; position + 8 <= bytes.byteLength; position += 12 + bytes.getUint32(position)) {
    const chunk = String.fromCharCode(...[4, 5, 6, 7].map((offset) => bytes.getUint8(position + offset)));
    if (PNG_CHANGES.includes(chunk)) isPlain = false;
    if (chunk === "IDAT") break;
  }
  return { width, height, isPlain };
}

function jpegHeader(bytes) {
  let position = 2;
  while (bytes.getUint8(position) === 0xff) {
    const marker = bytes.getUint8(position + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) {
      const components = bytes.getUint8(position + 9);
      const isPlain = marker <= 0xc2 && bytes.getUint8(position + 4) === 8 && components !== 4;
      return { height: bytes.getUint16(position + 5), width: bytes.getUint16(position + 7), isPlain };
    }
    position += marker === 0xff ? 1 : 2 + bytes.getUint16(position + 2);
  }
  return null;
}

/** Whether this browser shows a file with the pixels that the network gets. Browsers always apply the orientation. */
export function isReadHere(header, reading) {
  return header.isPlain && reading.exif === "apply" && reading.bands === null && reading.value_range === null;
}

/**
 * Pixels of a file, turned as its EXIF orientation says, without colour management.
 *
 * @param {Blob} file
 * @returns {Promise<ImageData>}
 */
export async function decode(file) {
  const bitmap = await createImageBitmap(file, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
