"""Where the mask of an image lies."""

import re
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.data.paths import is_image_name, names_in

_PLACEHOLDERS = ("stem", "parent")


@dataclass(frozen=True)
class MaskTemplate:
    """Where a mask lies below the folder of masks.

    ``{stem}`` is the image's name without its suffix, ``{parent}`` its folder relative to the folder of images (empty
    for images right in it).
    """

    text: str
    key: str

    @classmethod
    def parse(cls, text: str, key: str, faults: list[str]) -> "MaskTemplate | None":
        """A template; an unknown placeholder is added to `faults` and gives None."""
        unknown = [name for name in re.findall(r"\{([^{}]*)\}", text) if name not in _PLACEHOLDERS]
        if unknown:
            faults.append(f"{key}: unknown {{{unknown[0]}}} in {text!r}; a template knows {{stem}} and {{parent}}")
            return None
        return cls(text, key)

    def mask_of(self, image: Path, images: Path, masks: Path | None) -> Path | None:
        """The place of an image's mask; None without a folder of masks."""
        if masks is None:
            return None
        parent = image.parent.relative_to(images).as_posix() if image.is_relative_to(images) else "."
        name = self.text.replace("{parent}", "" if parent == "." else parent).replace("{stem}", image.stem)
        return masks / name.lstrip("/")

    def fits(self, mask: Path, masks: Path) -> bool:
        """Whether some image could have this mask."""
        pattern = re.escape(self.text).replace(r"\{stem\}", "[^/]+").replace(r"\{parent\}/", "(.+/)?")
        return re.fullmatch(pattern.replace(r"\{parent\}", ".*"), mask.relative_to(masks).as_posix()) is not None

    def near(self, image: Path, mask: Path) -> str:
        """`` (there is X: …)`` when the folder of the missing mask holds a file that looks meant."""
        names = names_in(mask.parent)
        candidates = (name for name in names if name.startswith(image.stem) and is_image_name(name))
        name = next((name for name in candidates if mask.parent / name != image), None)
        if name is None:
            unread = next((name for name in names if Path(name).stem == image.stem), None)
            return f" (there is {unread}, which is not read)" if unread is not None else ""
        suggestion = name.replace(image.stem, "{stem}", 1)
        folder, slash, _ = self.text.rpartition("/")
        return f" (there is {name}: set {self.key} to '{folder}{slash}{suggestion}'?)"
