"""``asr doctor``: what is wrong with the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from asr.commands.console import check_target, print_either, shown
from asr.commands.options import Json
from asr.errors import ConfigError
from asr.heartbeat import counted

if TYPE_CHECKING:
    from asr.doctor import Expected


def doctor(
    manifests: Annotated[list[Path], Argument(metavar="MANIFEST...", help="Manifests; best all of a corpus.")],
    config: Annotated[
        str | None, Option(help="A training config (a YAML file, or recipe/name) for these data.")
    ] = None,
    set_: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="Change a value of --config.")] = None,
    model: Annotated[
        Path | None, Option(help="A model or run folder, torchaudio:NAME, hf:NAME or nemo:FILE, for these data.")
    ] = None,
    deep: Annotated[bool, Option("--deep", help="Decode all audio, not only its headers.")] = False,
    fix: Annotated[Path | None, Option(metavar="OUT", help="Write manifests without rows that have an error.")] = None,
    picture: Annotated[Path | None, Option(help="Draw durations and speaking rates: .png, .svg, .pdf.")] = None,
    examples: Annotated[int, Option(min=0, max=100_000, help="Rows shown of each finding.")] = 3,
    as_json: Json = False,
) -> None:
    """Find what is wrong with the data, before it costs a run."""
    from asr.doctor import examine
    from asr.doctor import fix as fixing

    # Everything that could not be written after the work is refused before it.
    expected = _expected(config, set_ or [], model, manifests)
    fixed_paths = {} if fix is None else fixing.targets(manifests, fix)
    for target in [*fixed_paths.values(), *([picture] if picture else [])]:
        check_target(target)
    if picture is not None:
        from asr.scoring.picture import check

        check(picture)

    report = examine(manifests, expected, deep=deep, num_examples=examples, progress=counted)
    fixed = None if fix is None else fixing.fix(report, fixed_paths)
    lines = [*report.lines(), *(fixed.lines() if fixed else [])]
    document = report.to_json() | ({} if fixed is None else {"fix": fixed.to_json()})
    print_either(as_json, document, "\n".join(map(shown, lines)))
    if picture is not None:
        from asr.doctor.picture import draw_histograms

        draw_histograms(report, picture)
    if (report.errors and fixed is None) or (fixed and fixed.nothing_left):
        raise typer.Exit(1)


def _expected(config: str | None, settings: list[str], model: Path | None, manifests: list[Path]) -> Expected | None:
    """Return what the model or the config expects of the data, if one is given."""
    if config is not None and model is not None:
        raise ConfigError("--config and --model each say what to expect; give one of them")
    if settings and config is None:
        raise ConfigError("--set changes --config, which is not given")
    if model is not None:
        from asr.doctor.expected import of_model

        return of_model(model)
    if config is not None:
        from asr import config as configs
        from asr.corpora.catalogue import find_config
        from asr.doctor.expected import of_config
        from asr.doctor.rows import role_of

        # What the config leaves to the data is looked up beside the training manifest.
        training = next((path for path in manifests if role_of(path) == "train"), manifests[0])
        return of_config(configs.load(find_config(config), settings), training.parent)
    return None
