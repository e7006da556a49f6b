"""``asr recipes``, ``asr prepare`` and ``asr shard``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from asr.commands.console import print_either, print_json, print_result, print_table, say, shown
from asr.commands.options import Json, with_groups
from asr.errors import AsrError, ConfigError, os_reason
from asr.heartbeat import counted

if TYPE_CHECKING:
    from asr.corpora.prepare import Prepared


def recipes(as_json: Json = False) -> None:
    """List the recipes and importers: dataset, hours, licence; then the configs and subsets of each."""
    from asr.corpora.catalogue import find_recipe, recipe_configs, recipe_names
    from asr.corpora.importers import IMPORTERS

    found = [find_recipe(name) for name in recipe_names()]
    importers = IMPORTERS.values()
    if as_json:
        rows = [_facts(recipe) | {"configs": recipe_configs(folder), "importer": False} for recipe, folder in found]
        rows += [_facts(importer) | {"configs": [], "importer": True} for importer in importers]
        print_json(rows)
        return

    table = [(r.name, r.title, f"{r.hours:g}" if r.hours else "", r.licence) for r, _ in found]
    table += [(importer.name, importer.title, "", "importer") for importer in importers]
    print_table(("recipe", "dataset", "hours", "licence"), table)
    for recipe, folder in found:
        if configs := recipe_configs(folder):
            print_result(f"{recipe.name} configs: {', '.join(f'{recipe.name}/{config}' for config in configs)}")
    for recipe, _ in found:
        if recipe.subsets:
            default = recipe.default_subsets or recipe.subsets
            names = (f"{name}*" if name in default else name for name in recipe.subsets)
            print_result(f"{recipe.name} --subsets (* by default): {', '.join(names)}")


def _facts(recipe: Any) -> dict[str, Any]:
    """Return what ``asr recipes --json`` states of a recipe or importer."""
    return {
        "name": recipe.name,
        "title": recipe.title,
        "hours": recipe.hours,
        "sample_rate_hz": recipe.sample_rate_hz,
        "licence": recipe.licence,
        "homepage": recipe.homepage,
        "archive": recipe.archive,
        "subsets": recipe.subsets,
        "default_subsets": recipe.default_subsets,
    }


@dataclass(frozen=True)
class ImporterOptions:
    """Options of importers only; each is handed to the importer by its name."""

    dev: Annotated[str, Option(metavar="FRACTION", help="Importers: share of speakers for dev.")] = ""
    audio_column: Annotated[str, Option(metavar="C", help="Importers: column of the audio path.")] = ""
    text_column: Annotated[str, Option(metavar="C", help="Importers: column of the text.")] = ""
    speaker_column: Annotated[str, Option(metavar="C", help="Importers: column of the speaker.")] = ""
    name: Annotated[str, Option(metavar="SPLIT", help="Importers: the manifest's name.")] = ""
    mix: Annotated[bool, Option("--mix", help="Importers: average the channels of stereo files.")] = False
    keep_truncated: Annotated[bool, Option("--keep-truncated", help="Importers: keep what cut recordings hold.")] = (
        False
    )
    channel: Annotated[str, Option(metavar="N", help="Importers: take this channel, from 1.")] = ""

    def given(self) -> dict[str, str]:
        """Return the options that were given, flags as "yes"."""
        return {name: "yes" if value is True else value for name, value in asdict(self).items() if value}


@with_groups
def prepare(
    *,
    recipe: Annotated[str, Argument(metavar="RECIPE", help="A name ('asr recipes' lists them), or a path: ./mine.")],
    out: Annotated[Path, Option(help="Folder for audio and manifests.")],
    source: Annotated[
        list[Path] | None,
        Argument(metavar="[SOURCE...]", help="Importers: folder or file; or several."),
    ] = None,
    archive: Annotated[list[Path] | None, Option(help="An archive or folder that is already here; repeatable.")] = None,
    mirror: Annotated[str, Option(metavar="URL", help="http(s):// or file://, in place of the host.")] = "",
    subsets: Annotated[str, Option(metavar="A,B", help="Which parts; 'asr recipes' lists them.")] = "",
    importing: ImporterOptions,
    normalization: Annotated[str, Option(metavar="PROFILE", help="Applied to all texts: none, upper, …")] = "",
    tokenizer: Annotated[str, Option(metavar="KIND", help="char, bpe, unigram: trained on train; or FILE.model.")] = "",
    vocab_size: Annotated[int, Option(metavar="N", help="Tokens of a bpe or unigram tokenizer.")] = 0,
    as_json: Json = False,
) -> None:
    """Turn a corpus into manifests: download, check, extract, write. Rows that cannot be used: named, exit code 1."""
    from asr.corpora.catalogue import find_recipe
    from asr.corpora.prepare import prepare as prepare_data
    from asr.corpora.recipe import Request

    names = tuple(part.strip() for part in subsets.split(",")) if subsets else ()
    if "" in names:
        raise ConfigError(f"--subsets '{subsets}': a name is empty; separate names by single commas")
    request = Request(
        out=out,
        archive=tuple(archive or ()),
        mirror=mirror,
        subsets=names,
        sources=tuple(source or ()),
        options=importing.given(),
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

    paths = [*prepared.manifests.values(), *prepared.files.values()]
    print_either(as_json, _document(prepared), "\n".join(map(shown, [*prepared.summary(), *paths])))
    if prepared.dropped:
        raise typer.Exit(1)


def _document(prepared: Prepared) -> dict[str, Any]:
    document: dict[str, Any] = {
        "manifests": {name: str(path) for name, path in prepared.manifests.items()},
        "utterances": {name: len(rows) for name, rows in prepared.utterances.items()},
        "dropped": dict(prepared.dropped),
        "excluded": dict(prepared.excluded),
        "normalization": prepared.header.normalization,
        "tokenizer": prepared.header.tokenizer,
        "flagged_numbers": prepared.header.flagged_numbers,
        "notes": prepared.notes,
    }
    if prepared.files:
        document["files"] = {name: str(path) for name, path in prepared.files.items()}
    return document


def shard(
    manifest: Annotated[Path, Argument(metavar="MANIFEST", help="JSON Lines; docs/formats.md.")],
    out: Annotated[Path, Option(help="Folder of the new manifest; the tar files go into its 'shards'.")],
    shard_mib: Annotated[int, Option(metavar="N", min=1, help="Size of a tar file, about, in MiB.")] = 512,
    as_json: Json = False,
) -> None:
    """Pack the audio of a manifest into tar files (WebDataset), with a manifest of them. Run again, it goes on."""
    from asr.data import manifest as manifests
    from asr.data.sharding import write_shards

    rows = manifests.read(manifest)
    with counted("tar files", None) as advance:
        done = write_shards(rows, out, shard_mib, lambda: advance(1))
    if not as_json:
        kept = f", {done.kept} of them as they were" if done.kept else ""
        say(f"{done.files:,} audio files of {len(rows):,} utterances in {len(done.shards):,} shards{kept}")
    document = {
        "manifest": str(done.manifest),
        "shards": [str(path) for path in done.shards],
        "kept": done.kept,
        "files": done.files,
        "utterances": len(rows),
    }
    print_either(as_json, document, shown(done.manifest))
