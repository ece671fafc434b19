"""What the gate found: one verdict per artefact, bound to the digests of the files that were compared."""

from typing import Literal

from protoseg_deploy.bundles.metadata import Document


class Limits(Document):
    """What an artefact has to keep against the one it was made from."""

    min_agreement_percent: float
    """Pixels with the same class, over all images."""
    max_relative_margin: float | None
    """Where the classes differ: largest distance between PyTorch's two best logits, over the spread of the logits of
    that image (root mean square distance from their mean over classes). A real error flips confident pixels too."""
    max_miou_drop_points: float


class StageVerdict(Document):
    """Outcome of comparing one artefact with the one it was made from."""

    stage: str
    """``onnx fp32``, ``onnx int8``, ``engine fp16-sm86``: kind and name."""
    artefact: str
    """File in the bundle."""
    artefact_sha256: str | None = None
    """Of all files of the artefact, see `Manifest.digest_of`; None in verdicts of versions that did not note it."""
    against: str
    """``pytorch``, or an earlier stage."""
    against_sha256: str | None = None
    """Of what it was compared with; of PyTorch the network file."""
    status: Literal["passed", "failed", "not run"]
    reasons: tuple[str, ...] = ()
    """Why it did not pass, or why it could not run here."""
    next_step: str = ""
    """Of the first failure: what to do now."""
    backend: str = ""
    emulated: bool = False
    """Computed in fp32 and rounded to the graph's types: accuracy is that of the graph, latency is not."""
    limits: Limits | None = None
    agreement_percent: float | None = None
    worst_image: str | None = None
    worst_agreement_percent: float | None = None
    disagreeing_pixels: int | None = None
    max_relative_margin: float | None = None
    """At a disagreeing pixel; 0 where there is none."""
    miou_percent: float | None = None
    """Against masks, where there were any."""
    miou_drop_points: float | None = None
    """Below the artefact it is compared with."""

    @property
    def kind(self) -> str:
        """``onnx``, ``symmetric``, ``engine``, or a backend."""
        return self.stage.partition(" ")[0]

    @property
    def of(self) -> str:
        """The precision, or the name of the engine."""
        return self.stage.partition(" ")[2]


class Verification(Document):
    """Outcome of the gate: PyTorch, the fp32 graph, every other graph, every engine that could run."""

    passed: bool
    """No stage failed. Stages that could not run do not count: they are unverified."""
    images: int
    masks: int
    """How many of the images had masks."""
    fitted_images: int
    """How many were cropped or padded because the graph has a fixed input size."""
    images_sha256: str
    """Digest over the names and bytes of the images, in order."""
    miou_pytorch_percent: float | None
    stages: tuple[StageVerdict, ...]

    def stage(self, name: str) -> StageVerdict | None:
        return next((stage for stage in self.stages if stage.stage == name), None)

    def first_failure(self) -> StageVerdict | None:
        """The stage to look at: later ones may only have inherited its error."""
        return next((stage for stage in self.stages if stage.status == "failed"), None)
