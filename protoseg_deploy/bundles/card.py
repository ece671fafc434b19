"""The part of a bundle's model card that changes with the bundle: files and verdicts.

The card is written once, when a bundle is exported. People may edit it, so it has no checksum, and what stands between
the two marks alone is written again when engines or verdicts come.
"""

import re
from contextlib import suppress
from pathlib import Path

from protoseg_deploy.bundles.manifest import CARD_FILE, Manifest
from protoseg_deploy.bundles.verdicts import StageVerdict
from protoseg_deploy.files import open_regular, read_at_most, write_atomically
from protoseg_deploy.text import one_line

BEGIN = "<!-- protoseg: files and verification, kept up to date by protoseg -->"
END = "<!-- protoseg: end -->"
_BETWEEN = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
_MOST_BYTES = 2**22
_MARKUP = re.compile(r"([\\`*\[\]|~])")


def markdown(text: object) -> str:
    """Text of somebody else for a cell or a sentence of Markdown: nothing in it is markup."""
    plain = one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def files_and_verdicts(manifest: Manifest) -> str:
    """What a bundle holds and whether it was verified, between the marks."""
    files = table(
        ["precision", "file", "size", "opset", "verified"],
        [
            [
                precision,
                f"`{info.file}`",
                f"{sum(manifest.files[name].bytes for name in info.files) / 1e6:.1f} MB",
                str(info.opset),
                {True: "yes", False: "**failed**", None: "no"}[manifest.verified(info.file)],
            ]
            for precision, info in manifest.graphs.items()
        ],
    )
    engines = [f"- `{entry.file}`: {entry.engine}, {entry.precision}" for entry in manifest.engines.values()]
    parts = [BEGIN, "## Files", files, *(["\n".join(engines)] if engines else []), "## Verification"]
    parts.append(_verification(manifest))
    return "\n\n".join([*parts, END])


def _verification(manifest: Manifest) -> str:
    verification = manifest.verification
    if verification is None:
        return "This bundle was never verified: `protoseg verify` compares it with the network it was made from."
    outcome = "All stages that ran passed" if verification.passed else "**A stage failed: do not deploy it**"
    reference = verification.miou_pytorch_percent
    text = f"Compared on {verification.images:,} images, pixel by pixel. {outcome}."
    if reference is not None:
        text += f" PyTorch reaches a mean IoU of {reference:.2f} % on those with masks."
    columns = ["stage", "compared with", "verdict", "same pixels, %", "mean IoU, %"]
    return f"{text}\n\n{table(columns, [_row(stage, manifest) for stage in verification.stages])}"


def _row(stage: StageVerdict, manifest: Manifest) -> list[str]:
    status = stage.status if manifest.is_about_these_files(stage) else "outdated"
    figures = ((stage.agreement_percent, 3), (stage.miou_percent, 2))
    numbers = ["–" if value is None else f"{value:.{digits}f}" for value, digits in figures]
    return [stage.stage, stage.against, status, *numbers]


def refresh_card(folder: Path, manifest: Manifest) -> None:
    """Write what changes into the card of a bundle; a bundle without a card, or a card without the marks, stays so.

    Raises:
        WriteError: the card cannot be written.
    """
    path = folder / CARD_FILE
    content = None
    with suppress(OSError):
        if not path.is_symlink():
            with open_regular(path) as file:
                content = read_at_most(file, _MOST_BYTES)
    if content is None:
        return
    try:
        before = content.decode("utf-8")
    except UnicodeDecodeError:
        return
    after = _BETWEEN.sub(lambda _: files_and_verdicts(manifest), before, count=1)
    if after != before:
        write_atomically(path, after.encode())
