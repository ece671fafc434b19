"""A strict reader of pages: every element is closed in order, and what a page needs to be read by all is there."""

from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "img", "br", "input", "hr", "link", "polyline", "polygon", "circle", "line"}
"""Elements without an end; those of SVG are closed by themselves."""


class StrictPage(HTMLParser):
    """Reads a page; `faults` says what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        """What is shown or run, outside of the style."""
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        if self._open:
            self.faults.append(f"never closed: {self._open}")
        self._check()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"<{tag}> at {self.getpos()} has an attribute twice")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        where = self._open[-1] if self._open else ""
        {"script": self.scripts, "style": self.styles}.get(where, self.texts).append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def of(self, tag: str) -> list[dict[str, str]]:
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def _check(self) -> None:
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        self.faults += [f"id {name} twice" for name in set(ids) if ids.count(name) > 1]
        used = [value for _, found in self.elements for key, value in found.items() if key == "aria-labelledby"]
        used += [link["href"][1:] for link in self.of("a") if link["href"].startswith("#")]
        self.faults += [f"no element {name}" for name in used if name not in ids]
        levels = [int(tag[1]) for tag, _ in self.elements if tag in ("h1", "h2", "h3", "h4", "h5", "h6")]
        if levels[:1] != [1] or levels.count(1) != 1:
            self.faults.append("not one h1 first")
        steps = pairwise(levels)
        self.faults += [f"h{level} after h{above}" for above, level in steps if level > above + 1]
        self.faults += [f"picture without text: {image}" for image in self.of("img") if not image.get("alt")]
        self.faults += [
            f"th without scope: {head}" for head in self.of("th") if head.get("scope") not in ("col", "row")
        ]
        self.faults += [f"chart without name: {one}" for one in self.of("svg") if not _is_named(one)]
        self.faults += [
            f"handler in <{tag}>"
            for tag, attributes in self.elements
            if any(name.startswith("on") for name in attributes)
        ]


def _is_named(svg: dict[str, str]) -> bool:
    return svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and bool(svg.get("aria-label")))
