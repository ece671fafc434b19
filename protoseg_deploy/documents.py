"""JSON that a run or a bundle holds, read into the shape it must have: a file of another shape is one clear error."""

import codecs
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import open_regular, read_at_most
from protoseg_deploy.text import readable

T = TypeVar("T")

_MOST_BYTES = 256 * 2**20


def read_document(path: Path, shape: type[T] | TypeAdapter[T], hint: str) -> T:
    """Read one JSON document.

    Args:
        path: the file.
        shape: a pydantic model, or an adapter of any type.
        hint: what to do where it is damaged.

    Raises:
        FileNotFoundError: there is no such file.
        ProtosegError: it cannot be read, is no JSON, or has another shape; the message names the file and the key.
    """
    return parse_document(_read(path, hint), str(path), shape, hint)


def parse_document(content: bytes | str, source: str, shape: type[T] | TypeAdapter[T], hint: str) -> T:
    """Read one JSON document that is in memory; `source` names it in errors. See `read_document`."""
    adapter = shape if isinstance(shape, TypeAdapter) else TypeAdapter(shape)
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        raise ProtosegError(f"{source} is damaged or of another version: {first_fault(error)}", hint) from None
    except RecursionError:
        raise ProtosegError(f"{source} is damaged: nested too deeply", hint) from None


def read_lines(path: Path, shape: type[T] | TypeAdapter[T], hint: str) -> list[T]:
    """Read a file of JSON lines; a last line without its end, as a killed program leaves it, is passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ProtosegError: a line is no JSON or has another shape; the message names file and line.
    """
    lines = _read(path, hint).split(b"\n")
    adapter = shape if isinstance(shape, TypeAdapter) else TypeAdapter(shape)
    return [
        parse_document(line, f"{path}:{number}", adapter, hint)
        for number, line in enumerate(lines[:-1], start=1)
        if line.strip()
    ]


def dump_document(document: object, indent: int | None = 2) -> bytes:
    r"""JSON in UTF-8 that every reader takes; without `indent` it is one line.

    Bytes of file names that are not UTF-8, which Python holds as lone surrogates, are written as ``\xHH``: JSON has
    no other way to say them that all readers accept.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    return _NOT_PLAIN.sub(lambda match: json.dumps(readable(match[0]))[1:-1], text).encode()


_NOT_PLAIN = re.compile("[\x7f-\x9f]|[\ud800-\udfff]+")
"""Control characters that JSON leaves as they are, and halves of characters."""


def first_fault(error: ValidationError) -> str:
    """``graphs.fp32.file: Field required``."""
    details = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(_printable(str(part)) for part in details["loc"])
    message = _printable(details["msg"], 500)
    return f"{where}: {message}" if where else message


def _printable(text: str, longest: int = 100) -> str:
    """In one line of bounded length: keys of a hostile file stand in its errors."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= longest else f"{text[:longest]}…"


def _read(path: Path, hint: str) -> bytes:
    try:
        with open_regular(path) as file:
            content = read_at_most(file, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        raise ProtosegError(f"cannot read {path}: {error.strerror or error}", hint) from None
    if content is None:
        raise ProtosegError(f"{path} is larger than {_MOST_BYTES >> 20} MiB: not a file of this program", hint)
    return as_utf8(content)


def as_utf8(content: bytes) -> bytes:
    """The same text without a byte order mark, which editors on Windows put there, and in UTF-8 where that says UTF-16.

    What cannot be decoded stays as it is.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            with suppress(UnicodeDecodeError):
                return content.decode(encoding).encode()
    return content


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""UTF-32 before UTF-16, whose mark is the beginning of the other's."""
