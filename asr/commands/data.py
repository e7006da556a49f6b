"""``asr recipes`` and ``asr prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr.commands.options import Json
from asr.console import print_json, print_result, print_table, say, shown
from asr.errors import AsrError, os_reason


def recipes(as_json: Json = False) -> None:
    """List the recipes: dataset, hours, licence, configs."""
    from asr.prepare import find_recipe, recipe_configs, recipe_names

    found = [find_recipe(name) for name in recipe_names()]
    if as_json:
        keys = ("name", "title", "hours", "sample_rate_hz", "licence", "homepage", "archive")
        print_json([{k: getattr(r, k) for k in keys} | {"configs": recipe_configs(folder)} for r, folder in found])
        return
    rows = [(r.name, r.title, f"{r.hours:g}", " ".join(recipe_configs(folder)), r.licence) for r, folder in found]
    print_table(("recipe", "dataset", "hours", "configs", "licence"), rows)


def prepare(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name ('asr recipes' lists them) or its folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for audio and manifests.")],
    archive: Annotated[Path | None, typer.Option(help="The corpus archive, already on this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a corpus into manifests."""
    from asr.prepare import find_recipe

    found, _ = find_recipe(recipe)
    say(f"{found.title}; licence: {found.licence}")
    try:
        prepared = found.prepare(out, archive)
    except OSError as error:
        raise AsrError(f"{error.filename or out}: {os_reason(error)}") from error
    if as_json:
        manifests = {name: str(path) for name, path in prepared.manifests.items()}
        counts = {name: len(rows) for name, rows in prepared.utterances.items()}
        print_json({"manifests": manifests, "utterances": counts, "dropped": prepared.dropped})
    else:
        print_result("\n".join([*prepared.summary(), *map(shown, prepared.manifests.values())]))
