/** Small tools of the page: elements, numbers as text, messages for screen readers, files to save. */

const NUMBERS = new Intl.NumberFormat("en");
const ONE_DECIMAL = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const PERCENT = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** The element with an id. */
export function find(id) {
  return document.getElementById(id);
}

/**
 * A new element.
 *
 * @param {string} tag
 * @param {object} properties of the element; names with a dash are attributes
 * @param {...(Node|string)} children
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function count(value) {
  return NUMBERS.format(value);
}

/** A share of 0 to 1 as text; what is there never reads as nothing. */
export function percent(share) {
  return share > 0 && share < 0.0005 ? "<0.1 %" : `${PERCENT.format(share * 100)} %`;
}

export function bytes(value) {
  return value < 1e5 ? `${count(Math.ceil(value / 1e3))} kB` : `${ONE_DECIMAL.format(value / 1e6)} MB`;
}

export function milliseconds(value) {
  return value < 1000 ? `${Math.max(1, Math.round(value))} ms` : `${ONE_DECIMAL.format(value / 1000)} s`;
}

/** Tell a screen reader. */
export function announce(text) {
  find("announcer").textContent = text;
}

/** Let the browser save a file. */
export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
