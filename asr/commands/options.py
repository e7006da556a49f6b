"""What several subcommands share: their options, the decoder that options ask for, how failures are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from asr.console import say
from asr.errors import ConfigError, nearest

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or a run folder (its best model).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DecoderName = Annotated[str, typer.Option("--decoder", metavar="greedy|beam", help="Beam search is what --lm needs.")]
Lm = Annotated[Path | None, typer.Option("--lm", help="An n-gram language model: ARPA, gzipped or not, or binary.")]
Beam = Annotated[int | None, typer.Option("--beam", min=1, max=100_000, help="Prefixes kept a step; default 100.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="Weight of the language model; default 0.5.")]
Beta = Annotated[float | None, typer.Option("--beta", help="Bonus for each word, with a language model; default 1.5.")]
Hotwords = Annotated[list[str] | None, typer.Option("--hotword", metavar="WORD[:W]", help="A word to expect.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; default one a core.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]


@dataclass(frozen=True)
class Asked:
    """What the options say of the decoder."""

    name: str
    lm: Path | None
    hotwords: Sequence[str]
    search: dict[str, Any]

    def check(self) -> bool:
        """Whether beam search is asked for, by name or by what only it can do.

        Raises:
            ConfigError: the name is unknown, or is greedy beside an option that greedy decoding cannot follow.
        """
        if self.name not in ("", "greedy", "beam"):
            raise ConfigError(f"unknown decoder '{self.name}' (greedy, beam){nearest(self.name, ('greedy', 'beam'))}")
        needs = [o for o, v in (("--lm", self.lm), ("--hotword", self.hotwords)) if v]
        needs += ["--" + key.partition("_")[0] for key, value in self.search.items() if value is not None]
        if self.name == "greedy" and needs:
            raise ConfigError(f"greedy decoding cannot use {', '.join(needs)}; use --decoder beam")
        return self.name == "beam" or bool(needs)


def recognizer(model: Path, device: str, threads: int | None, resample: bool, asked: Asked) -> Any:
    """The recognizer of a model, with threads and decoder set; torch is imported here."""
    with_beam = asked.check()
    from asr.checkpoint import find_model

    find_model(model)
    from asr.runtime import use_threads
    from asr.transcribe import Recognizer

    use_threads(threads)
    loaded = Recognizer.load(model, device, resample=resample)
    if not with_beam:
        return loaded
    from asr.config import parse
    from asr.decode.choose import beam_decoder
    from asr.decode.settings import BeamConfig, parse_hotword

    given = {key: value for key, value in asked.search.items() if value is not None}
    settings = given | {"hotwords": dict(map(parse_hotword, asked.hotwords))}
    config = parse(BeamConfig, settings, "decoder options")
    return Recognizer(loaded.model, beam_decoder(loaded.model.tokenizer, config, asked.lm))


@contextmanager
def naming_failures(failed: dict[str, str]) -> Iterator[None]:
    """At the end, whatever else goes wrong inside, names the items that failed, and exits with 1 if there are any."""
    try:
        yield
    finally:
        if failed:
            say("\n".join([f"asr: {len(failed):,} failed:", *(f"  {why}" for why in failed.values())]))
    if failed:
        raise typer.Exit(1)
