"""The page: one file of HTML with everything inside, which asks nobody for anything."""

import base64
import hashlib
import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from protoseg_deploy.recipe import dump_recipe
from protoseg_deploy.reporting import figures
from protoseg_deploy.reporting.accuracy_view import css_color, iou_rows, matrices, trust_views
from protoseg_deploy.reporting.album import Encoded
from protoseg_deploy.reporting.charts import STYLES
from protoseg_deploy.reporting.deployment_view import bench_view, digests, environment, parity_views, provenance
from protoseg_deploy.reporting.facts import licence_of_weights, recipe_lines
from protoseg_deploy.reporting.findings import Findings
from protoseg_deploy.reporting.summary import WEAK_PERCENT, sentences, side_by_side
from protoseg_deploy.reporting.training_view import swatch, training_view
from protoseg_deploy.text import printable

MOST_BYTES = 5_000_000
GENERATOR = '<meta name="generator" content="protoseg report">'
"""By which a report is known again."""
_RANKS = {
    "worst": "Worst images",
    "median": "Median images",
    "best": "Best images",
}


def render(findings: Findings, pictures: Sequence[Encoded], title: str | None = None) -> str:
    """The page as text.

    Args:
        findings: what to show.
        pictures: of the album that the findings number.
        title: of the page; names what it is about when absent.
    """
    script, style = _asset("report.js"), _asset("report.css")
    names = findings.names or tuple(dict.fromkeys(row.name for row in findings.bench.rows))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return _templates().get_template("report.html.jinja").render(
        generator=Markup(GENERATOR),  # noqa: S704
        title=title or f"Report: {shown}",
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        script=Markup(script),  # noqa: S704  ours, as the style is
        style=Markup(style),  # noqa: S704
        policy=_policy(script),
        figures=figures,
        findings=findings,
        names=findings.names,
        sentences=sentences(findings),
        rows=side_by_side(findings),
        training=training_view(findings.runs) if findings.runs else None,
        iou=iou_rows(findings),
        weak=WEAK_PERCENT,
        trust=trust_views(findings),
        matrices=matrices(findings),
        classes=findings.classes,
        panels=[(text, [panel for panel in findings.panels if panel.rank == rank]) for rank, text in _RANKS.items()],
        pictures=pictures,
        parity=parity_views(findings),
        bench=bench_view(findings),
        environment=environment(findings),
        recipe=recipe_lines(tuple(run.recipe for run in findings.runs)) if findings.runs else (),
        recipe_texts=_recipe_texts(findings),
        licences=_licences(findings),
        provenance=provenance(findings),
        digests=digests(findings),
        color=css_color,
        swatch=swatch,
    )  # fmt: skip


@cache
def _templates() -> Environment:
    """Whatever is not markup of ours is escaped, and cannot turn text around."""
    return Environment(
        loader=PackageLoader("protoseg_deploy.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )


def _finalize(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return (files("protoseg_deploy.reporting") / "templates" / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Content security policy: no request, and no script but ours."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _recipe_texts(findings: Findings) -> list[tuple[str, str]]:
    return [(run.name, dump_recipe(run.recipe)) for run in findings.runs[:STYLES]]


def _licences(findings: Findings) -> list[Any]:
    wanted = [(run.recipe.model.backbone, run.recipe.model.weights) for run in findings.runs]
    known = {backbone for backbone, _ in wanted}
    others = [(bundle.manifest.network.backbone, None) for bundle in findings.bundles]
    wanted += [(backbone, weights) for backbone, weights in others if backbone not in known]  # type: ignore[misc]
    return [
        licence_of_weights(backbone, weights if weights in (None, "none", "pretrained") else "file")
        for backbone, weights in dict.fromkeys(wanted)
    ]
