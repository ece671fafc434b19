"""How runs learnt: curves, loss terms, and what their recipes were."""

from dataclasses import dataclass

from markupsafe import Markup

from protoseg_deploy.reporting.charts import STYLES, Series, line_chart, marker
from protoseg_deploy.reporting.facts import RunFacts
from protoseg_deploy.reporting.figures import percent
from protoseg_deploy.reporting.summary import method_of

_MEANINGS = {
    "labeled": "Cross-entropy on labelled images",
    "unlabeled": "Consistency loss on unlabelled images, of trusted pixels only",
    "prototype_labeled": "Loss of the prototype head on labelled pixels",
    "prototype_unlabeled": "Loss of the prototype head on unlabelled pixels",
    "auxiliary": "Loss of the auxiliary head",
    "kl": "Distillation: divergence from the teacher's class probabilities",
    "channel": "Distillation: divergence from the teacher's maps, channel by channel",
    "confident_share": "Share of unlabelled pixels whose pseudo-label was trusted",
}


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    name: str
    swatch: Markup


@dataclass(frozen=True)
class Chart:
    """A drawing with its name, and what is to be said of it."""

    title: str
    drawing: Markup
    note: str = ""


@dataclass(frozen=True)
class CurveRow:
    """One evaluation of one run, for the table below the curves."""

    run: str
    step: int
    kept: str
    student: str
    best: bool


@dataclass(frozen=True)
class TrainingView:
    """The section on training."""

    curve: Markup
    keys: tuple[Key, ...]
    run_keys: tuple[Key, ...]
    """For the small charts, one line a run."""
    rows: tuple[CurveRow, ...]
    terms: tuple[Chart, ...]
    note: str


def training_view(runs: tuple[RunFacts, ...]) -> TrainingView:
    """Curves of all runs."""
    series, keys = [], []
    for number, run in enumerate(runs):
        kept = [(e.step, e.kept_percent) for e in run.evaluations if e.kept_percent is not None]
        student = [(e.step, e.student_percent) for e in run.evaluations if e.student_percent is not None]
        network = "EMA teacher, which is kept" if run.averages else "network"
        label = f"{run.name}: {network}" if len(runs) > 1 else network[0].upper() + network[1:]
        series.append(Series(label, kept, number))
        keys.append(Key(label, swatch(number)))
        if run.averages:
            label = f"{run.name}: student" if len(runs) > 1 else "Student"
            style = number if len(runs) > 1 else number + 1
            series.append(Series(label, student, style, dashed=True))
            keys.append(Key(label, swatch(style, dashed=True)))
    return TrainingView(
        curve=line_chart(
            f"Learning curves: mean IoU on the validation images over training steps, {len(series)} lines",
            series,
            x_label="training step",
            y_label="mean IoU, %",
        ),
        keys=tuple(keys),
        run_keys=tuple(Key(run.name, swatch(number)) for number, run in enumerate(runs)),
        rows=tuple(row for run in runs for row in _rows(run)),
        terms=tuple(_terms(runs)),
        note=_note(runs),
    )


def _rows(run: RunFacts) -> list[CurveRow]:
    best = run.best
    return [
        CurveRow(
            run.name,
            each.step,
            percent(each.kept_percent, 2),
            percent(each.student_percent, 2) if run.averages else "–",
            best is not None and each.step == best.step,
        )
        for each in run.evaluations[-200:]
    ]


def _terms(runs: tuple[RunFacts, ...]) -> list[Chart]:
    names = dict.fromkeys(name for run in runs for name in run.terms)
    charts = []
    for name in names:
        lines = [Series(run.name, run.terms.get(name, ()), number) for number, run in enumerate(runs)]
        title = name.replace("_", " ")
        drawing = line_chart(
            f"{title} over training steps", lines, x_label="training step", y_label=title, width=420, height=220
        )
        if drawing:
            charts.append(Chart(title, drawing, _MEANINGS.get(name, "")))
    speed = line_chart(
        "Images per second over training steps",
        [Series(run.name, run.speed, number) for number, run in enumerate(runs)],
        x_label="training step",
        y_label="images per second",
        width=420,
        height=220,
    )
    return [*charts, *([Chart("images per second", speed, "Labelled and unlabelled, with reading")] if speed else [])]


def _note(runs: tuple[RunFacts, ...]) -> str:
    """What a reader should not take the curves for."""
    lagging = [
        run.name
        for run in runs
        if run.averages and run.last and (run.last.student_percent or 0) - (run.last.kept_percent or 0) >= 5
    ]
    parts = ["The best network is chosen on the same validation images, so its figure is slightly optimistic."]
    if lagging:
        parts.append(
            f"In {', '.join(lagging)} the EMA teacher, which is kept, ends far below its student: train longer, or "
            "lower method.ema_decay."
        )
    if any(method_of(run) == "distillation" for run in runs):
        parts.append("A distilled student learns from its teacher's outputs on all images.")
    return " ".join(parts)


def swatch(style: int, *, dashed: bool = False) -> Markup:
    """A piece of a line with its marker, for a legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 32 16" aria-hidden="true"><g class="series s{}{}">'
        '<polyline points="0,8 32,8"/>{}</g></svg>'
    ).format(style % STYLES, " dashed" if dashed else "", marker(style, 16, 8))
