"""Python, encodings, image formats and tools."""

from dataclasses import replace

import pytest

from protoseg_deploy.diagnostics.isolation import Answer, Processes
from protoseg_deploy.diagnostics.surroundings import Interpreter, compiler_finding, image_findings, python_findings

PYTHON = Interpreter((3, 12, 1), "CPython", "Linux 6.8 x86_64", "utf-8", "utf-8", is_64_bit=True)


@pytest.mark.parametrize(
    ("change", "states"),
    [
        ({}, ["ok", "ok"]),
        ({"version": (3, 10, 9)}, ["problem", "ok"]),
        ({"is_64_bit": False}, ["problem", "ok"]),
        ({"filesystem_encoding": "ascii"}, ["ok", "problem"]),
        ({"filesystem_encoding": "iso8859-1"}, ["ok", "problem"]),
        ({"output_encoding": "cp1252"}, ["ok", "ok"]),
        ({"output_encoding": "UTF8"}, ["ok", "ok"]),
    ],
)
def test_python_and_text(change, states):
    findings = python_findings(replace(PYTHON, **change))
    assert [finding.state for finding in findings] == states
    assert all(bool(finding.fix) == (finding.state == "problem") for finding in findings)
    assert findings[0].core
    assert not findings[1].core


def test_the_output_encoding_is_named_where_it_lacks_characters():
    assert "output in cp1252" in python_findings(replace(PYTHON, output_encoding="cp1252"))[1].fact


def test_images():
    assert image_findings(Processes().ask("images"))[0].state == "ok"
    facts = {"jpg": True, "zlib": True, "libtiff": True, "webp": True, "avif": False, "jpg_2000": False}
    there, absent = image_findings(Answer("answered", facts))
    assert there.fact.endswith("GIF, WebP")
    assert (absent.name, absent.state) == ("AVIF, JPEG 2000", "missing")
    (broken,) = image_findings(Answer("answered", facts | {"jpg": False}))
    assert (broken.state, broken.core) == ("problem", True)
    (crashed,) = image_findings(Answer("crashed", error="crashes (SIGSEGV)"))
    assert (crashed.state, crashed.core) == ("problem", True)


def test_a_compiler():
    assert compiler_finding(lambda name: "/usr/bin/c++" if name == "c++" else None).state == "ok"
    assert compiler_finding(lambda name: None).state == "missing"
