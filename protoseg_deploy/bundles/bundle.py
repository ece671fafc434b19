"""A bundle: the deployable artefact, and everything that may be done to it once it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from protoseg_deploy.bundles.card import refresh_card
from protoseg_deploy.bundles.digests import file_sha256, identities
from protoseg_deploy.bundles.graph import Graph
from protoseg_deploy.bundles.manifest import (
    HINT,
    MANIFEST_FILE,
    REFERENCE_FILE,
    VERIFICATION_FOLDER,
    EngineEntry,
    FileEntry,
    Manifest,
)
from protoseg_deploy.bundles.verdicts import Verification
from protoseg_deploy.choices import Precision
from protoseg_deploy.documents import read_document
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exchange import LOCK_FILE, settle
from protoseg_deploy.files import remove_scratch, require_inside, write_atomically
from protoseg_deploy.locks import sole_writer


@dataclass(frozen=True)
class Bundle:
    """A bundle as its manifest described it when it was opened.

    Files are compared with their checksums whenever they are asked for. Changes are written under a lock into the
    manifest as it is by then, and give a new `Bundle`.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the manifest of a bundle folder; an exchange that was killed is completed or undone before.

        Raises:
            ProtosegError: the folder is not a bundle, or its manifest is damaged.
        """
        settle(folder)
        try:
            if folder.is_dir():
                return cls(folder, read_document(folder / MANIFEST_FILE, Manifest, HINT))
        except FileNotFoundError:
            pass
        raise ProtosegError(
            f"{folder} is not a bundle: it has no {MANIFEST_FILE}",
            "Bundles are folders written by `protoseg export RUN --bundle DIR`.",
        )

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Self:
        """A bundle of the files in a folder."""
        bundle = cls(folder, manifest)
        bundle._write()
        return bundle

    def file(self, name: str) -> Path:
        """Path of a file of the bundle, after comparing it with its checksum.

        Raises:
            ProtosegError: the file is missing, truncated, changed, or a link to a file outside the bundle.
        """
        path = self.folder / name
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ProtosegError(f"{self.folder / MANIFEST_FILE} does not list {name}", HINT)
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "is missing from the bundle"
            raise ProtosegError(f"{path} {what}", HINT)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ProtosegError(
                f"{path} is a link to a file outside the bundle",
                "Copy the bundle with the files that its links point to.",
            )
        size = path.stat().st_size
        if size != entry.bytes or file_sha256(path) != entry.sha256:
            detail = f"{size} bytes instead of {entry.bytes}" if size != entry.bytes else "its checksum differs"
            raise ProtosegError(
                f"{path} is not the file the manifest describes: {detail}",
                "It was damaged or replaced after the export: copy or export the bundle again.",
            )
        return path

    def reference(self) -> Path:
        """The network file that the graphs were made from. Raises as `file`."""
        return self.file(REFERENCE_FILE)

    def graph(self, precision: Precision = "fp32", *, library: str = "") -> Graph:
        """The graph of a precision, after comparing all its files with their checksums.

        Args:
            precision: which one.
            library: whose verdict is asked for, where that is not ONNX Runtime; see `verified_as`.

        Raises:
            UsageError: the bundle has no graph of that precision.
            ProtosegError: a file is missing, truncated or changed.
        """
        self.require_graph(precision)
        info = self.manifest.graphs[precision]
        files = tuple(self.folder / name for name in info.files)
        found = identities(files)  # before they are read: what is exchanged later is noticed
        for name in info.files:
            self.file(name)
        verified = self.manifest.verified(verified_as(info.file, library))
        return Graph(self.folder / info.file, files, verified, self.manifest, precision, found)

    def require_graph(self, precision: Precision) -> None:
        """Raises UsageError where the manifest names no graph of that precision."""
        graphs = self.manifest.graphs
        if precision not in graphs:
            raise UsageError(
                f"{self.folder} has no {precision} graph; it has {', '.join(graphs)}",
                f"Export it with `protoseg export RUN --bundle DIR --precision {','.join((*graphs, precision))}`.",
            )

    def record(self, verification: Verification) -> Self:
        """Write verdicts into the manifest, if the files they are about still lie there.

        Raises:
            ProtosegError: a file, or the whole bundle, was exchanged meanwhile; nothing is written.
        """
        with self.changing() as now:  # an engine may have been built meanwhile
            new = type(self)(self.folder, now.manifest.model_copy(update={"verification": verification}))
            opened, found = self.manifest.files, now.manifest.files
            names = {name for graph in self.manifest.graphs.values() for name in graph.files} | {REFERENCE_FILE}
            names |= {verdict.artefact for verdict in verification.stages if verdict.artefact in opened}
            exchanged = sorted(name for name in names if found.get(name) != opened.get(name))
            exchanged += [v.artefact for v in verification.stages if not new.manifest.is_about_these_files(v)]
            if exchanged:
                raise ProtosegError(
                    f"{self.folder} was replaced while it was verified ({exchanged[0]} is another file): no verdict "
                    "was written",
                    "Verify it again.",
                )
            for name in sorted(names):
                now.file(name)
            new._write()
        return new

    def add_engine(self, name: str, entry: EngineEntry) -> Self:
        """Note an engine that was built into the bundle; one of the same name is replaced.

        A verdict about an earlier engine of that name is dropped with it.
        """
        with self.changing() as now:
            new = type(self)(self.folder, now._with_engine(name, entry))
            new._write()
        return new

    def _with_engine(self, name: str, entry: EngineEntry) -> Manifest:
        manifest = self.manifest
        verification = manifest.verification
        if verification is not None:
            changed = {entry.file, entry.graph} - manifest.files_of_graphs()
            stages = tuple(stage for stage in verification.stages if stage.artefact not in changed)
            passed = all(stage.status != "failed" for stage in stages)
            verification = verification.model_copy(update={"stages": stages, "passed": passed})
        added = {entry.file, entry.sidecar, entry.graph} - manifest.files_of_graphs()
        files = {**manifest.files, **{file: file_entry(self.folder / file) for file in sorted(added)}}
        engines = {**manifest.engines, name: entry}
        return manifest.model_copy(update={"engines": engines, "files": files, "verification": verification})

    @contextmanager
    def changing(self) -> Iterator[Self]:
        """The bundle as it is now, which nobody else changes, and no export exchanges, until the end of the block.

        Raises:
            ProtosegError: the folder is not a bundle any more, or another process does not let go of it.
        """
        self.open(self.folder)
        with sole_writer(self.folder / LOCK_FILE, str(self.folder), wait_s=60):
            remove_scratch(self.folder)
            yield self.open(self.folder)

    def pictures(self) -> list[Path]:
        """Pictures of the worst images that a verification has kept.

        Raises:
            UsageError: their folder is a link: what lies there is not the bundle's.
        """
        place = self.folder / VERIFICATION_FOLDER
        require_inside(self.folder, place)
        return list(place.glob("worst-*.png"))

    def picture_of(self, stage: str) -> Path:
        """Where the picture of the worst image of a stage lies, if a pixel of it differed."""
        return self.folder / VERIFICATION_FOLDER / f"worst-{stage.replace(' ', '-')}.png"

    def _write(self) -> None:
        write_atomically(self.folder / MANIFEST_FILE, self.manifest.to_json().encode())
        refresh_card(self.folder, self.manifest)


def verified_as(file: str, library: str = "") -> str:
    """Name of a graph in the verdicts of a bundle: of ONNX Runtime the file's, of other libraries ``FILE@LIBRARY``."""
    return f"{file}@{library}" if library else file


def file_entry(path: Path) -> FileEntry:
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
