"""``protoseg distill``."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, bundle_of, json_option, print_json, print_table, take_over_option
from protoseg_deploy.cli.verb import Verb


@click.command(name="distill", cls=Verb, short_help="Distil a run into a student with a linear head only.")
@click.argument("teacher", type=PATH, metavar="TEACHER_RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run", "folder", type=PATH, required=True, help="Run folder of the student.")
@click.option("--resume", is_flag=True, help="Continue an interrupted distillation.")
@take_over_option
@click.option("--train", "train_anyway", is_flag=True, help="Train even a student with the teacher's architecture.")
@json_option
def command(
    teacher: Path,
    overrides: tuple[str, ...],
    folder: Path,
    resume: bool,
    take_over: bool,
    train_anyway: bool,
    as_json: bool,
) -> None:
    """Turn TEACHER_RUN into a student with a linear head only.

    With the teacher's own architecture, the training-only branch is stripped, and the logits are checked to be
    bit-equal. With another backbone or decoder, a student is trained on the teacher's outputs, on labelled and
    unlabelled images. Another backbone gets the decoder fpn_lite (a plain ViT: fpn), unless model.decoder or its keys
    are given.

    \b
    protoseg distill runs/teacher --run runs/student
    protoseg distill runs/teacher --run runs/edge model.backbone=mobilenetv3_small_100
    protoseg distill runs/teacher --run runs/edge model.backbone=mobilenetv3_small_050 model.decoder=lraspp
    protoseg distill runs/teacher --run runs/edge --resume model.backbone=… (the same overrides again)
    """
    from dataclasses import asdict

    from protoseg_deploy.distillation import distill

    report = distill(teacher, folder, overrides, resume=resume, take_over=take_over, train_anyway=train_anyway)
    if as_json:
        print_json(asdict(report))
        return
    print_table(
        ["", "mIoU %", "parameters"],
        [
            ("teacher", f"{report.teacher_miou_percent:.2f}", f"{report.teacher_parameters:,}"),
            ("student", f"{report.student_miou_percent:.2f}", f"{report.student_parameters:,}"),
        ],
    )
    if report.stripped:
        click.echo(f"Stripped, not trained: logits bit-equal to the teacher's on {report.compared_images} images.")
    click.echo(f"Next: protoseg export {folder} {bundle_of(folder)}")
