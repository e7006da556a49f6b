"""``asr recipes`` and ``asr prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from asr.commands.console import print_json, print_result, print_table, say, shown
from asr.commands.options import Json
from asr.errors import AsrError, ConfigError, os_reason


def recipes(as_json: Json = False) -> None:
    """List the recipes and importers: dataset, hours, licence; then the configs and subsets of each."""
    from asr.corpora.catalogue import find_recipe, recipe_configs, recipe_names
    from asr.corpora.importers import IMPORTERS

    found = [find_recipe(name) for name in recipe_names()]
    if as_json:
        keys = ("name", "title", "hours", "sample_rate_hz", "licence", "homepage", "archive", "subsets",
                "default_subsets")  # fmt: skip
        rows: list[dict[str, Any]] = [
            {k: getattr(r, k) for k in keys} | {"configs": recipe_configs(folder), "importer": False}
            for r, folder in found
        ]
        rows += [{k: getattr(r, k) for k in keys} | {"configs": [], "importer": True} for r in IMPORTERS.values()]
        print_json(rows)
        return
    table = [(r.name, r.title, f"{r.hours:g}" if r.hours else "", r.licence) for r, _ in found]
    table += [(r.name, r.title, "", "importer") for r in IMPORTERS.values()]
    print_table(("recipe", "dataset", "hours", "licence"), table)
    for r, folder in found:
        if configs := recipe_configs(folder):
            print_result(f"{r.name} configs: {', '.join(f'{r.name}/{config}' for config in configs)}")
    for r, _ in found:
        if r.subsets:
            names = (f"{name}*" if name in (r.default_subsets or r.subsets) else name for name in r.subsets)
            print_result(f"{r.name} --subsets (* by default): {', '.join(names)}")


def prepare(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe or importer ('asr recipes' lists them), or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for audio and manifests.")],
    source: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SOURCE...]", help="Importers: the folder or file; combined: several."),
    ] = None,
    archive: Annotated[
        list[Path] | None, typer.Option(help="A corpus archive or folder that is already here; repeatable.")
    ] = None,
    mirror: Annotated[str, typer.Option(metavar="URL", help="http(s):// or file://, in place of the host.")] = "",
    subsets: Annotated[str, typer.Option(metavar="A,B", help="Which parts; 'asr recipes' lists them.")] = "",
    dev: Annotated[str, typer.Option(metavar="FRACTION", help="Importers: share of speakers for dev.")] = "",
    audio_column: Annotated[str, typer.Option(metavar="C", help="Importers: column of the audio path.")] = "",
    text_column: Annotated[str, typer.Option(metavar="C", help="Importers: column of the text.")] = "",
    speaker_column: Annotated[str, typer.Option(metavar="C", help="Importers: column of the speaker.")] = "",
    name: Annotated[str, typer.Option(metavar="SPLIT", help="Importers: the manifest's name.")] = "",
    mix: Annotated[bool, typer.Option("--mix", help="Importers: average the channels of stereo files.")] = False,
    keep_truncated: Annotated[
        bool, typer.Option("--keep-truncated", help="Importers: keep what cut recordings hold.")
    ] = False,
    channel: Annotated[str, typer.Option(metavar="N", help="Importers: take this channel, from 1.")] = "",
    normalization: Annotated[str, typer.Option(metavar="PROFILE", help="Done to all texts: none, upper, …")] = "",
    tokenizer: Annotated[str, typer.Option(metavar="KIND", help="char, bpe or unigram, trained on train.")] = "",
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Tokens of a bpe or unigram tokenizer.")] = 0,
    as_json: Json = False,
) -> None:
    """Turn a corpus into manifests: download, check, extract, write. Rows that cannot be used: named, exit code 1."""
    from asr.corpora.catalogue import find_recipe
    from asr.corpora.prepare import prepare as prepare_data
    from asr.corpora.recipe import Request

    options = {
        "dev": dev,
        "audio_column": audio_column,
        "text_column": text_column,
        "speaker_column": speaker_column,
        "name": name,
        "mix": "yes" if mix else "",
        "channel": channel,
        "keep_truncated": "yes" if keep_truncated else "",
    }
    names = tuple(part.strip() for part in subsets.split(",")) if subsets else ()
    if "" in names:
        raise ConfigError(f"--subsets '{subsets}': a name is empty; separate names by single commas")
    request = Request(
        out=out,
        archive=tuple(archive or ()),
        mirror=mirror,
        subsets=names,
        sources=tuple(source or ()),
        options={key: value for key, value in options.items() if value},
        normalization=normalization,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
    )

    found, _ = find_recipe(recipe)
    say(f"{found.title}; licence: {found.licence}")
    try:
        prepared = prepare_data(found, request)
    except OSError as error:
        raise AsrError(f"{error.filename or out}: {os_reason(error)}") from error
    header = prepared.header
    if as_json:
        document: dict[str, Any] = {
            "manifests": {name: str(path) for name, path in prepared.manifests.items()},
            "utterances": {name: len(rows) for name, rows in prepared.utterances.items()},
            "dropped": dict(prepared.dropped),
            "excluded": dict(prepared.excluded),
            "normalization": header.normalization,
            "tokenizer": header.tokenizer,
            "flagged_numbers": header.flagged_numbers,
            "notes": prepared.notes,
        }
        if prepared.files:
            document["files"] = {name: str(path) for name, path in prepared.files.items()}
        print_json(document)
    else:
        paths = [*prepared.manifests.values(), *prepared.files.values()]
        print_result("\n".join(map(shown, [*prepared.summary(), *paths])))
    if prepared.dropped:
        raise typer.Exit(1)
