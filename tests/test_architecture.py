"""What keeps the package readable: no long files, no long functions, and a map of it that names what is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import protoseg_deploy as pd

PACKAGE = Path(pd.__file__).parent
MAP = Path(__file__).parents[1] / "docs" / "architecture.md"
LIBRARIES = {"os", "tempfile", "torch"}
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 60
"""Its docstring not counted."""


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names of all functions and methods, each with its number of lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            yield node.name, _lines(node) - (_lines(docstring) if docstring else 0)


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_how_functions_are_measured():
    inner = "    def inner():\n        pass\n"
    text = (
        f'def outer(\n    a,\n):\n    """One.\n\n    Two.\n    """\n{inner}    return a\n\n\nasync def other(): ...\n'
    )
    assert sorted(functions(ast.parse(text))) == [("inner", 2), ("other", 1), ("outer", 6)]


def test_no_file_and_no_function_is_long():
    long = []
    for file in sorted(PACKAGE.rglob("*.py")):
        text, name = file.read_text(), file.relative_to(PACKAGE).as_posix()
        if (lines := len(text.splitlines())) > MOST_LINES_OF_A_FILE:
            long.append(f"{name}: {lines} lines")
        long += [
            f"{name}: {function} has {lines} lines"
            for function, lines in functions(ast.parse(text))
            if lines > MOST_LINES_OF_A_FUNCTION
        ]
    assert not long, "split them along their meaning:\n" + "\n".join(long)


def test_the_map_names_what_is_there():
    """Files (``x/y.py``) and folders (``x/``) are relative to the package."""
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", MAP.read_text()))
    assert {"training/loop.py", "exporting/"} <= named
    assert not sorted(name for name in named if not (PACKAGE / name).exists())


def private_names(tree: ast.Module) -> Iterator[str]:
    """Names with an underscore in front that a file takes from something else than `self`, `cls` and libraries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            yield from (alias.name for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute | ast.Call):
                root = root.value if isinstance(root, ast.Attribute) else root.func
            if not (isinstance(root, ast.Name) and root.id in {"self", "cls", *LIBRARIES}):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            place = node.args[0]
            texts = [text.value for text in node.args[:2] if isinstance(text, ast.Constant)]
            if not (isinstance(place, ast.Name) and place.id in LIBRARIES):
                yield from (text for text in texts if isinstance(text, str) and _is_private(text.rpartition(".")[2]))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_which_names_are_private():
    text = "from protoseg_deploy.x import _a\nb._c\nself._d\nos._exit(1)\nf()._g.h\ni.__class__\n"
    text += "patch.setattr('x.y._e', 1)\npatch.setattr(tempfile, '_f', 1)\npatch.setattr(z, '_i', 1)\n"
    assert sorted(private_names(ast.parse(text))) == ["_a", "_c", "_g", "_i", "x.y._e"]


def test_tests_use_what_is_public():
    """What a test takes from the inside of a module cannot be moved or renamed without the test."""
    tests = Path(__file__).parent
    used = [
        f"{file.relative_to(tests).as_posix()}: {name}"
        for file in sorted(tests.rglob("*.py"))
        for name in private_names(ast.parse(file.read_text()))
    ]
    assert not used, "\n".join(used)
