"""``asr bench``: how fast things go on this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from asr.commands.console import print_either, print_json, print_result, share_bar, shown
from asr.commands.options import Json, Lm, Settings, Threads
from asr.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from asr.bench.training import TrainingSpeed
    from asr.bench.transcription import Item, TranscriptionSpeed
    from asr.model.contract import AcousticModel
    from asr.scoring.compare import Comparison

app = typer.Typer(help="How fast things go on this machine, and where the time goes.")


@app.command()
def transcribe(
    model: Annotated[str, Argument(metavar="MODEL", help="A model or run folder; or a config, for its speed.")],
    inputs: Annotated[list[str] | None, Argument(metavar="[INPUT...]", help="Audio; none: made-up files.")] = None,
    files: Annotated[int | None, Option(min=1, help="So many of the inputs; made-up ones: default 32.")] = None,
    seconds: Annotated[float, Option(min=0.1, max=3600, help="Length of a made-up file.")] = 10.0,
    compare: Annotated[bool, Option("--compare", help="Also the plain path: float32, file by file; in turns.")] = False,
    lm: Lm = None,
    precision: Annotated[str, Option(metavar="auto|fp32|bf16", help="Of the fast path.")] = "auto",
    rounds: Annotated[int, Option(min=1, max=100, help="After one that is not counted; the median is shown.")] = 3,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a model transcribes: greedy, and with --lm by beam search."""
    from asr.bench import transcription as bench
    from asr.decode.choose import decoder_for, greedy_decoder
    from asr.decode.options import DecoderOptions
    from asr.machine import use_threads

    used = use_threads(threads)
    loaded, folder = _load(model)
    items = _items(loaded, inputs or [], files, seconds)
    decoders = [greedy_decoder(loaded.tokenizer)]
    if lm is not None:
        decoders.append(decoder_for(folder or Path(), loaded.tokenizer, DecoderOptions("beam", lm=lm)))

    with share_bar("measuring") as reach:
        measured = bench.measure_transcription(
            loaded, items, decoders, rounds=rounds, precision=precision, plain_too=compare, progress=reach
        )
    plain = [way for way in measured if way.name == "plain"]
    fast = [way for way in measured if way.name == "fast"]
    pairs = [(p, f, bench.compared(items, p, f, loaded.text.normalization)) for p, f in zip(plain, fast, strict=False)]

    facts = {"model": model} | _facts(loaded, items, measured, used, precision)
    if as_json:
        document = facts | {"rows": [way.to_json() for way in measured]}
        if pairs:
            document["compared"] = [_pair_to_json(*pair) for pair in pairs]
        print_json(document)
    else:
        print_result("\n".join([*_table(facts, measured), *(line for pair in pairs for line in _pair_lines(*pair))]))


def _load(name: str) -> tuple[AcousticModel, Path | None]:
    """Return the model of a folder, and the folder; or the model of a config with random weights, and None."""
    from asr import config as configs
    from asr.bench.transcription import random_model
    from asr.corpora.catalogue import find_config
    from asr.model.checkpoint import load_model
    from asr.model.folder import find_model

    try:
        return load_model(name), find_model(name)
    except CheckpointError as error:
        if Path(name).is_dir() or not (Path(name).suffix in (".yaml", ".yml") or "no such model" in str(error)):
            raise
        try:
            path = find_config(name)
        except ConfigError:
            raise error from None
        return random_model(configs.load(path)), None


def _items(model: AcousticModel, inputs: list[str], files: int | None, seconds: float) -> list[Item]:
    from asr.bench import transcription as bench
    from asr.recordings.inputs import find_inputs

    if not inputs:
        return list(bench.made_up([seconds] * (files or 32), model.audio.sample_rate_hz))
    items = []
    for found in find_inputs(inputs)[:files]:
        if found.source is None:
            raise ConfigError("standard input can be read once only; give files")
        part = found.part
        items.append(
            bench.Item(
                found.name,
                found.source,
                reference=found.text,
                offset_s=part.start_s,
                duration_s=None if part.end_s is None else part.end_s - part.start_s,
                channel=part.channel or "mix",
            )
        )
    return items


def _facts(
    model: AcousticModel, items: list[Item], measured: list[TranscriptionSpeed], threads: int, precision: str
) -> dict[str, Any]:
    import torch

    from asr.model.padded import TorchNetwork
    from asr.model.prepared import prepared
    from asr.runtime import hardware

    network = prepared(model, precision).network
    # An exported model has its fast path in itself.
    own = model.network if isinstance(model.network, TorchNetwork) else None
    return {
        "parameters": model.num_parameters,
        "hardware": hardware(torch.device("cpu") if own is None else own.device, threads),
        "threads": threads,
        "precision": getattr(network, "precision", "fp32"),
        "twin": network is not own,
        "files": len(items),
        "audio_s": round(measured[0].rounds[0].audio_s, 3),
    }


def _table(facts: dict[str, Any], measured: list[TranscriptionSpeed]) -> list[str]:
    from asr.bench.transcription import PARTS

    how = f"{facts['precision']} products" if facts["twin"] else "no fast path for this network"
    lines = [
        f"{shown(facts['model'])}: {facts['parameters']:,} parameters, {how}, {facts['hardware']}",
        f"{facts['files']:,} files, {facts['audio_s']:,.1f} s of audio",
        "",
        f"{'':<6} {'audio-s/s':>10} {'RTF':>9}  " + "".join(f"{part:>10}" for part in PARTS) + "  decoder",
    ]
    for way in measured:
        shares = "".join(f"{share:>10.0%}" for share in way.shares().values())
        decoder = way.decoder + (f", LM {shown(way.lm)}" if way.lm else "")
        lines.append(f"{way.name:<6} {1 / way.rtf:>10,.0f} {way.rtf:>9.5f}  {shares}  {decoder}")
    return lines


def _pair_to_json(plain: TranscriptionSpeed, fast: TranscriptionSpeed, comparison: Comparison | None) -> dict[str, Any]:
    return {
        "decoder": fast.decoder,
        "ratio": round(plain.seconds / fast.seconds, 3),
        "texts_that_differ": _num_differing(plain, fast),
        "wer": None if comparison is None else comparison.to_json(worst=0),
    }


def _pair_lines(plain: TranscriptionSpeed, fast: TranscriptionSpeed, comparison: Comparison | None) -> list[str]:
    from asr.scoring.compare import conclusion
    from asr.scoring.wer import format_ends, percent

    ratio = f"{plain.seconds / fast.seconds:.1f} times as fast"
    differing = f"{_num_differing(plain, fast):,} of {len(plain.texts):,} transcripts differ"
    lines = ["", f"{fast.decoder}: {ratio}; {differing}"]
    if comparison is not None:
        rates = (f"{percent(r.rate)} {format_ends((r.low, r.high))}" for r in (comparison.a.wer, comparison.b.wer))
        lines.append(f"WER % plain, fast: {', '.join(rates)}")
        lines.append(conclusion(comparison, "plain", "fast"))
    return lines


def _num_differing(plain: TranscriptionSpeed, fast: TranscriptionSpeed) -> int:
    return sum(text != fast.texts[id_] for id_, text in plain.texts.items())


@app.command()
def train(
    config: Annotated[str, Argument(metavar="CONFIG", help="A YAML file, or recipe/name (an4/default).")],
    data: Annotated[Path | None, Option(help="Folder with train.jsonl; without one, made-up audio.")] = None,
    seconds: Annotated[float, Option(min=0.1, max=3600, help="Length of a made-up utterance.")] = 10.0,
    compare: Annotated[bool, Option("--compare", help="Also plain scripts with torch's layers; in turns.")] = False,
    minutes: Annotated[float, Option(min=0.001, help="How long, all ways together.")] = 1.0,
    steps: Annotated[int | None, Option(min=1, help="So many steps (each way), however long it takes.")] = None,
    set_: Settings = None,
    threads: Threads = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda, cuda:1.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a config trains, and where the time goes; nothing is kept."""
    import tempfile

    from asr import config as configs
    from asr.bench import training as bench
    from asr.corpora.catalogue import find_config

    settings = [*(set_ or ())]
    if threads is not None:
        settings.append(f"train.threads={threads}")
    if device is not None:
        settings.append(f"train.device={device}")
    if data is None:  # made-up utterances are as long as was asked for
        settings.append("batch.max_utterance_s=null")
    cfg = configs.load(find_config(config), settings)

    with tempfile.TemporaryDirectory() as folder, share_bar("measuring") as reach:
        words = shown(data) if data is not None else bench.made_up_data(cfg, Path(folder), seconds)
        measured = bench.measure_training(
            cfg, data or Path(folder), words, compare=compare, minutes=minutes, steps=steps, progress=reach
        )
    print_either(as_json, {"config": config, **measured.to_json()}, "\n".join(_training_lines(config, measured)))


def _training_lines(config: str, found: TrainingSpeed) -> list[str]:
    utterances, audio_s = found.batch
    lines = [
        f"{shown(config)}: {found.parameters:,} parameters, {found.precision}, {found.hardware}",
        f"{found.data}; {found.steps:,} steps of {utterances:.1f} utterances, {audio_s:.1f} s of audio",
        "",
        f"{found.audio_s_per_s:,.1f} seconds of audio per second",
        "",
        *(f"{part:<17} {share:>6.1%}" for part, share in found.shares.items()),
        f"{'sum':<17} {sum(found.shares.values()):>6.1%}",
        "",
        f"features, computed in threads beside the step: {found.features_s / found.seconds:.1%} of its time",
    ]
    if not math.isnan(found.of_peak):
        lines.append(
            f"convolution and encoder, there and back: {found.of_peak:.1%} of the {found.peak / 1e9:,.0f} GFLOP/s "
            f"that a large product reaches here in {found.precision}"
        )
    if found.ratio is not None:
        lines.append("")
        lines.append(
            "plain (fp32, torch's layers, random batches, features on the fly): "
            f"{found.plain_audio_s_per_s:,.1f} seconds of audio per second; ours is {found.ratio:.2f} times as fast"
        )
    if found.better_ratio is not None:
        cast = "fp32" if found.precision == "fp32" else f"{found.precision} by autocast"
        lines.append(
            f"plain, better ({cast}, torch's layers, batches by length, features on the fly): "
            f"{found.better_plain_audio_s_per_s:,.1f} seconds of audio per second; "
            f"ours is {found.better_ratio:.2f} times as fast"
        )
    return lines
