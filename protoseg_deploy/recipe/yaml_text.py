"""YAML as recipes use it: mappings, lists and plain values of one small document.

PyYAML expands aliases without limit, follows any depth and ends in errors of Python's own on values that do not fit
their type. Here every size has a limit, and every error has a line and a column. Numbers are those of YAML 1.2
(``1e-3``), and what YAML 1.1 and 1.2 read differently (``010``, ``1:30``) is refused.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from protoseg_deploy.documents import as_utf8

Key = tuple[str, ...]
"""Where a value stands: ``("data", "labeled", "images")``; the items of a list by their numbers."""

MOST_BYTES = 128 * 1024
_MOST_VALUES = 5_000
"""Of the document with every alias written out."""
_DEEPEST = 20
_LONGEST_NUMBER = 100
"""Characters."""

_TAG = "tag:yaml.org,2002:"
_TRUTH = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}


class YamlFault(Exception):
    """The text is not what a recipe may hold; line and column count from 1."""

    def __init__(self, what: str, line: int = 0, column: int = 0) -> None:
        super().__init__(what)
        self.what, self.line, self.column = what, line, column


class NotYaml(YamlFault):
    """The text is not YAML at all."""


@dataclass
class YamlDocument:
    """A document and where its parts stand."""

    tree: Any = None
    """Mappings, lists, strings, numbers, truth values and None."""
    lines: dict[Key, int] = field(default_factory=dict)
    """Of every key of a mapping."""
    repeated: list[tuple[Key, int]] = field(default_factory=list)
    """Keys that a mapping holds twice, with the line of the second."""
    written: dict[Key, str] = field(default_factory=dict)
    """How values that YAML takes for something else than text were written, without quotes."""


def read_yaml(text: str) -> YamlDocument:
    """Read one document.

    Raises:
        NotYaml: it is not YAML.
        YamlFault: it is larger, deeper or stranger than a recipe.
    """
    document = YamlDocument()
    node = _compose(text)
    if node is not None:
        document.tree = _Builder(document).value(node, (), 0)
    return document


def decode_yaml(content: bytes) -> str:
    """Text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        YamlFault: it is in none of these.
    """
    text = as_utf8(content)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise YamlFault(f"not a text file in UTF-8: {error.reason} at byte {error.start}", line) from None


def dump_yaml(tree: Any) -> str:
    """YAML of a tree, readable by `read_yaml` and by readers of either version of YAML."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """PyYAML's reader, scanner and parser; what values mean is decided by `_Builder`."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 – none of YAML 1.1

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > _DEEPEST:
            raise YamlFault(f"nested more than {_DEEPEST} levels deep", mark.line + 1, mark.column + 1)
        if self._count > _MOST_VALUES:
            raise YamlFault(f"more than {_MOST_VALUES:,} values", mark.line + 1, mark.column + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that looks like a number to any reader."""


_NUMBER = list("-+0123456789.")
for _name, _pattern, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    ("int", r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]+|0|[1-9][0-9_]*)", _NUMBER),
    ("float", r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?", _NUMBER),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", _NUMBER),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", _NUMBER),
    ("sexagesimal", r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?", _NUMBER),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), _first)


def _compose(text: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise NotYaml(f"not valid YAML: {error.problem or error.context}", *where) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(f"not a text file: character U+{error.character:04X}", line) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # `"\UFFFFFFFF"`, `%YAML 1.` and 5,000 digits
        line = loader.line + 1 if loader is not None else 0
        raise NotYaml(f"not valid YAML: {(str(error).splitlines() or [''])[0]}", line) from None


class _Builder:
    """Values of nodes; every visit counts, so that aliases cannot multiply."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self._visits = 0

    def value(self, node: yaml.Node, key: Key, depth: int) -> Any:
        self._visit(node, depth)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        if isinstance(node, yaml.SequenceNode):
            self._require_tag(node, "seq")
            return [self.value(item, (*key, str(number)), depth + 1) for number, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        self._require_tag(node, "map")
        mapping: dict[Any, Any] = {}
        for name, item in self._entries(node, key, depth):
            mapping[name] = self.value(item, (*key, str(name)), depth + 1)
        return mapping

    def _visit(self, node: yaml.Node, depth: int) -> None:
        self._visits += 1
        if depth > _DEEPEST:
            _fault(node, "an alias inside of what it stands for, or nested too deeply")
        if self._visits > _MOST_VALUES:
            _fault(node, f"more than {_MOST_VALUES:,} values once aliases are written out")

    def _entries(self, node: yaml.MappingNode, key: Key, depth: int) -> Iterator[tuple[Any, yaml.Node]]:
        """Names and values, own ones after those merged in by ``<<``."""
        own: list[tuple[Any, yaml.Node]] = []
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                yield from self._merged(value_node, key, depth + 1)
                continue
            name = self._name(key_node, key)
            line = key_node.start_mark.line + 1
            if str(name) in seen:
                self._document.repeated.append(((*key, str(name)), line))
            else:
                self._document.lines[(*key, str(name))] = line
            seen.add(str(name))
            own.append((name, value_node))
        yield from own

    def _merged(self, node: yaml.Node, key: Key, depth: int) -> Iterator[tuple[Any, yaml.Node]]:
        self._visit(node, depth)
        if isinstance(node, yaml.SequenceNode):
            for item in reversed(node.value):  # the first has the last word
                if not isinstance(item, yaml.MappingNode):
                    _fault(item, "<< takes a mapping or a list of mappings")
                yield from self._merged(item, key, depth + 1)
        elif isinstance(node, yaml.MappingNode):
            for name, value in self._entries(node, key, depth):
                self._visit(value, depth)
                yield name, value
        else:
            _fault(node, "<< takes a mapping or a list of mappings")

    def _name(self, node: yaml.Node, key: Key) -> str | int:
        if not isinstance(node, yaml.ScalarNode):
            _fault(node, "a key is a list or a mapping; braces that belong to a text go in quotes")
        self._visit(node, 0)
        name = self._scalar(node, key)
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            _fault(node, f"the key {node.value or 'that is empty'} is {_kind(name)} to YAML: write it in quotes")
        return name

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        name, text = node.tag.removeprefix(_TAG), node.value
        if name == "str" or (name in {"merge", "value"} and node.style is None):
            return text
        read = _SCALARS.get(name)
        if read is None:
            _fault(node, f"the tag {node.tag.replace(_TAG, '!!')} means nothing in a recipe")
        if node.style is None:
            self._document.written[key] = text
        if len(text) > _LONGEST_NUMBER:
            _fault(node, f"a number of {len(text):,} characters")
        try:
            return read(text)
        except (KeyError, ValueError) as error:
            reason = error.args[0] if isinstance(error, _Ambiguous) else f"{text!r} is not what !!{name} means"
            _fault(node, reason)

    def _require_tag(self, node: yaml.Node, name: str) -> None:
        if node.tag != _TAG + name:
            _fault(node, f"the tag {node.tag.replace(_TAG, '!!')} means nothing in a recipe")


class _Ambiguous(ValueError):
    pass


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    unsigned = digits.lstrip("+-")
    if unsigned.startswith(("0x", "0b")):
        return int(digits, 0)
    number = int(digits)
    if len(unsigned) > 1 and unsigned[0] == "0":
        octal = set(unsigned) <= set("01234567")
        if octal and int(unsigned, 8) != abs(number):
            raise _Ambiguous(
                f"{text} is {int(digits, 8)} in YAML 1.1 and {number} in YAML 1.2: write one of the two, or put it in "
                "quotes if it is a text"
            )
    return number


def _sexagesimal(text: str) -> NoReturn:
    raise _Ambiguous(
        f"{text} is a number to base 60 in YAML 1.1: write it in full, or put it in quotes if it is a text"
    )


def _float(text: str) -> float:
    digits = text.replace("_", "").lower()
    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))


def _null(text: str) -> None:
    if text.lower() not in {"", "~", "null"}:
        raise ValueError


_SCALARS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: _TRUTH[text.lower()],
    "int": _integer,
    "float": _float,
    "sexagesimal": _sexagesimal,
    "null": _null,
}


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else f"the number {value}"


def _fault(node: yaml.Node, what: str) -> NoReturn:
    raise YamlFault(what, node.start_mark.line + 1, node.start_mark.column + 1)
