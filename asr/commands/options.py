"""What several subcommands share: their options, the decoder that options ask for, how failures are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from asr.commands.console import say
from asr.errors import ConfigError, nearest

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder, a run folder (its best model), or torchaudio:NAME.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DecoderName = Annotated[str, typer.Option("--decoder", metavar="greedy|beam", help="Default: as tuned, else greedy.")]
Backend = Annotated[
    str,
    typer.Option("--decoder-backend", metavar="auto|numba|numpy", help="Which beam search; the texts are the same."),
]
Lm = Annotated[Path | None, typer.Option("--lm", help="An n-gram model: ARPA, plain or gzip, or binary; or none.")]
Beam = Annotated[int | None, typer.Option("--beam", min=1, max=100_000, help="Prefixes kept; default tuned, else 100.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="Weight of the language model; default tuned, else 0.5.")]
Beta = Annotated[float | None, typer.Option("--beta", help="Bonus for each word, with an LM; default tuned, else 1.5.")]
Hotwords = Annotated[list[str] | None, typer.Option("--hotword", metavar="WORD[:W]", help="A word to expect.")]
Lexicon = Annotated[Path | None, typer.Option("--lexicon", help="Only the words in this file can come out.")]
RescoreModel = Annotated[
    Path | None, typer.Option("--rescore", help="A neural language model over the beam's best texts; or none.")
]
RescoreWeight = Annotated[
    float | None, typer.Option("--rescore-weight", min=0, max=10, help="Its weight; default tuned, else 0.5.")
]
NoSpeechThreshold = Annotated[
    float,
    typer.Option(min=0, max=1, metavar="P", help="No text where nobody speaks with more than P; 1: all give text."),
]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; default one a core.")]
Precision = Annotated[
    str,
    typer.Option(metavar="auto|fp32|bf16", help="Of the network's arithmetic; auto: the fastest at equal WER."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]


@dataclass(frozen=True)
class Asked:
    """What the options say of the decoder."""

    name: str
    lm: Path | None
    hotwords: Sequence[str]
    search: dict[str, Any]
    backend: str = ""
    lexicon: Path | None = None
    #: whether words need a confidence that looks at the whole beam
    confidence: bool = False
    rescore: Path | None = None
    rescore_weight: float | None = None

    def check(self) -> None:
        """Refuses what cannot be meant, before anything is loaded.

        Raises:
            ConfigError: the name is unknown, or is greedy beside an option that greedy decoding cannot follow.
        """
        if self.name not in ("", "greedy", "beam"):
            raise ConfigError(f"unknown decoder '{self.name}' (greedy, beam){nearest(self.name, ('greedy', 'beam'))}")
        needs = [o for o, v in self._files() if v]
        needs += ["--" + key.partition("_")[0] for key, value in self.search.items() if value is not None]
        if self.name == "greedy" and needs:
            raise ConfigError(f"greedy decoding cannot use {', '.join(needs)}; use --decoder beam")

    def _files(self) -> tuple[tuple[str, object], ...]:
        return (
            ("--lm", self.lm),
            ("--hotword", self.hotwords),
            ("--lexicon", self.lexicon),
            ("--decoder-backend", self.backend),
            ("--rescore", self.rescore),
            ("--rescore-weight", self.rescore_weight),
        )


def recognizer(
    model: Path, device: str, threads: int | None, resample: bool, asked: Asked, precision: str = "fp32"
) -> Any:
    """The recognizer of a model, with threads and decoder set; torch is imported here.

    ``resample``: manifests may hold audio of another rate than the model's.
    """
    asked.check()
    from asr.model.checkpoint import find_model

    find_model(model)
    from asr.runtime import use_threads
    from asr.transcribe import Recognizer

    use_threads(threads)
    settings = {key: value for key, value in asked.search.items() if value is not None}
    if asked.hotwords:
        from asr.decode.settings import parse_hotword

        settings["hotwords"] = dict(map(parse_hotword, asked.hotwords))
    if asked.lexicon is not None:
        from asr.lm.ngram import read_lines

        settings["lexicon"] = tuple(
            dict.fromkeys(word for line in read_lines([asked.lexicon]) for word in line.split())
        )
    loaded = Recognizer.load(
        model, device, decoder=asked.name, settings=settings, lm=asked.lm,
        backend=asked.backend or "auto",  # type: ignore[arg-type]  # BeamDecoder looks at it
        confidence=asked.confidence, precision=precision, rescore=asked.rescore,
        rescore_weight=asked.rescore_weight,
    )  # fmt: skip
    if resample:
        loaded.model = with_resampling(loaded.model)
    if loaded.decoder.source:
        say(f"asr: {loaded.decoder.source}: {loaded.decoder.name}, LM {loaded.decoder.lm or 'none'}")
    return loaded


def with_resampling(model: Any) -> Any:
    """The model, ready for manifests with audio of any rate."""
    return replace(model, audio=model.audio.model_copy(update={"resample": True}))


@contextmanager
def naming_failures(failed: dict[str, str], cut: dict[str, str] | None = None) -> Iterator[None]:
    """At the end, whatever else goes wrong inside, names the items that failed, and exits with 1 if there are any.

    Args:
        cut: items that were done as far as they go, since they are cut; they count as failed.
    """
    try:
        yield
    finally:
        if cut:
            say(
                "\n".join(
                    [f"asr: {len(cut):,} cut short, done as far as they go:", *(f"  {why}" for why in cut.values())]
                )
            )
        if failed:
            say("\n".join([f"asr: {len(failed):,} failed:", *(f"  {why}" for why in failed.values())]))
    if failed or cut:
        raise typer.Exit(1)
