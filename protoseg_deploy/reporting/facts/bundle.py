"""What a bundle says of itself, and whether its files are those it describes."""

from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.manifest import VERIFICATION_FOLDER, Manifest
from protoseg_deploy.bundles.verdicts import StageVerdict
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import resolved


@dataclass(frozen=True)
class FileFacts:
    """A file that the manifest lists."""

    name: str
    bytes: int
    sha256: str
    fault: str
    """Why it is not the file that the manifest describes; empty: it is."""


@dataclass(frozen=True)
class BundleFacts:
    """A bundle, as far as its files say."""

    name: str
    folder: Path
    manifest: Manifest
    files: tuple[FileFacts, ...]
    pictures: dict[str, Path]
    """By stage: the picture of its worst image, where there is one."""

    @property
    def stages(self) -> tuple[StageVerdict, ...]:
        """Verdicts about the files that are there."""
        verification = self.manifest.verification
        return () if verification is None else verification.stages

    @property
    def outdated(self) -> tuple[str, ...]:
        """Stages whose verdict is about other files than those the manifest lists."""
        return tuple(stage.stage for stage in self.stages if not self.manifest.is_about_these_files(stage))

    @property
    def verified(self) -> bool | None:
        """Whether every graph passed; None: one was never compared."""
        verdicts = [self.manifest.verified(graph.file) for graph in self.manifest.graphs.values()]
        return False if False in verdicts else None if None in verdicts else True

    def bytes_of(self, precision: Precision) -> int:
        """Of all files of a graph."""
        return sum(self.manifest.files[name].bytes for name in self.manifest.graphs[precision].files)


def bundle_facts(folder: Path, name: str | None = None) -> BundleFacts:
    """Read a bundle and compare its files with their checksums.

    Raises:
        ProtosegError: the folder is not a bundle, or its manifest is damaged.
    """
    bundle = Bundle.open(folder)
    files = tuple(
        FileFacts(file, entry.bytes, entry.sha256, _fault(bundle, file))
        for file, entry in bundle.manifest.files.items()
    )
    stages = bundle.manifest.verification.stages if bundle.manifest.verification else ()
    pictures = {stage.stage: bundle.picture_of(stage.stage) for stage in stages}
    place = resolved(folder / VERIFICATION_FOLDER)  # a manifest may name any stage, and a link lead anywhere
    there = {stage: path for stage, path in pictures.items() if path.is_file() and resolved(path).parent == place}
    there = there if place.parent == resolved(folder) else {}
    return BundleFacts(name or folder.absolute().name, folder, bundle.manifest, files, there)


def _fault(bundle: Bundle, name: str) -> str:
    try:
        bundle.file(name)
    except ProtosegError as error:
        return error.message
    return ""
