"""``asr train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.console import print_result, shown, training_bar
from asr.errors import ConfigError

if TYPE_CHECKING:
    from asr.progress import Report


def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A YAML file, or recipe/name (an4/default).")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with train.jsonl and dev.jsonl.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the new run.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one config value.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the weights of this model or run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder, exactly.")] = None,
) -> None:
    """Train a model, or continue a run that was stopped or killed."""
    if resume is not None:
        given = [n for n, v in (("CONFIG", config), ("--out", out), ("--set", set_), ("--init", init)) if v]
        if given:
            raise ConfigError(f"--resume continues the run as it was configured; leave out {', '.join(given)}")
    elif config is None or data is None or out is None:
        raise ConfigError("train needs CONFIG, --data DIR and --out RUN; or --resume RUN")
    from asr import config as configs
    from asr import train as training
    from asr.prepare import find_config

    with training_bar() as watch:
        if resume is not None:
            report = training.resume(resume, data, watch)
        else:
            assert config is not None and data is not None and out is not None  # checked above
            if init is not None:
                set_ = [*(set_ or ()), f"train.init={init.resolve()}"]
            report = training.train(configs.load(find_config(config), set_ or ()), data, out, watch)
    _finish_training(report)


def _finish_training(report: Report) -> None:
    if report.interrupted:
        raise typer.Exit(130)
    if report.progress.best:
        print_result(shown(report.run / "best"))
