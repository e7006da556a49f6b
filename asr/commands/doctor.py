"""``asr doctor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.commands.console import check_target, print_json, print_result
from asr.commands.options import Json
from asr.errors import ConfigError
from asr.heartbeat import heartbeat

if TYPE_CHECKING:
    from asr.doctor import Expected, Progress


def doctor(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Manifests; best all of a corpus.")],
    config: Annotated[
        str | None, typer.Option(help="A training config (a YAML file, or recipe/name) that the data are for.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of --config.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model or run folder, or torchaudio:NAME, that the data are for.")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode all audio, not only its headers.")] = False,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write manifests without the rows that have an error.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw durations and speaking rates: .png, .svg, .pdf.")] = None,
    examples: Annotated[int, typer.Option(min=0, max=100_000, help="Rows shown of each finding.")] = 3,
    as_json: Json = False,
) -> None:
    """Find what is wrong with the data, before it costs a run."""
    from asr.doctor import examine
    from asr.doctor import fix as fixing

    expected = _expected(config, set_ or [], model, manifests)
    where = {} if fix is None else fixing.targets(manifests, fix)
    for target in [*where.values(), *([picture] if picture else [])]:
        check_target(target)
    if picture is not None:
        from asr.scoring.picture import check

        check(picture)
    with _bars() as progress:
        report = examine(manifests, expected, deep=deep, num_examples=examples, progress=progress)
    fixed = None if fix is None else fixing.fix(report, where)
    if as_json:
        print_json(report.to_json() | ({} if fixed is None else {"fix": fixed.to_json()}))
    else:
        print_result("\n".join([*report.lines(), *(fixed.lines() if fixed else [])]))
    if picture is not None:
        from asr.doctor.picture import draw

        draw(report, picture)
    if (report.errors and fixed is None) or (fixed and fixed.nothing_left):
        raise typer.Exit(1)


def _expected(config: str | None, settings: list[str], model: Path | None, manifests: list[Path]) -> Expected | None:
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


@contextmanager
def _bars() -> Iterator[Progress]:
    """A progress bar for each part of the work, on stderr when that is a terminal, else a line about every minute."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def begin(what: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(what, total=total or None)
            return lambda done: progress.advance(task, done)

        def line() -> str:
            if not progress.tasks:
                return "reading the manifests"
            last = progress.tasks[-1]
            return f"{last.description}: {last.completed:,.0f}" + (f" of {last.total:,.0f}" if last.total else "")

        with heartbeat(line):
            yield begin
