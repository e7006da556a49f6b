"""``asr train``."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from asr.console import print_result, say, shown, training_bar
from asr.errors import AsrError, ConfigError

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
    max_batch_seconds: Annotated[
        str | None, typer.Option(metavar="S|auto", help="Padded audio in a batch; auto: the most that fits in memory.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder, exactly.")] = None,
) -> None:
    """Train a model, or continue a run that was stopped or killed."""
    if resume is not None:
        given = [n for n, v in (("CONFIG", config), ("--out", out), ("--set", set_), ("--init", init),
                                ("--max-batch-seconds", max_batch_seconds)) if v]  # fmt: skip
        if given:
            raise ConfigError(f"--resume continues the run as it was configured; leave out {', '.join(given)}")
    elif config is None or data is None or out is None:
        raise ConfigError("train needs CONFIG, --data DIR and --out RUN; or --resume RUN")
    from asr import config as configs
    from asr import train as training
    from asr.distributed import has_others, is_said, starts_first
    from asr.prepare import find_config

    quiet: AbstractContextManager[Any] = nullcontext(lambda values: None)
    try:
        with training_bar() if starts_first() else quiet as watch:
            if resume is not None:
                report = training.resume(resume, data, watch)
            else:
                assert config is not None and data is not None and out is not None  # checked above
                settings = [*(set_ or ())]
                if init is not None:
                    settings.append(f"train.init={init.resolve()}")
                if max_batch_seconds is not None:
                    settings.append(f"batch.max_batch_s={max_batch_seconds}")
                report = training.train(configs.load(find_config(config), settings), data, out, watch)
    except AsrError as error:
        if not has_others():
            raise
        if not is_said(error):
            say(f"asr: {error}")
        _leave(2)
    if has_others():
        if starts_first() and not report.interrupted:
            _print_model(report)
        _leave(130 if report.interrupted else 0)
    if report.interrupted:
        raise typer.Exit(130)
    _print_model(report)


def _leave(code: int) -> NoReturn:
    """Ends one process of several at once: torch's threads would wait for those that are lost, or abort."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _print_model(report: Report) -> None:
    if report.progress.best:
        print_result(shown(report.run / "best"))
