"""All that a report shows, before it is laid out."""

from dataclasses import dataclass, field

from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.reporting.facts import BenchFacts, BundleFacts, DataFacts, RunFacts, Subjects
from protoseg_deploy.reporting.figures import number
from protoseg_deploy.reporting.panels import Judgement, Panel
from protoseg_deploy.reporting.prototypes import PrototypeBankFacts


@dataclass
class Findings:
    """Facts of files, and what was computed from images."""

    subjects: Subjects
    judgements: dict[str, Judgement] = field(default_factory=dict)
    """By name of the run or bundle."""
    panels: list[Panel] = field(default_factory=list)
    banks: list[PrototypeBankFacts] = field(default_factory=list)
    data: tuple[DataFacts, ...] = ()
    stage_pictures: dict[tuple[str, str], int] = field(default_factory=dict)
    """By bundle and stage: number in the album."""
    notes: list[str] = field(default_factory=list)
    """What is left out, and why."""
    images_of: str = ""
    """Which images the networks were judged on."""

    @property
    def runs(self) -> tuple[RunFacts, ...]:
        return self.subjects.runs

    @property
    def bundles(self) -> tuple[BundleFacts, ...]:
        return self.subjects.bundles

    @property
    def bench(self) -> BenchFacts:
        return self.subjects.bench

    @property
    def names(self) -> tuple[str, ...]:
        """Of runs and bundles: the columns of tables that compare them."""
        return self.subjects.names

    @property
    def classes(self) -> ClassTable | None:
        """Of the first run or bundle."""
        if self.runs:
            return self.runs[0].classes
        return self.bundles[0].manifest.classes.table() if self.bundles else None

    def iou_of(self, name: str) -> dict[str, float | None] | None:
        """IoU by class: as judged here, else of the best evaluation of a run; None: nobody knows."""
        judged = self.judgements.get(name)
        if judged is not None:
            found = zip(judged.classes.names, judged.iou_percent, strict=True)
            return {label: None if iou != iou else iou for label, iou in found}
        run = next((run for run in self.runs if run.name == name), None)
        best = run.best if run is not None else None
        return dict(best.iou_percent) if best is not None else None

    def miou_of(self, name: str) -> float | None:
        """mIoU of the best network: as its run, or its bundle, says; as judged here where neither does."""
        run = next((run for run in self.runs if run.name == name), None)
        if run is not None and run.best_percent is not None:
            return run.best_percent
        bundle = next((bundle for bundle in self.bundles if bundle.name == name), None)
        if bundle is not None:
            said = number(bundle.manifest.provenance.training.get("miou_percent"))
            if said is not None:
                return said
        judged = self.judgements.get(name)
        return judged.miou_percent if judged is not None else None

    def support(self) -> dict[str, int]:
        """Pixels of each class in the truth of the images judged, or of the validation images; may be empty."""
        for judged in self.judgements.values():
            return dict(zip(judged.classes.names, judged.counts.sum(axis=1).tolist(), strict=True))
        for data in self.data:
            if data.report is not None and data.report.val.class_pixels:
                return dict(zip(data.report.classes.names, data.report.val.class_pixels, strict=True))
        return {}
