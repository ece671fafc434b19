"""Many images on one page, numbered."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from protoseg_deploy.data import read_image
from protoseg_deploy.errors import DataError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.recipe import ImageReading

_CELL, _TEXT, _COLUMNS, _GAP = 240, 26, 5, 8
_MOST = 100


def write_contact_sheet(path: Path, images: Sequence[Path], captions: Sequence[str], reading: ImageReading) -> None:
    """Write a JPEG of the first hundred images, five in a row, each with its number, name and caption.

    Raises:
        WriteError: it cannot be written.
    """
    shown = list(zip(images, captions, strict=True))[:_MOST]
    rows = -(-len(shown) // _COLUMNS)
    cell_height = _CELL + 2 * _TEXT
    sheet = Image.new("RGB", (_COLUMNS * (_CELL + _GAP) + _GAP, rows * (cell_height + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(shown):
        left = _GAP + number % _COLUMNS * (_CELL + _GAP)
        top = _GAP + number // _COLUMNS * (cell_height + _GAP)
        try:
            picture = Image.fromarray(read_image(image, reading))
        except DataError:  # gone since it was chosen
            continue
        picture.thumbnail((_CELL, _CELL))
        sheet.paste(picture, (left + (_CELL - picture.width) // 2, top + (_CELL - picture.height) // 2))
        name = f"{number + 1}  {image.name}".encode("ascii", "replace").decode()
        for line, text in enumerate((name, caption)):
            draw.text((left, top + _CELL + 2 + line * (_TEXT - 6)), text[:38], fill="black", font_size=14)
    stored = BytesIO()
    sheet.save(stored, "JPEG", quality=85)
    write_atomically(path, stored.getvalue())
