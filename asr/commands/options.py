"""Options that several subcommands share, and what they are turned into."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints

import typer
from typer import Argument, Option

from asr.commands.console import say, shown
from asr.errors import ConfigError, nearest

if TYPE_CHECKING:
    from asr.model.contract import AcousticModel
    from asr.transcribe import Recognizer

ModelPath = Annotated[
    Path, Argument(metavar="MODEL", help="A model or run folder (its best model), torchaudio:NAME, hf:NAME, nemo:FILE.")
]
ManifestPath = Annotated[Path, Argument(metavar="MANIFEST", help="A JSON Lines manifest with the references.")]
Json = Annotated[bool, Option("--json", help="Print one JSON document.")]
Lm = Annotated[Path | None, Option(help="An n-gram model: ARPA, plain or gzip, or binary (KenLM's too); or none.")]
NoSpeechThreshold = Annotated[
    float,
    Option(min=0, max=1, metavar="P", help="No text where nobody speaks with a probability over P; 1: all give text."),
]
Precision = Annotated[
    str, Option(metavar="auto|fp32|bf16|fp16", help="Of the network; auto: the fastest at equal WER.")
]
Resample = Annotated[bool, Option("--resample", help="Resample audio of another rate.")]
Settings = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="Change one config value.")]
Threads = Annotated[int | None, Option(min=1, max=1024, help="CPU threads; default one per core.")]


@dataclass(frozen=True)
class MachineOptions:
    """Options of the device and its threads."""

    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1.")] = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class DecodingOptions:
    """Options of decoding."""

    decoder: Annotated[str, Option(metavar="greedy|beam", help="Default: as tuned, else greedy.")] = ""
    lm: Lm = None
    beam: Annotated[int | None, Option(min=1, max=10_000, help="Prefixes kept; default tuned, else 100.")] = None
    #: no option here, since most commands need one text only; a subclass makes it one
    nbest: int | None = None
    alpha: Annotated[float | None, Option(help="Weight of the language model; default tuned, else 0.5.")] = None
    beta: Annotated[float | None, Option(help="Bonus for each word, with an LM; default tuned, else 1.5.")] = None
    hotwords: Annotated[
        list[str] | None, Option("--hotword", metavar="PHRASE[:W]", help="A word or phrase to expect; repeatable.")
    ] = None
    hotword_file: Annotated[Path | None, Option("--hotwords", help="A file of them, one on each line.")] = None
    mbr: Annotated[
        bool, Option("--mbr", help="The text with the fewest expected word errors; in JSON a confusion network, too.")
    ] = False
    lexicon: Annotated[Path | None, Option(help="Only the words in this file can come out.")] = None
    rescore: Annotated[Path | None, Option(help="A neural language model over the beam's best texts; or none.")] = None
    rescore_weight: Annotated[float | None, Option(min=0, max=10, help="Its weight; default tuned, else 0.5.")] = None
    backend: Annotated[
        str, Option("--decoder-backend", metavar="auto|numba|numpy", help="Which beam search; the texts are the same.")
    ] = ""

    def check(self) -> None:
        """Refuse an unknown decoder, and options that greedy decoding cannot follow, before anything is loaded.

        Raises:
            ConfigError: the decoder is unknown, or is greedy and an option needs the beam search.
        """
        if self.decoder not in ("", "greedy", "beam"):
            near = nearest(self.decoder, ("greedy", "beam"))
            raise ConfigError(f"unknown decoder '{self.decoder}' (greedy, beam){near}")

        of_beam_search = {
            "--lm": self.lm,
            "--hotword": self.hotwords or None,
            "--hotwords": self.hotword_file,
            "--mbr": self.mbr or None,
            "--lexicon": self.lexicon,
            "--decoder-backend": self.backend or None,
            "--rescore": self.rescore,
            "--rescore-weight": self.rescore_weight,
            "--beam": self.beam,
            "--nbest": self.nbest,
            "--alpha": self.alpha,
            "--beta": self.beta,
        }
        given = [option for option, value in of_beam_search.items() if value is not None]
        if self.decoder == "greedy" and given:
            raise ConfigError(f"greedy decoding cannot use {', '.join(given)}; use --decoder beam")

    def settings(self) -> dict[str, Any]:
        """Return the given settings of the search, by their names in its config."""
        from asr.decode.settings import parse_hotword
        from asr.lm.ngram import read_lines

        settings: dict[str, Any] = {
            "beam_width": self.beam,
            "nbest": self.nbest,
            "alpha": self.alpha,
            "beta": self.beta,
            "mbr": self.mbr or None,
        }
        if self.hotwords:
            settings["hotwords"] = dict(map(parse_hotword, self.hotwords))
        if self.lexicon is not None:
            words = (word for line in read_lines([self.lexicon]) for word in line.split())
            settings["lexicon"] = tuple(dict.fromkeys(words))
        return {key: value for key, value in settings.items() if value is not None}


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with each group of options spelled out, for typer, which has no groups.

    A parameter whose type is a dataclass stands for an option per annotated field. Other fields keep their defaults.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if not is_dataclass(hints[name]):
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        options = _options_of(hints[name])
        parameters += options
        groups[name] = (hints[name], [option.name for option in options])

    def expanded(**given: Any) -> None:
        for name, (group, options) in groups.items():
            given[name] = group(**{option: given.pop(option) for option in options})
        command(**given)

    expanded.__name__ = command.__name__
    expanded.__doc__ = command.__doc__
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return expanded


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
        if get_origin(hints[field.name]) is Annotated
    ]


def load_recognizer(
    path: Path,
    machine: MachineOptions,
    decoding: DecodingOptions,
    *,
    precision: str,
    resample: bool = False,
    confidence: bool = False,
) -> Recognizer:
    """Load a model with the decoder that the options ask for.

    Args:
        resample: accept manifests with audio of another rate than the model's.
        confidence: compute confidences of words from the whole beam.
    """
    decoding.check()

    # Look for the model before torch is imported: a mistyped path should cost no seconds.
    from asr.model.folder import find_model

    find_model(path)

    from asr.machine import use_threads
    from asr.transcribe import Recognizer

    use_threads(machine.threads)
    recognizer = Recognizer.load(
        path,
        machine.device,
        decoder=decoding.decoder,
        settings=decoding.settings(),
        lm=decoding.lm,
        backend=decoding.backend or "auto",  # type: ignore[arg-type]  # BeamDecoder checks it
        confidence=confidence,
        precision=precision,
        rescore=decoding.rescore,
        rescore_weight=decoding.rescore_weight,
        hotword_file=decoding.hotword_file,
    )
    if resample:
        recognizer.model = with_resampling(recognizer.model)
    if recognizer.decoder.source:
        decoder = recognizer.decoder
        say(shown(f"asr: {decoder.source}: {decoder.name}, LM {decoder.lm or 'none'}"))
    return recognizer


def with_resampling(model: AcousticModel) -> AcousticModel:
    """Return the model, set to accept audio of any rate in manifests."""
    return replace(model, audio=model.audio.model_copy(update={"resample": True}))


@contextmanager
def naming_failures(failed: dict[str, str], truncated: dict[str, str] | None = None) -> Iterator[None]:
    """Name the items that failed when the block ends, also by an error; then exit with 1 if there are any.

    Args:
        truncated: recordings that were done up to the point where they are cut; they count as failed.
    """
    try:
        yield
    finally:
        if truncated:
            _say_list(f"{len(truncated):,} cut short, done as far as they go:", truncated)
        if failed:
            _say_list(f"{len(failed):,} failed:", failed)
    if failed or truncated:
        raise typer.Exit(1)


def _say_list(title: str, reasons: dict[str, str]) -> None:
    say("\n".join([f"asr: {title}", *(f"  {shown(why)}" for why in reasons.values())]))
