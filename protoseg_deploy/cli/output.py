"""Output that every terminal and every pipe can take, whatever is in it."""

import codecs
import os
import sys

from protoseg_deploy.text import one_line, readable

_FALLBACK = "protoseg-fallback"
_ASCII = "ascii-with-fallback"
_PLAIN = {
    "–": "-", "—": "-", "−": "-", "×": "x", "±": "+-", "…": "...", "·": "*", "•": "*", "→": "->", "≥": ">=", "≤": "<=",
    "‘": "'", "’": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip


def open_closed_streams() -> None:
    """Where the shell has closed standard input, output or error (``>&-``), what is written there is dropped.

    Otherwise the next file that is opened would get the stream's number, and what a library tells standard error would
    go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  until the process ends


def silence_full_streams() -> list[str]:
    """Names of the standard streams that can no longer be written, such as files on a full disk; they are silenced."""
    full = []
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what could not be written is still in the buffer
        except OSError:
            full.append("standard output" if stream is sys.stdout else "standard error")
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # or Python tries again at the end, and complains
            os.close(nowhere)
    return full


def take_any_text() -> None:
    """Make standard output and standard error write what their encoding cannot express in characters that it can.

    Characters of ours become similar ones; of others, such as in file names, the code is written (``\\xe4``).
    """
    codecs.register_error(_FALLBACK, _replace)
    codecs.register(_find_codec)
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):
            continue
        # Click takes an ASCII stream for one that is set up wrongly, and writes UTF-8 to it.
        is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        stream.reconfigure(encoding=_ASCII if is_ascii else None, errors=_FALLBACK)


def fitted(text: str) -> str:
    """One line in the characters that standard output has: tables need to know how wide it is."""
    text = one_line(text)
    try:
        return text.encode(sys.stdout.encoding, _FALLBACK).decode(sys.stdout.encoding)
    except LookupError:  # not set up by `take_any_text`
        return text


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = readable(error.object[error.start : error.end])
    return "".join(_expressed(character, error.encoding) for character in text), error.end


def _expressed(character: str, encoding: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return character.encode("ascii", "backslashreplace").decode()
    return character


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII.replace("-", "_") and name != _ASCII:
        return None
    ascii_codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_codec.encode,
        ascii_codec.decode,
        ascii_codec.streamreader,
        ascii_codec.streamwriter,
        ascii_codec.incrementalencoder,
        ascii_codec.incrementaldecoder,
        name=_ASCII,
    )
