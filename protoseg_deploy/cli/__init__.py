"""The ``protoseg`` command: one module a verb, loaded when it is called."""

import importlib
import sys

import click

from protoseg_deploy import __version__
from protoseg_deploy.errors import ProtosegError

_VERBS = (
    "demo", "recipe", "check", "train", "compare", "distill", "evaluate", "export", "build", "verify", "predict",
    "bench", "bench-train",
)  # fmt: skip


class _VerbGroup(click.Group):
    """Loads a verb's module on demand and turns our own errors into one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"protoseg_deploy.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ProtosegError as error:
            raise _ShownError(error) from None


class _ShownError(click.ClickException):
    def __init__(self, error: ProtosegError) -> None:
        super().__init__(error.message)
        self.exit_code = error.exit_code  # type: ignore[misc]
        self._hint = error.hint

    def show(self, file: object = None) -> None:
        if self.exit_code:
            click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(self.message, err=True)
        if self._hint:
            click.echo(self._hint, err=True)


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="protoseg")
def cli() -> None:
    """Train segmentation networks from few labels and put them into production.

    \b
    Try it, no data or GPU needed:   protoseg demo --out demo
    Own data:                        protoseg recipe show inhouse-template --source > mine.yaml
                                     protoseg check mine.yaml
                                     protoseg train mine.yaml --run runs/mine
                                     protoseg export runs/mine --bundle bundles/mine
    """


def main() -> None:
    cli(prog_name="protoseg" if not sys.argv[0].endswith("__main__.py") else "python -m protoseg_deploy")
