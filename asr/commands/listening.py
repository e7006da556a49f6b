"""``asr listen``: text while somebody speaks."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from asr.commands.console import print_result, say, shown
from asr.commands.options import (
    DecodingOptions,
    MachineOptions,
    ModelPath,
    NoSpeechThreshold,
    Precision,
    load_recognizer,
    with_groups,
)
from asr.errors import ConfigError
from asr.files import json_text

if TYPE_CHECKING:
    from rich.live import Live

    from asr.outputs import Targets
    from asr.streaming.results import Result, Rules
    from asr.streaming.sources import Block, Source
    from asr.transcript import Transcript

#: files are brought up to date at least so far apart, so that little is lost if the machine stops
_WRITE_EVERY_S = 30.0
#: recorded audio that waits for the network is said to be late beyond this
_LATE_S = 5.0


def _list_devices(wanted: bool) -> None:
    """Print the microphones, and end."""
    if not wanted:
        return
    from asr.streaming.sources import devices

    found = devices()
    if not found:
        say("asr: no microphone was found")
    for number, name, rate_hz, is_default in found:
        print_result(f"{number}\t{shown(name)}\t{rate_hz} Hz{' (default)' if is_default else ''}")
    raise typer.Exit(0 if found else 1)


@dataclass(frozen=True)
class LiveOptions:
    """Options of the source, and of the end points."""

    list_devices: Annotated[
        bool, Option("--list-devices", callback=_list_devices, is_eager=True, help="Show the microphones.")
    ] = False
    microphone: Annotated[str, Option(metavar="NAME", help="Its number, or a part of its name.")] = ""
    rate: Annotated[int | None, Option(min=1000, metavar="HZ", help="Of raw samples; default: the model's.")] = None
    pause: Annotated[float, Option(min=0.2, max=3600, metavar="SECONDS", help="A pause this long ends a passage.")] = (
        1.2
    )
    longest: Annotated[
        float, Option(min=1, max=3600, metavar="SECONDS", help="A passage this long ends in its next pause.")
    ] = 20.0

    def rules(self) -> Rules:
        """Return the rules for end points."""
        from asr.streaming.results import Rules

        return Rules(silence_s=max(2.4, self.pause), pause_s=self.pause, longest_s=self.longest)


@with_groups
def listen(
    *,
    model: ModelPath,
    input: Annotated[
        str, Argument(metavar="[-]", help="-: raw samples or WAV from stdin; default: a microphone.")
    ] = "",
    live: LiveOptions,
    formats: Annotated[
        list[str] | None, Option("--format", "-f", metavar="FORMAT,...", help="Also write files: srt, vtt, json …")
    ] = None,
    out: Annotated[
        Path | None,
        Option("--out", "-o", metavar="DIR", help="Where files are written; without -f: txt.  [default: .]"),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print each result as a line of JSON, partial ones, too.")] = False,
    decoding: DecodingOptions,
    no_speech_threshold: NoSpeechThreshold = 0.6,
    precision: Precision = "auto",
    machine: MachineOptions,
) -> None:
    """Write down what is said, while it is said; Ctrl-C ends it."""
    _check_source(input, live)
    files = _Files(formats or ["txt"] * bool(out), out or Path())
    recognizer = load_recognizer(model, machine, decoding, precision=precision, confidence=bool(files))
    recognizer.no_speech_threshold = no_speech_threshold

    from asr.streaming.engines import why_not
    from asr.streaming.pool import open_pool

    pool = open_pool(recognizer)
    if not pool.partials:
        say(f"asr: the model does not stream, so text comes after each pause: {why_not(recognizer.model)}")
    rate_hz = recognizer.model.audio.sample_rate_hz
    try:
        with _source(input, live, rate_hz) as source, _screen(as_json) as show:
            stream = pool.open(source.rate_hz, live.rules())
            for samples in _until_interrupted(source, bool(input)):
                if samples is None:
                    stream.finish()
                else:
                    stream.push(samples)
                for _, results in pool.tick():
                    for result in results:
                        files.take(result)
                        show(result)
    finally:  # also where stdout was closed, or a second Ctrl-C came
        files.write()


def _check_source(input: str, live: LiveOptions) -> None:
    """Look whether there is something to listen to, before the model is loaded for it.

    Raises:
        AsrError: there is not, or an option does not belong to it.
    """
    from asr.streaming.sources import check_microphone

    if input == "-":
        if live.microphone:
            raise ConfigError("--microphone and - (stdin) exclude each other")
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("stdin is a terminal; - reads samples from a pipe: arecord -f S16_LE -r 16000 | asr …")
        return
    if input:
        raise ConfigError(f"'{input}': listens to a microphone, or to stdin (-); asr transcribe takes files")
    if live.rate:
        raise ConfigError("--rate is for raw samples from stdin (-); a microphone's is chosen for the model")
    check_microphone(live.microphone)


@contextmanager
def _source(input: str, live: LiveOptions, rate_hz: int) -> Iterator[Source]:
    from asr.streaming.sources import from_pipe, microphone

    if input == "-":
        source = from_pipe(sys.stdin.buffer, live.rate or rate_hz)
        if source.is_raw and not live.rate:
            say(f"asr: no WAV, so taken as raw samples: 16 bits, one channel, {rate_hz} Hz (--rate)")
        if live.rate and live.rate != source.rate_hz:
            raise ConfigError(f"--rate {live.rate}: stdin is a WAV of {source.rate_hz} Hz; --rate is for raw samples")
        yield source
        return
    with microphone(live.microphone, rate_hz) as source:
        say("asr: listening (Ctrl-C ends it)")
        yield source


class _Signals:
    """Take Ctrl-C, SIGTERM and the end of the terminal for the end of the stream.

    A first signal only breaks into the waiting for samples: work that is under way is finished, so that nothing that
    was said is lost. A second one breaks into that, too.
    """

    def __init__(self) -> None:
        self._has_come = False
        self._is_waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks for
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, frame: object) -> None:
        is_second, self._has_come = self._has_come, True
        if is_second or self._is_waiting:
            raise KeyboardInterrupt

    def next_of(self, blocks: Iterator[Block]) -> Block | None:
        """Return the next block; None: there is no more, or a signal has come."""
        try:
            self._is_waiting = True
            block = None if self._has_come else next(blocks, None)
            self._is_waiting = False
        except KeyboardInterrupt:
            self._is_waiting = False
            return None
        return block


def _until_interrupted(source: Source, is_pipe: bool) -> Iterator[Block | None]:
    """Yield the blocks of samples until there are none, or a signal comes; then None."""
    said_late = False
    began = time.monotonic()
    taken_s = 0.0

    with _Signals() as signals:
        while (samples := signals.next_of(source.blocks)) is not None:
            yield samples
            taken_s += len(samples) / source.rate_hz
            late_s = time.monotonic() - began - taken_s
            if late_s > _LATE_S and not is_pipe and not said_late:
                said_late = True
                say(f"asr: {late_s:.0f} s behind: this machine is too slow for the model; nothing is lost")
        yield None


class _Files:
    """Keep the final results, and write them as files."""

    def __init__(self, formats: list[str], out: Path) -> None:
        """Check that the files can be written.

        Raises:
            ConfigError: a format is unknown, or the folder cannot be made or written to.
        """
        self._results: list[Result] = []
        self._targets: Targets | None = None
        self._written = time.monotonic()
        self._name = time.strftime("live-%Y%m%d-%H%M%S")
        if formats:
            from asr.outputs import Targets, parse_formats

            self._targets = Targets([self._name], parse_formats(formats), out)

    def __bool__(self) -> bool:
        return self._targets is not None

    def take(self, result: Result) -> None:
        """Keep a final result; write from time to time."""
        if self and result.final:
            self._results.append(result)
            if time.monotonic() - self._written > _WRITE_EVERY_S:
                self._write()

    def write(self) -> None:
        """Write the files, if there was anything to hear, and say where they are."""
        if self and self._results:
            say(f"asr: written: {', '.join(shown(path) for path in self._write())}")

    def _write(self) -> list[Path]:
        assert self._targets is not None
        self._written = time.monotonic()
        return self._targets.write(self._transcript(), self._name)

    def _transcript(self) -> Transcript:
        from asr.transcript import Transcript, segments_of

        spoken = [result for result in self._results if result.text]
        segments = [segment for result in spoken for segment in segments_of(result.words)]
        return Transcript(
            path=self._name,
            text=" ".join(result.text for result in spoken),
            duration_s=self._results[-1].end_s if self._results else 0.0,
            log_prob=sum(result.log_prob for result in spoken),
            segments=tuple(segments),
        )


@contextmanager
def _screen(as_json: bool) -> Iterator[Any]:
    """Give what shows a result: on a terminal text that grows, elsewhere a line for each final one."""
    if as_json:
        yield lambda result: print_result(_json(result))
    elif not sys.stdout.isatty():
        yield lambda result: print_result(result.text) if result.final and result.text else None
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False, markup=False, soft_wrap=False)
        with Live(console=console, transient=True, refresh_per_second=12) as growing:
            yield lambda result: _grow(growing, result)


def _json(result: Result) -> str:
    """Return a result as JSON; minus infinity, the score where a lexicon allows no text, is null."""
    log_prob = result.log_prob if math.isfinite(result.log_prob) else None
    return json_text(asdict(result) | {"log_prob": log_prob})


def _grow(growing: Live, result: Result) -> None:
    """Show a partial text below the final ones, with the part dimmed that may change."""
    from rich.text import Text

    if not result.final:
        text = Text(result.text)
        text.stylize("dim", result.stable)
        growing.update(text)
        return
    growing.update(Text(), refresh=True)
    if result.text:
        growing.console.print(Text(result.text))
