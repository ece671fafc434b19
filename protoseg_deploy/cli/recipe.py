"""``protoseg recipe``: list recipes and show what they resolve to."""

import click

from protoseg_deploy.cli.arguments import recipe_arguments
from protoseg_deploy.cli.verb import VerbFamily
from protoseg_deploy.text import printable


@click.group(name="recipe", cls=VerbFamily, short_help="List, show and explain recipes.")
def command() -> None:
    """List shipped recipes, print a resolved recipe, explain recipe keys.

    \b
    protoseg recipe list
    protoseg recipe show demo train.steps=2000
    protoseg recipe show inhouse-template --source > mine.yaml
    protoseg recipe explain train.logit_adjustment
    """


@command.command(name="list", short_help="List the recipes that come with the package.")
def list_recipes() -> None:
    """List the recipes that come with the package, with the first line of their description."""
    from protoseg_deploy.recipe import shipped_recipe_names, shipped_recipe_path

    names = shipped_recipe_names()
    width = max(len(name) for name in names)
    for name in names:
        first_line = shipped_recipe_path(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        click.echo(f"{name:<{width}}  {first_line}")


@command.command(name="show", short_help="Print a recipe with all defaults filled in.")
@recipe_arguments
@click.option("--source", is_flag=True, help="Print the file as written, with its comments.")
def show_recipe(recipe: str, overrides: tuple[str, ...], source: bool) -> None:
    """Print RECIPE with all defaults and overrides filled in, as YAML.

    \b
    protoseg recipe show camvid-mobilenetv2 train.steps=2000
    protoseg recipe show inhouse-template --source > mine.yaml
    """
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.recipe import dump_recipe, find_recipe, load_recipe, read_recipe_text

    if source:
        if overrides:
            raise UsageError("--source prints the file as written: overrides have no effect on it")
        click.echo(read_recipe_text(find_recipe(recipe)), nl=False)
        return
    click.echo(dump_recipe(load_recipe(recipe, overrides)), nl=False)


@command.command(name="explain", short_help="Explain recipe keys.")
@click.argument("key", required=False)
@click.option("--markdown", is_flag=True, help="Print all keys as Markdown.")
def explain(key: str | None, markdown: bool) -> None:
    """Print the meaning, range and default of KEY, of all keys of a section, or (without KEY) of all keys.

    The last part of a name is enough: `lr` is train.lr.

    \b
    protoseg recipe explain
    protoseg recipe explain train
    protoseg recipe explain method.prototypes.weight
    """
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.recipe import did_you_mean, explained_keys, reference

    keys = explained_keys()
    if markdown:
        if key is not None:
            raise UsageError("--markdown prints all keys: leave KEY out")
        click.echo(reference(), nl=False)
        return
    shown = [one for one in keys if key is None or one.key == key or one.key.startswith(f"{key}.")]
    shown = shown or [one for one in keys if one.key.endswith(f".{key}")]
    if not shown:
        raise UsageError(f"no key {printable(str(key))}{did_you_mean(str(key), [one.key for one in keys])}")
    for number, one in enumerate(shown):
        name = click.style(one.key, bold=True)
        click.echo(("\n" if number else "") + (f"{name}  {one.facts()}" if one.facts() else name))
        click.echo(click.wrap_text(one.meaning, 100, "    ", "    "))
