"""``protoseg recipe``: see what recipes there are and what they resolve to."""

import click

from protoseg_deploy.cli.arguments import recipe_arguments
from protoseg_deploy.cli.verb import VerbFamily


@click.group(name="recipe", cls=VerbFamily)
def command() -> None:
    """List shipped recipes; print a recipe with everything it resolves to.

    \b
    protoseg recipe list
    protoseg recipe show demo train.steps=2000
    protoseg recipe show inhouse-template --source > mine.yaml
    """


@command.command(name="list")
def list_recipes() -> None:
    """The recipes that come with the package, with the first line of their description."""
    from protoseg_deploy.recipe import shipped_recipe_names, shipped_recipe_path

    names = shipped_recipe_names()
    width = max(len(name) for name in names)
    for name in names:
        first_line = shipped_recipe_path(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        click.echo(f"{name:<{width}}  {first_line}")


@command.command(name="show")
@recipe_arguments
@click.option("--explain", is_flag=True, help="With what each key means, and the values it may have, as comments.")
@click.option("--source", is_flag=True, help="Print the file as written, with its comments, instead.")
def show_recipe(recipe: str, overrides: tuple[str, ...], explain: bool, source: bool) -> None:
    """Print RECIPE with all defaults and overrides filled in, as YAML.

    \b
    protoseg recipe show camvid-mobilenetv2 train.steps=2000
    protoseg recipe show mine.yaml --explain
    protoseg recipe show inhouse-template --source > mine.yaml
    """
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.recipe import dump_recipe, explained_recipe, find_recipe, load_recipe, read_recipe_text

    if source and explain:
        raise UsageError("--source prints the file as written: --explain does not go with it")
    if source:
        if overrides:
            raise UsageError("--source prints the file as written: overrides have no effect on it")
        click.echo(read_recipe_text(find_recipe(recipe)), nl=False)
        return
    show = explained_recipe if explain else dump_recipe
    click.echo(show(load_recipe(recipe, overrides)), nl=False)
