"""``asr train``."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer import Argument, Option

from asr.commands.console import epoch_bar, print_result, say, share_bar, shown
from asr.commands.options import Settings
from asr.errors import AsrError, ConfigError
from asr.model.hf.names import whole_name

if TYPE_CHECKING:
    from asr.training.progress import Report


def train(
    config: Annotated[
        str | None, Argument(metavar="[CONFIG]", help="recipe/name (an4/default), or a YAML file.")
    ] = None,
    data: Annotated[Path | None, Option(help="Folder with train.jsonl and dev.jsonl.")] = None,
    out: Annotated[Path | None, Option(help="Folder of the new run.")] = None,
    set_: Settings = None,
    init: Annotated[
        str | None,
        Option(metavar="MODEL", help="Start from the weights of this model or run, hf:NAME or nemo:FILE."),
    ] = None,
    max_batch_seconds: Annotated[
        str | None, Option(metavar="S|auto", help="Padded audio in a batch; auto: the most that fits in memory.")
    ] = None,
    resume: Annotated[Path | None, Option(help="Continue the run in this folder, exactly.")] = None,
    find_lr: Annotated[
        bool, Option("--find-lr", help="Try rising learning rates for 100 steps; keep nothing.")
    ] = False,
) -> None:
    """Train a model, or continue a run that was stopped or killed."""
    if resume is not None:
        options = {
            "CONFIG": config,
            "--out": out,
            "--set": set_,
            "--init": init,
            "--max-batch-seconds": max_batch_seconds,
            "--find-lr": find_lr,
        }
        given = [name for name, value in options.items() if value]
        if given:
            how = f" (what may change is changed in {resume / 'config.yaml'})" if set_ else ""
            raise ConfigError(f"--resume continues the run as it was configured; leave out {', '.join(given)}{how}")
    elif find_lr:
        if config is None or data is None or out is not None:
            raise ConfigError("train --find-lr needs CONFIG and --data DIR, and no --out: it keeps nothing")
        _find_lr(config, data, _settings(set_, init, max_batch_seconds))
        return
    elif config is None or data is None or out is None:
        raise ConfigError("train needs CONFIG, --data DIR and --out RUN; or --resume RUN")

    from asr import config as configs
    from asr import train as training
    from asr.corpora.catalogue import find_config

    def run(watch: Callable[[dict[str, float]], None]) -> Report:
        if resume is not None:
            return training.resume(resume, data, watch)
        assert config is not None and data is not None and out is not None  # checked above
        settings = _settings(set_, init, max_batch_seconds)
        return training.train(configs.load(find_config(config), settings), data, out, watch)

    _run(run)


def _run(run: Callable[[Callable[[dict[str, float]], None]], Report]) -> None:
    """Run the training, print its best model, and exit; of several processes the first one speaks."""
    from asr.training.distributed import has_others, is_reported, starts_first

    try:
        with epoch_bar(_description()) if starts_first() else nullcontext(lambda values: None) as watch:
            report = run(watch)
    except AsrError as error:
        if not has_others():
            raise
        if not is_reported(error):
            say(f"asr: {error}")
        _leave(2)

    if not report.interrupted and report.progress.best and starts_first():
        print_result(shown(report.run / "best"))
    if has_others():
        _leave(130 if report.interrupted else 0)
    if report.interrupted:
        raise typer.Exit(130)


def _description() -> Callable[[dict[str, float]], str]:
    """Return a function that describes the state of a training, with the newest value of each number."""
    began = time.perf_counter()
    newest: dict[str, str] = {"loss": "-", "wer": "-", "speed": "-"}

    def describe(values: dict[str, float]) -> str:
        if "loss" in values:
            newest["loss"] = f"{values['loss']:.2f}"
            newest["speed"] = f"{values['audio_s'] / (time.perf_counter() - began):.0f}"
        if "wer" in values:
            newest["wer"] = f"{values['wer']:.1%}"
        return "loss {loss}  WER {wer}  {speed} audio-s/s".format(**newest)

    return describe


def _leave(code: int) -> NoReturn:
    """End one process of several at once: torch's threads would wait for those that are lost, or abort."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _settings(set_: list[str] | None, init: str | None, max_batch_seconds: str | None) -> list[str]:
    """Return the options' changes of the config."""
    settings = [*(set_ or ())]
    if init is not None:  # quoted, as a path may hold what YAML takes for a comment or a mapping
        settings.append(f"train.init={json.dumps(whole_name(init), ensure_ascii=False)}")
    if max_batch_seconds is not None:
        _check_batch(max_batch_seconds)
        settings.append(f"batch.max_batch_s={max_batch_seconds}")
    return settings


def _check_batch(max_batch_seconds: str) -> None:
    if max_batch_seconds == "auto":
        return
    with suppress(ValueError):
        if 0 < float(max_batch_seconds) < math.inf:
            return
    raise ConfigError(f"--max-batch-seconds {max_batch_seconds}: expected auto, or seconds above 0")


def _find_lr(config: str, data: Path, settings: list[str]) -> None:
    from asr import config as configs
    from asr.corpora.catalogue import find_config
    from asr.training.lr_finder import find_lr

    with share_bar("learning rates") as advance:
        found = find_lr(configs.load(find_config(config), settings), data, progress=advance)
    lines = [f"{'rate':>9} {'loss':>9} {'smoothed':>9}   nats a second of audio"]
    lines += [f"{one.lr:>9.2e} {one.loss:>9.2f} {one.smoothed:>9.2f}" for one in found.tried]
    if found.exploded is not None:
        lines.append(f"the loss explodes at {found.exploded:.2e}")
    if found.suggestion is None:
        lines.append("no suggestion: the loss never falls")
    else:
        steepest = "" if found.steepest is None else f"falls most steeply at {found.steepest:.2e}; "
        lines.append(
            f"suggestion: --set optim.lr={found.suggestion:.1e} ({steepest}at most a tenth of where it explodes)"
        )
    print_result("\n".join(lines))


def average(
    models: Annotated[list[str], Argument(metavar="RUN|MODEL...", help="A run; or models, all alike.")],
    out: Annotated[Path, Option(help="Folder of the new model.")],
    last: Annotated[int | None, Option(min=1, help="Number of the run's last epochs (see train.keep_last).")] = None,
    best: Annotated[
        int | None, Option(min=1, help="Number of its best epochs by dev WER (see train.keep_best).")
    ] = None,
) -> None:
    """Average the weights of several models, or of several epochs of a run, to one model."""
    from asr.training import average as averages

    folders = [Path(one) for one in models]
    if last is not None or best is not None:
        if len(folders) != 1 or (last is not None and best is not None):
            raise ConfigError("--last or --best says which models of one run; give one run and one of them")
        folders = averages.models_of(folders[0], last=last, best=best)
    elif len(folders) == 1:
        raise ConfigError("average needs several models; or one run, and --last N or --best N")
    averages.average(folders, out)
    for folder in folders:
        say(f"asr: averaged {shown(folder)}")
    print_result(shown(out))


def export(
    model: Annotated[str, Argument(metavar="RUN|MODEL", help="A run, or a model folder.")],
    out: Annotated[Path, Argument(metavar="OUT", help="Folder of the exported model.")],
    to: Annotated[
        str, Option(metavar="onnx|hf", help="Format: onnx, a graph for onnxruntime; hf, what transformers loads.")
    ] = "onnx",
    features: Annotated[
        bool, Option("--features", help="onnx: the graph takes samples and computes the features itself.")
    ] = False,
    streaming: Annotated[
        bool, Option("--streaming", help="onnx: the graph takes a piece at a time; one-direction models.")
    ] = False,
    weights: Annotated[
        str, Option(metavar="fp32|fp16", help="onnx: how weights are stored; fp16 takes half the space.")
    ] = "fp32",
) -> None:
    """Write a model for use elsewhere: as an ONNX graph, or in the format of the Hugging Face hub."""
    if to not in ("onnx", "hf"):
        raise ConfigError(f"--to {to}: expected onnx, or hf (Hugging Face)")
    if to == "onnx":
        from asr.model.onnx.export import export_model

        export_model(model, out, features=features, streaming=streaming, weights=weights)
    else:
        if features or streaming or weights != "fp32":
            raise ConfigError("--features, --streaming and --weights belong to --to onnx; leave them out with --to hf")
        from asr.model.hf.export import export_model as export_to_hub

        export_to_hub(model, out)
    print_result(shown(out))
