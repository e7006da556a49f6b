"""``asr bench``: how fast things go on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr.commands.console import print_json, print_result, shown
from asr.commands.options import Json, Lm, Threads
from asr.errors import CheckpointError, ConfigError
from asr.heartbeat import heartbeat
from asr.scoring.wer import format_ends, percent

if TYPE_CHECKING:
    from asr.bench.training import Measured as Trained
    from asr.bench.transcription import Item, Measured
    from asr.data.manifest import Channel
    from asr.model.checkpoint import AcousticModel

app = typer.Typer(help="How fast things go on this machine, and where the time goes.")


@app.command()
def transcribe(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model or run folder; or a config, for its speed.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="[INPUT...]", help="Audio, folders, manifests; none: made-up audio.")
    ] = None,
    files: Annotated[int | None, typer.Option(min=1, help="So many of the inputs; made-up ones: default 32.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Length of a made-up file.")] = 10.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Beside the plain path: float32, one file at a time; in turns.")
    ] = False,
    lm: Lm = None,
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="Of the fast path.")] = "auto",
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="After one that is not counted; the median is shown.")
    ] = 3,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a model transcribes: greedy, and with --lm by beam search."""
    from asr.bench import transcription as bench
    from asr.decode.choose import decoder_for, greedy_decoder
    from asr.decode.options import DecoderOptions
    from asr.runtime import use_threads

    used = use_threads(threads)
    loaded, folder = _model(model)
    items = _items(loaded, inputs or [], files, seconds)
    decoders = [greedy_decoder(loaded.tokenizer)]
    if lm is not None:
        decoders.append(decoder_for(folder or Path(), loaded.tokenizer, DecoderOptions("beam", lm=lm)))
    with bar() as advance:
        measured = bench.measure(
            loaded, items, decoders, rounds=rounds, precision=precision, plain_too=compare, progress=advance
        )
    report = _Report(model, loaded, items, measured, used, precision)
    if as_json:
        print_json(report.to_json())
    else:
        print_result("\n".join(report.lines()))


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or recipe/name (an4/default).")],
    data: Annotated[Path | None, typer.Option(help="Folder with train.jsonl; without one, made-up audio.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Length of a made-up utterance.")] = 10.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Beside what a plain script does: fp32, torch's layers; in turns.")
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.001, help="How long, both ways together.")] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, help="So many steps (each way), however long it takes.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one config value.")
    ] = None,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a config trains, and where the time goes; nothing is kept."""
    import tempfile

    from asr import config as configs
    from asr.bench import training as bench_train
    from asr.corpora.catalogue import find_config

    settings = [*(set_ or ())]
    settings += [] if threads is None else [f"train.threads={threads}"]
    settings += [] if device is None else [f"train.device={device}"]
    settings += [] if data is not None else ["batch.max_utterance_s=null"]  # of what is made as long as was asked
    cfg = configs.load(find_config(config), settings)
    with tempfile.TemporaryDirectory() as folder, bar() as advance:
        words = shown(data) if data is not None else bench_train.made_up_data(cfg, Path(folder), seconds)
        found = bench_train.measure(
            cfg, data or Path(folder), words, compare=compare, minutes=minutes, steps=steps, progress=advance
        )
    if as_json:
        print_json({"config": config, **found.to_json()})
    else:
        print_result("\n".join(_training_lines(config, found)))


def _training_lines(config: str, found: Trained) -> list[str]:
    rate, shares = found.audio_s_per_s, found.shares
    lines = [
        f"{shown(config)}: {found.parameters:,} parameters, {found.precision}, {found.hardware}",
        f"{found.data}; {found.steps:,} steps of {found.batch[0]:.1f} utterances, {found.batch[1]:.1f} s of audio",
        "",
        f"{rate:,.1f} seconds of audio a second",
        "",
        *(f"{part:<17} {share:>6.1%}" for part, share in shares.items()),
        f"{'sum':<17} {sum(shares.values()):>6.1%}",
        "",
        f"features, computed in threads beside the step: {found.features_s / found.seconds:.1%} of its time",
        f"convolution and encoder, there and back: {found.of_peak:.1%} of the {found.peak / 1e9:,.0f} GFLOP/s "
        f"that a large product reaches here in {found.precision}",
    ]
    if found.ratio is not None:
        lines += ["", "plain (fp32, torch's layers, random batches, features on the fly): "
                      f"{found.plain_audio_s_per_s:,.1f}"
                      f" seconds of audio a second; ours is {found.ratio:.2f} times as fast"]  # fmt: skip
    return lines


def _model(name: str) -> tuple[AcousticModel, Path | None]:
    """The model of a folder, and the folder; or of a config, with random weights."""
    from asr import config as configs
    from asr.bench.transcription import random_model
    from asr.corpora.catalogue import find_config
    from asr.model.checkpoint import find_model, load_model

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
    for one in find_inputs(inputs)[:files]:
        if one.source is None:
            raise ConfigError("standard input can be read once only; give files")
        length_s = None if one.part.end_s is None else one.part.end_s - one.part.start_s
        channel: Channel = one.part.channel or "mix"
        items.append(bench.Item(one.name, one.source, None, one.text, one.part.start_s, length_s, channel))
    return items


class _Report:
    """What was measured, for people and for programs."""

    def __init__(
        self, name: str, model: AcousticModel, items: list[Item], measured: list[Measured], threads: int, precision: str
    ) -> None:
        from asr.bench.transcription import compared

        self.name, self.items, self.measured = name, items, measured
        self.audio_s = measured[0].rounds[0].audio_s
        self.facts = self._facts(model, threads, precision)
        fast = [one for one in measured if one.name == "fast"]
        plain = [one for one in measured if one.name == "plain"]
        self.pairs = list(zip(plain, fast, strict=False))
        self.scores = [compared(items, one, other, model.text.normalization) for one, other in self.pairs]

    def _facts(self, model: AcousticModel, threads: int, precision: str) -> dict[str, Any]:
        from asr.infer import prepared
        from asr.runtime import hardware

        network = prepared(model, precision).network
        return {
            "model": self.name,
            "parameters": model.num_parameters,
            "hardware": hardware(model.device, threads),
            "threads": threads,
            "precision": getattr(network, "precision", "fp32"),
            "twin": network is not model.network,
            "files": len(self.items),
            "audio_s": round(self.audio_s, 3),
        }

    def to_json(self) -> dict[str, Any]:
        rows = [one.to_json() for one in self.measured]
        document = self.facts | {"rows": rows}
        if self.pairs:
            document["compared"] = [
                {
                    "decoder": fast.decoder,
                    "ratio": round(plain.seconds / fast.seconds, 3),
                    "texts_that_differ": _differing(plain, fast),
                    "wer": None if score is None else score.to_json(worst=0),
                }
                for (plain, fast), score in zip(self.pairs, self.scores, strict=True)
            ]
        return document

    def lines(self) -> list[str]:
        from asr.bench.transcription import PARTS
        from asr.scoring.compare import conclusion

        facts = self.facts
        how = f"{facts['precision']} products" if facts["twin"] else "no fast path for this network"
        lines = [
            f"{shown(self.name)}: {facts['parameters']:,} parameters, {how}, {facts['hardware']}",
            f"{facts['files']:,} files, {self.audio_s:,.1f} s of audio",
            "",
            f"{'':<6} {'audio-s/s':>10} {'RTF':>9}  " + "".join(f"{part:>10}" for part in PARTS) + "  decoder",
        ]
        for one in self.measured:
            shares = "".join(f"{share:>10.0%}" for share in one.shares().values())
            decoder = one.decoder + (f", LM {shown(one.lm)}" if one.lm else "")
            lines.append(f"{one.name:<6} {1 / one.rtf:>10,.0f} {one.rtf:>9.5f}  {shares}  {decoder}")
        for (plain, fast), score in zip(self.pairs, self.scores, strict=True):
            differ = _differing(plain, fast)
            lines += ["", f"{fast.decoder}: {plain.seconds / fast.seconds:.1f} times as fast; "
                          f"{differ:,} of {len(self.items):,} transcripts differ"]  # fmt: skip
            if score is not None:
                rates = (score.a.wer, score.b.wer)
                lines.append("WER % plain, fast: " + ", ".join(
                    f"{percent(one.rate)} {format_ends((one.low, one.high))}" for one in rates))  # fmt: skip
                lines.append(conclusion(score, "plain", "fast"))
        return lines


def _differing(plain: Measured, fast: Measured) -> int:
    return sum(text != fast.texts[id_] for id_, text in plain.texts.items())


@contextmanager
def bar(words: str = "measuring") -> Iterator[Callable[[float], None]]:
    """A progress bar over the share that is done, on stderr when that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(words, total=1.0)
        with heartbeat(lambda: f"{words}: {progress.tasks[0].completed:.0%}"):
            yield lambda share: progress.update(task, completed=share)
