"""The name of the mask of each image: that of the image, ending in .png, and no two alike."""

from pathlib import Path

from protoseg_deploy.file_names import fitted, folded


class MaskNames:
    """Gives names in the order of the images; holds one text for each."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, image: Path) -> Path:
        """``a/x.jpg`` becomes ``a/x.png``; if that is taken, ``a/x.jpg.png``, or with a number.

        Args:
            image: below the folder of images.
        """
        candidates = [fitted(image.with_suffix(".png").name), fitted(f"{image.name}.png")]
        number = 1
        while True:
            name = candidates.pop(0) if candidates else fitted(f"{image.name}-{(number := number + 1)}.png")
            path = image.with_name(name)
            if (key := folded(path.as_posix())) not in self._taken:
                self._taken.add(key)
                return path
