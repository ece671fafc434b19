"""List files: one image per line or ``image mask`` per line, as the public split lists are written."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from protoseg_deploy.data.list_text import (
    SEPARATORS,
    image_column,
    plain_columns,
    read_lines,
    separated,
    spellings,
    splittings,
)
from protoseg_deploy.data.paths import (
    expanded,
    is_folder,
    is_image_name,
    modified_ns,
    name_below,
    names_in,
    trouble_with,
)
from protoseg_deploy.data.pool import LARGE_POOL

Pair = tuple[Path, Path | None]

_MOST_FAULTS = 1000
_SHOWN = 100


class ListReader:
    """Reads one list file.

    Blank lines and lines that start with ``#`` are skipped. Columns are separated by a tab; by blanks, commas or
    semicolons where that leads to existing files. A path starts at the folder the recipe gives for it (``images``,
    ``masks``) or, where there is no such file, at ``data.root``; a leading ``/`` that leads nowhere is dropped, as some
    public lists have it, and backslashes that lead nowhere are read as slashes. A name without an image suffix (VOC's
    ``2007_000032``) is looked up with every suffix known.

    Args:
        root: ``data.root``, absolute.
        name: the list file; relative paths start at `root`.
        key: the recipe key to name in faults.
        faults: whatever is wrong is added here, with file and line; of a list with very many faulty lines the first.
    """

    def __init__(self, root: Path, name: str, key: str, faults: list[str]) -> None:
        self._root = root
        self._path = root / expanded(name)
        self._key = key
        self._faults = faults
        self._before = len(faults)
        self._folders: dict[Path, dict[str, list[str]]] = {}
        self._readings: dict[tuple[bool, bool], tuple[str, bool]] = {}

    def pairs(self, images: Path | None, masks: Path | None, *, need_masks: bool = True) -> Iterator[Pair]:
        """Image and mask of each line, absolute paths; the mask is None where a line names none."""
        for where, text in self._lines():
            pair = self._pair(text, images, masks, where, need_masks)
            if pair is not None:
                yield pair

    def image_names(self, images: Path | None, sources: dict[str, int]) -> set[str]:
        """The images alone, relative to `root` where they lie below it.

        In a list of more than `LARGE_POOL` lines files are not looked for one by one: where the first file of a folder
        lies, the others are taken to lie as well, and a line ends its image's name with the first image suffix.

        Args:
            images: the folder the recipe gives for images.
            sources: the list, and the folders that were looked into, are added here with their times of modification.
        """
        sources[str(self._path)] = modified_ns(self._path)
        lines = self._lines()
        first = list(islice(lines, LARGE_POOL + 1))
        if len(first) <= LARGE_POOL:
            pairs = (self._pair(text, images, None, where, need_masks=False) for where, text in first)
            return {name_below(pair[0], self._root) for pair in pairs if pair is not None}
        names: set[str] = set()
        places: dict[str, str] = {}
        for where, text in chain(first, lines):
            if self._ends_at(where):
                break
            name = self._image_column(text, images)
            parent = name[: name.rfind("/") + 1]
            file = name[len(parent) :]
            if not is_image_name(file):
                found = self._find(name, images, where, "image")
                names |= set() if found is None else {name_below(found, self._root)}
                continue
            if parent not in places:
                places[parent] = self._place(parent, file, images, sources)
            names.add(places[parent] + file)
        sources |= {str(folder): modified_ns(folder) for folder in self._folders}
        return names

    def _image_column(self, text: str, images: Path | None) -> str:
        """The image of a line of a large list: the first line with commas or backslashes decides for all others."""
        name = image_column(text)
        signs = (any(separator in name for separator in SEPARATORS), "\\" in name)
        if not any(signs):
            return name
        if signs not in self._readings:
            readings = [(separator, slashes) for separator in ("", *SEPARATORS) for slashes in (False, True)]
            there = (reading for reading in readings if self._exact(_as_read(name, *reading), images))
            self._readings[signs] = next(there, ("", False))
        return _as_read(name, *self._readings[signs])

    def _place(self, parent: str, file: str, images: Path | None, sources: dict[str, int]) -> str:
        """What stands before the names of files that the list gives as `parent` and a name: ``""`` or ``a/b/``."""
        candidates = [base / parent.lstrip("/") for base in (images, self._root) if base is not None]
        if parent.startswith("/"):
            candidates.insert(0, Path(parent))
        sources |= {str(folder): modified_ns(folder) for folder in candidates}
        found = [path.parent for path in self._candidates(parent + file, images)]
        folder = next(iter([*found, *filter(is_folder, candidates), candidates[-1]]))
        return name_below(folder / file, self._root)[: -len(file)]

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Where a line stands (``list.txt:3``), and what it says."""
        empty = True
        try:
            for number, text in read_lines(self._path):
                empty = False
                where = f"{self._path}:{number}"
                yield where, text
                if self._ends_at(where):
                    return
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if isinstance(error, UnicodeError):
                reason = "not a text file"
            self._faults.append(f"{self._key}: cannot read {self._path}: {reason}")
            return
        if empty:
            self._faults.append(f"{self._key}: {self._path} lists no images")

    def _ends_at(self, where: str) -> bool:
        """Whether there are so many errors that the rest of the list is not read."""
        if len(self._faults) - self._before < _MOST_FAULTS:
            return False
        self._faults.append(f"{where}: the list has too many errors, what follows is not read")
        return True

    def _pair(self, text: str, images: Path | None, masks: Path | None, where: str, need_masks: bool) -> Pair | None:
        there = (columns for columns in splittings(text) if columns and self._candidates(columns[0], images))
        columns = next(there, None) or plain_columns(text)
        if len(columns) > 2:
            self._faults.append(f"{where}: {len(columns)} columns; a line is an image, or an image and its mask")
            return None
        image = self._find(columns[0], images, where, "image")
        if len(columns) == 1 or not need_masks:
            return None if image is None else (image, None)
        mask = self._find(columns[1], masks, where, "mask")
        return None if image is None or mask is None else (image, mask)

    def _find(self, name: str, folder: Path | None, where: str, kind: str) -> Path | None:
        found = self._candidates(name, folder)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            self._faults.append(f"{where}: {name} is ambiguous: {names}; give the suffix or remove all but one")
            return None
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}… ({len(name)} characters)"
        base = folder or self._root
        reason = trouble_with(base / name.strip().replace("\\", "/").lstrip("/"))
        hint = "" if reason == "no such file" else f": {reason}"
        if folder is None and not is_image_name(name):
            hint += f" (set {self._key.rpartition('.')[0]}.{kind}s to the folder they lie in)"
        self._faults.append(f"{where}: no {kind} {shown} in {base}{hint}")
        return None

    def _candidates(self, name: str, folder: Path | None) -> list[Path]:
        """Files that a name in the list may mean: several only for a bare stem."""
        return next(filter(None, (self._exact(spelling, folder) for spelling in spellings(name))), [])

    def _exact(self, name: str, folder: Path | None) -> list[Path]:
        """Files of this name, spelled so."""
        if Path(name).is_absolute() and not trouble_with(Path(name)):
            return [Path(name)]
        relative = name.lstrip("/")
        for base in (self._root,) if folder is None else (folder, self._root):
            path = base / relative
            if is_image_name(name):
                if not trouble_with(path):
                    return [path]
            elif matches := self._with_stem(path.parent).get(path.name):
                return [path.parent / match for match in matches]
        return []

    def _with_stem(self, folder: Path) -> dict[str, list[str]]:
        """Names of the image files of a folder by stem, read once."""
        if folder not in self._folders:
            stems: dict[str, list[str]] = {}
            for name in names_in(folder):
                if is_image_name(name):
                    stems.setdefault(Path(name).stem, []).append(name)
            self._folders[folder] = stems
        return self._folders[folder]


def _as_read(name: str, separator: str, slashes: bool) -> str:
    """A name of a large list up to its first separator, backslashes replaced where that is the reading."""
    if separator and separator in name:
        name = next(iter(separated(name, separator)), name)
    return name.replace("\\", "/") if slashes else name
