"""Short names of what is compared."""

from collections import Counter
from collections.abc import Sequence

_MOST_PARTS = 12


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """For each path or address its last part, with as many of the parts before as tell it from the others."""
    parts = {path: [part for part in path.split("/") if part] or [path] for path in paths}
    names = {path: parts[path][-1] for path in parts}
    for depth in range(2, _MOST_PARTS):
        counts = Counter(names.values())
        if max(counts.values(), default=1) == 1:
            break
        for path, name in names.items():
            if counts[name] > 1:
                names[path] = "/".join(parts[path][-depth:])
    return names
