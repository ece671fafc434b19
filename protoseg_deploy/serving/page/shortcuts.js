/** Single-key shortcuts; they can be turned off, as speech input and some keyboards need. */

import { find } from "./elements.js";

const OFF = "protoseg-shortcuts-off";
const TYPED_IN = "input:not([type=radio], [type=range], [type=checkbox]), select, textarea";

/**
 * @param {{view: (name: string) => void, opacity: (points: number) => void, step: (places: number) => void,
 *   choose: () => void, release: () => void}} actions
 */
export function listenToKeys(actions) {
  const keys = {
    i: () => actions.view("image"),
    o: () => actions.view("overlay"),
    c: () => actions.view("classes"),
    f: () => actions.view("confidence"),
    "[": () => actions.opacity(-5),
    "]": () => actions.opacity(5),
    j: () => actions.step(1),
    k: () => actions.step(-1),
    a: () => actions.choose(),
  };
  const areOn = find("shortcuts");
  areOn.checked = sessionStorage.getItem(OFF) === null;
  areOn.addEventListener("change", () => {
    if (areOn.checked) sessionStorage.removeItem(OFF);
    else sessionStorage.setItem(OFF, "1");
  });
  window.addEventListener("keydown", (event) => {
    if (event.key === "Escape") actions.release();
    if (!areOn.checked || event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.(TYPED_IN)) return;
    const action = keys[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
