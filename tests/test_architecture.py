"""What keeps the package readable: no long files, no long functions, and a map of it that names what is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import protoseg_deploy as pd

PACKAGE = Path(pd.__file__).parent
MAP = Path(__file__).parents[1] / "docs" / "architecture.md"
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
