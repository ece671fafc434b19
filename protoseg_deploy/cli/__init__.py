"""The ``protoseg`` command: one module per command, loaded when it is called."""

import difflib
import errno
import importlib
import signal
import sys
import tempfile
from typing import Any

import click

from protoseg_deploy import __version__
from protoseg_deploy.cli.output import open_closed_streams, silence_full_streams, take_any_text
from protoseg_deploy.cli.verb import StopRequest, stop_requests
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.text import printable

_VERBS = (
    "demo", "init", "convert", "recipe", "split", "check", "train", "replay", "compare", "distill", "evaluate",
    "export", "build", "verify", "predict", "serve", "serve-repo", "bench", "load", "recommend", "bench-train",
    "suggest", "report", "kit", "doctor", "completion",
)  # fmt: skip

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
_NEEDS_LESS = "Use smaller images, fewer at a time, or a machine with more memory."


class _VerbGroup(click.Group):
    """Loads a command's module on demand and turns our own errors into one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"protoseg_deploy.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0][:50], _VERBS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {printable(args[0])!r}.{hint}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        open_closed_streams()
        take_any_text()
        with stop_requests() as stop:
            try:
                return super().main(*args, obj=stop, **extra)
            except SystemExit as end:
                if stop.received and end.code == 1:  # a second Ctrl-C, while the first one was dealt with
                    raise SystemExit(128 + stop.received) from None
                raise
            except OSError as error:
                full = silence_full_streams()  # none is, in a Python that does not buffer
                if not full and (error.filename is not None or error.errno not in _OF_WRITING):
                    raise
                what = " and ".join(full) or "the output"
                click.echo(f"Error: {what} cannot be written: {error.strerror or error}", err=True)
                raise SystemExit(1) from None
            finally:
                if stop.received:
                    _forget_interrupt()

    def invoke(self, ctx: click.Context) -> object:
        stop = ctx.obj if isinstance(ctx.obj, StopRequest) else StopRequest()
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if isinstance(error, ProtosegError) and (not stop.received or error.exit_code > 128):
                raise _ShownError(error) from None
            if stop.received:  # an interrupted import, or a worker that is gone, may end in any error
                raise _Stopped(stop.received) from None
            if isinstance(error, OSError) and error.filename is not None and error.errno != errno.EPIPE:
                raise _ShownError(ProtosegError(f"{error.filename}: {error.strerror or error}")) from None
            if isinstance(error, (MemoryError, RuntimeError)) and _is_out_of_memory(error):
                line = next(iter(str(error).splitlines()), "") or type(error).__name__
                raise _ShownError(ProtosegError(f"not enough memory: {line}", _NEEDS_LESS)) from None
            if isinstance(error, FileNotFoundError) and (reason := _lack_of_temporary_folder()):
                raise _ShownError(ProtosegError(reason, "Set TMPDIR to a folder that can be written.")) from None
            raise


def _is_out_of_memory(error: BaseException) -> bool:
    from protoseg_deploy.evaluation.computing import is_out_of_memory  # loads PyTorch, as who needs memory has done

    return is_out_of_memory(error)


def _lack_of_temporary_folder() -> str:
    """Why there is none, as on a full or read-only disk; empty where there is one. Libraries ask when they load."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _forget_interrupt() -> None:
    """Have Python end with our exit code.

    Where an interrupt comes up through ``exec`` of a text, as dataclasses are made with while modules load, Python
    remembers it, whoever catches it, and ends by SIGINT in place of the exit code. The next such call forgets it.
    """
    exec("")  # noqa: S102


class _ShownError(click.ClickException):
    def __init__(self, error: ProtosegError) -> None:
        super().__init__(error.message)
        self.exit_code = error.exit_code  # type: ignore[misc]
        self._hint = error.hint

    def show(self, file: object = None) -> None:
        if self.exit_code:
            click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(printable(self.message), err=True)
        if self._hint:
            click.echo(printable(self._hint), err=True)


class _Stopped(click.ClickException):
    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number  # type: ignore[misc]

    def show(self, file: object = None) -> None:
        click.echo(self.message, err=True)


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="protoseg")
def cli() -> None:
    """Train segmentation networks from few labels and deploy them.

    \b
    Try it, no data or GPU needed:
      protoseg demo --out demo
    Your own data:
      protoseg recipe show inhouse-template --source > mine.yaml
      protoseg check mine.yaml
      protoseg train mine.yaml --run runs/mine
      protoseg export runs/mine --bundle bundles/mine

    \b
    Exit codes:    0  success
                   1  failure, or errors were found
                   2  invalid command line or recipe
                   3  a latency that is not steady (bench --strict)
                 130  interrupted by Ctrl-C (143: by SIGTERM)

    Output with --json is UTF-8 whatever the locale. In all output, including files, bytes of file names that are not
    valid UTF-8 are written as \\xHH.
    """


def main() -> None:
    cli(prog_name="protoseg" if not sys.argv[0].endswith("__main__.py") else "python -m protoseg_deploy")
