"""List files as editors, spreadsheets and scripts write them: every line is found, or named with its number."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus.judging import Case, Place
from tests.corpus.kits import recipe_tree, write_data, write_recipe
from tests.corpus.launching import Ended

Content = bytes | str | Callable[[Place, Path], object]
"""What a list holds, or a function that writes it."""

PLAIN = "labeled/images/0.png labeled/masks/0.png\nlabeled/images/1.png labeled/masks/1.png\n"
"""A list of two of the three labelled images."""


def _check(content: Content, part: str) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        write_data(place / "data")
        file = place / "data" / "names.txt"
        if isinstance(content, (bytes, str)):
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            content(place, file)
        tree = recipe_tree(place / "data")
        tree["data"][part] = {"list": "names.txt"}
        return ["check", write_recipe(place / "mine.yaml", tree), "--json"]

    return make


def _finds(count: int, part: str) -> Callable[[Place, Ended], None]:
    def check(place: Place, ended: Ended) -> None:
        assert json.loads(ended.out.decode("utf-8"))[part]["images"] == count

    return check


def reads(name: str, content: Content, count: int = 2, part: str = "labeled") -> Case:
    """All images of the list are found."""
    return Case(name, _check(content, part), right=_finds(count, part), must_pass=True)


def either(name: str, content: Content, count: int = 2, part: str = "labeled") -> Case:
    """All images are found, or the list is named."""
    return Case(name, _check(content, part), ("names.txt", "images/0.png"), right=_finds(count, part))


def refuses(name: str, content: Content, part: str = "labeled") -> Case:
    """The list is named, with its line where there is one, or an image in it."""
    # check says all that is wrong: up to 500 lines
    return Case(name, _check(content, part), ("names.txt", "images/0.png"), most_characters=500_000)


def _renamed(new: str) -> Callable[[Place, Path], object]:
    """The first image and its mask under another name."""

    def write(place: Place, file: Path) -> None:
        for kind in ("images", "masks"):
            folder = place / "data" / "labeled" / kind
            (folder / new).parent.mkdir(exist_ok=True)  # a name with markup has a slash
            (folder / "0.png").rename(folder / new)
        text = PLAIN.replace("0.png labeled", f"{new}\tlabeled").replace("masks/0.png", f"masks/{new}")
        file.write_bytes(os.fsencode(text))

    return write


def _elsewhere(place: Place, file: Path) -> None:
    """Absolute paths, to files outside of data.root."""
    shutil.copytree(place / "data" / "labeled", place / "more")
    file.write_text("".join(f"{place.root}/more/images/{n}.png {place.root}/more/masks/{n}.png\n" for n in (0, 1)))


LISTS = [
    reads("plain", PLAIN),
    reads("no-end-of-line", PLAIN.strip()),
    reads("windows-ends-of-lines", PLAIN.replace("\n", "\r\n")),
    either("old-macintosh-ends-of-lines", PLAIN.replace("\n", "\r")),
    reads("byte-order-mark", b"\xef\xbb\xbf" + PLAIN.encode()),
    reads("comments-and-blank-lines", "# a comment\n\n  \n" + PLAIN + "\n\n#\n"),
    reads("tabs", PLAIN.replace(" ", "\t")),
    reads("blanks-around", PLAIN.replace(" ", "   ").replace("\n", "  \n ")),
    reads("leading-slash", PLAIN.replace("labeled", "/labeled")),
    reads("absolute", _elsewhere),
    either("leading-dot", PLAIN.replace("labeled", "./labeled")),
    either("up-and-down", PLAIN.replace("labeled/", "labeled/../labeled/")),
    either("double-slashes", PLAIN.replace("/", "//")),
    either("backslashes", PLAIN.replace("/", "\\")),
    either("commas", PLAIN.replace(" ", ",")),
    either("commas-and-quotes", '"' + PLAIN.replace(" ", '","').replace("\n", '"\n"').removesuffix('"')),
    either("semicolons", PLAIN.replace(" ", ";")),
    either("heading-of-a-table", "image,mask\n" + PLAIN.replace(" ", ",")),
    either("the-same-line-twice", PLAIN + PLAIN),
    reads("name-with-blanks", _renamed("a b.png")),
    reads("name-with-markup", _renamed("[/red].png")),
    reads("name-with-a-comma", _renamed("a,b.png")),
    reads("name-with-a-backslash", _renamed("a\\b.png")),
    either("name-not-utf8", _renamed(os.fsdecode(b"stra\xdfe.png"))),
    either("name-with-a-sharp", _renamed("#1.png")),
    refuses("empty", ""),
    refuses("comments-alone", "# nothing\n#\n"),
    refuses("blank-lines-alone", "\n\n \n"),
    refuses("missing", lambda place, file: None),
    refuses("folder", lambda place, file: file.mkdir()),
    refuses("named-pipe", lambda place, file: os.mkfifo(file)),
    refuses("link-to-a-device", lambda place, file: file.symlink_to("/dev/zero")),
    refuses("link-to-itself", lambda place, file: file.symlink_to(file)),
    refuses("image-that-is-not-there", PLAIN + "labeled/images/9.png labeled/masks/9.png\n"),
    refuses("mask-that-is-not-there", PLAIN.replace("masks/1", "masks/9")),
    refuses("no-masks", PLAIN.replace("labeled/masks/0.png", "").replace("labeled/masks/1.png", "")),
    refuses("three-columns", PLAIN.replace("\n", " labeled/masks/1.png\n")),
    refuses("folder-in-a-line", PLAIN + "labeled/images labeled/masks\n"),
    refuses("dot-in-a-line", PLAIN + ". .\n"),
    refuses("mask-is-its-image", "labeled/images/0.png labeled/images/0.png\n"),
    refuses("the-list-names-itself", PLAIN + "names.txt names.txt\n"),
    refuses("device", PLAIN + "/dev/zero /dev/zero\n"),
    refuses("name-of-1000-characters", PLAIN + "x" * 1000 + ".png\n"),
    refuses("name-of-a-million-characters", PLAIN + "x" * 10**6 + ".png labeled/masks/0.png\n"),
    refuses("folders-of-3000-levels", PLAIN + "a/" * 3000 + "x.png\n"),
    refuses("a-million-blanks-in-a-name", PLAIN + "a " * 5000 + "\n"),
    refuses("nul-byte", PLAIN.encode() + b"labeled/images/\0.png labeled/masks/2.png\n"),
    refuses("tilde-of-nobody", PLAIN + "~nobody-here/x.png ~nobody-here/y.png\n"),
    refuses("markup-not-there", PLAIN + "[/red][bold].png [/].png\n"),
    refuses("escape-not-there", PLAIN + "\x1b[31mred\x1b[0m.png x.png\n"),
    either("utf-16", PLAIN.encode("utf-16")),
    refuses("utf-32", PLAIN.encode("utf-32")),
    refuses("noise", bytes(range(256)) * 20),
    refuses("zeros", b"\0" * 10_000),
    refuses("an-image", (b"\x89PNG\r\n\x1a\n" + bytes(range(200)))),
    refuses("10000-lines-to-nothing", "".join(f"labeled/images/none{n}.png x{n}.png\n" for n in range(10_000))),
]
UNLABELED = [
    reads("unlabelled-plain", "unlabeled/images/0.png\nunlabeled/images/2.png\n", part="unlabeled"),
    either("unlabelled-twice", "unlabeled/images/0.png\n" * 3, count=1, part="unlabeled"),
    either(
        "unlabelled-in-two-ways",
        "unlabeled/images/0.png\nunlabeled/images/../images/0.png\n",
        count=2,
        part="unlabeled",
    ),
    refuses("unlabelled-empty", "", part="unlabeled"),
    refuses("unlabelled-nothing-there", "nothing.png\n", part="unlabeled"),
    refuses("unlabelled-a-name-too-long", "x" * 1000 + ".png\n", part="unlabeled"),
    refuses("unlabelled-nul-byte", b"\0.png\n", part="unlabeled"),
    refuses("unlabelled-named-pipe", lambda place, file: os.mkfifo(file), part="unlabeled"),
    refuses("unlabelled-a-folder", "unlabeled/images\n", part="unlabeled"),
    refuses("validation-without-masks", "val/images/0.png\n", part="val"),
]


@pytest.mark.parametrize("case", [*LISTS, *UNLABELED], ids=lambda case: case.name)
def test_list(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
