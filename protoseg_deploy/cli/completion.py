"""``protoseg completion``: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

from protoseg_deploy.cli.verb import Verb


@click.command(name="completion", cls=Verb, short_help="Print shell completion for bash, zsh or fish.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands and options of protoseg.

    \b
    bash:  eval "$(protoseg completion bash)"       in ~/.bashrc
    zsh:   eval "$(protoseg completion zsh)"        in ~/.zshrc
    fish:  protoseg completion fish | source        in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "protoseg", "_PROTOSEG_COMPLETE").source())
