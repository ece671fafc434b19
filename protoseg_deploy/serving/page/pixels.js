/** Pictures of class maps, and what is counted in them. */

const NO_CLASS = [150, 150, 150];
/** From 0 % to 100 % confidence: RGB at even distances. */
const CONFIDENCE = [[24, 22, 66], [42, 86, 138], [66, 158, 142], [174, 206, 88], [252, 236, 110]];
const DIMMED = 0xb8100c0a; // ABGR

/**
 * An image with its classes painted over, in 8.8 fixed point: the pixels that `protoseg predict` writes.
 *
 * @param {ImageData} image
 * @param {Uint8Array|Int32Array} classMap
 * @param {{color: number[]}[]} classes
 * @param {number} alpha share of the colour, 0 to 1
 * @returns {ImageData}
 */
export function overlay(image, classMap, classes, alpha) {
  const weight = Math.round(alpha * 256);
  const rest = 256 - weight;
  const table = new Uint16Array(classes.flatMap(({ color }) => color.map((value) => value * weight + 128)));
  const mixed = new ImageData(image.width, image.height);
  const [from, to] = [image.data, mixed.data];
  for (let pixel = 0, byte = 0; pixel < classMap.length; pixel++, byte += 4) {
    const entry = classMap[pixel] * 3;
    const hasColor = entry >= 0 && entry < table.length;
    for (let channel = 0; channel < 3; channel++) {
      const value = from[byte + channel];
      to[byte + channel] = hasColor ? (table[entry + channel] + value * rest) >> 8 : value;
    }
    to[byte + 3] = 255;
  }
  return mixed;
}

/** The class map in the colours of its classes. */
export function colorize(classMap, classes, width, height) {
  const table = new Uint32Array(classes.map(({ color }) => packed(color)));
  const other = packed(NO_CLASS);
  return painted(width, height, (pixel) => table[classMap[pixel]] ?? other);
}

/** Confidences of 0 to 255 on a scale from dark blue to yellow. */
export function colorizeConfidence(confidence, width, height) {
  const table = Uint32Array.from({ length: 256 }, (_, value) => packed(confidenceColor(value / 255)));
  return painted(width, height, (pixel) => table[confidence[pixel]]);
}

/** Darkness over everything that is not of one class. */
export function dimOthers(classMap, index, width, height) {
  return painted(width, height, (pixel) => (classMap[pixel] === index ? 0 : DIMMED));
}

/**
 * Pixels of each class and, where there is a confidence, its mean.
 *
 * @returns {{counts: Float64Array, meanConfidence: number|null, classConfidence: Float64Array|null}} means of 0 to 1
 */
export function measure(classMap, confidence, classes) {
  const counts = new Float64Array(classes.length);
  const sums = new Float64Array(classes.length);
  for (let pixel = 0; pixel < classMap.length; pixel++) {
    counts[classMap[pixel]] += 1;
    if (confidence) sums[classMap[pixel]] += confidence[pixel];
  }
  if (!confidence) return { counts, meanConfidence: null, classConfidence: null };
  const total = sums.reduce((sum, value) => sum + value, 0);
  return {
    counts,
    meanConfidence: total / 255 / classMap.length,
    classConfidence: sums.map((sum, index) => (counts[index] ? sum / 255 / counts[index] : 0)),
  };
}

function painted(width, height, colorOf) {
  const picture = new ImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let pixel = 0; pixel < pixels.length; pixel++) pixels[pixel] = colorOf(pixel);
  return picture;
}

function confidenceColor(share) {
  const place = share * (CONFIDENCE.length - 1);
  const first = Math.min(Math.floor(place), CONFIDENCE.length - 2);
  const [low, high] = [CONFIDENCE[first], CONFIDENCE[first + 1]];
  return low.map((value, channel) => Math.round(value + (high[channel] - value) * (place - first)));
}

/** As `ImageData` holds it on the little-endian machines that browsers run on. */
function packed([red, green, blue]) {
  return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
}
