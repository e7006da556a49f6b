"""``asr listen``: text while somebody speaks."""

from __future__ import annotations

import json
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

if TYPE_CHECKING:
    from rich.live import Live

    from asr.outputs import Targets
    from asr.streaming.results import Result, Rules
    from asr.streaming.sources import Source
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
    rate: Annotated[int | None, Option(min=1, metavar="HZ", help="Of raw samples; default: the model's.")] = None
    pause: Annotated[float, Option(metavar="SECONDS", help="A pause this long ends a passage.")] = 1.2
    longest: Annotated[float, Option(metavar="SECONDS", help="A passage this long ends in its next pause.")] = 20.0

    def rules(self) -> Rules:
        """Return the rules for end points.

        Raises:
            ConfigError: a number of seconds makes no sense.
        """
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
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="Where files are written.")] = Path(),
    as_json: Annotated[bool, Option("--json", help="Print each result as a line of JSON, partial ones, too.")] = False,
    decoding: DecodingOptions,
    no_speech_threshold: NoSpeechThreshold = 0.6,
    precision: Precision = "auto",
    machine: MachineOptions,
) -> None:
    """Write down what is said, while it is said; Ctrl-C ends it."""
    if input not in ("", "-"):
        raise ConfigError(f"'{input}': listens to a microphone, or to stdin (-); asr transcribe takes files")
    rules = live.rules()
    files = _Files(formats or [], out)
    recognizer = load_recognizer(model, machine, decoding, precision=precision, confidence=bool(files))
    recognizer.no_speech_threshold = no_speech_threshold

    from asr.streaming.engines import why_not
    from asr.streaming.pool import open_pool

    pool = open_pool(recognizer)
    if not pool.partials:
        say(f"asr: the model does not stream, so text comes after each pause: {why_not(recognizer.model)}")
    rate_hz = recognizer.model.audio.sample_rate_hz
    with _source(input, live, rate_hz) as source, _screen(as_json) as show:
        stream = pool.open(source.rate_hz, rules)
        for samples in _until_interrupted(source, bool(input)):
            if samples is None:
                stream.finish()
            else:
                stream.push(samples)
            for _, results in pool.tick():
                for result in results:
                    show(result)
                    files.take(result)
    files.write()


@contextmanager
def _source(input: str, live: LiveOptions, rate_hz: int) -> Iterator[Source]:
    from asr.streaming.sources import from_pipe, microphone

    if input == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("stdin is a terminal; - reads samples from a pipe: arecord -f S16_LE -r 16000 | asr …")
        yield from_pipe(sys.stdin.buffer, live.rate or rate_hz)
        return
    with microphone(live.microphone, rate_hz) as source:
        say("asr: listening (Ctrl-C ends it)")
        yield source


def _until_interrupted(source: Source, is_pipe: bool) -> Iterator[Any]:
    """Yield the blocks of samples until there are none, or Ctrl-C or SIGTERM comes; then None."""
    said_late = False
    began = time.monotonic()
    taken_s = 0.0
    is_waiting = False
    is_asked = False

    def stop(number: int, frame: object) -> None:
        """End the wait for samples, or let the work on the last ones end; asked again, end at once."""
        nonlocal is_asked
        if is_waiting or is_asked:
            raise KeyboardInterrupt
        is_asked = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not is_asked:
            is_waiting = True
            samples = next(source.blocks, None)
            is_waiting = False
            if samples is None:
                break
            yield samples
            taken_s += len(samples) / source.rate_hz
            late_s = time.monotonic() - began - taken_s
            if late_s > _LATE_S and not is_pipe and not said_late:
                said_late = True
                say(f"asr: {late_s:.0f} s behind: this machine is too slow for the model; nothing is lost")
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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
        """Write the files, and say where they are."""
        if self:
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
        yield lambda result: print_result(json.dumps(asdict(result), ensure_ascii=False))
    elif not sys.stdout.isatty():
        yield lambda result: print_result(result.text) if result.final and result.text else None
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False, markup=False, soft_wrap=False)
        with Live(console=console, transient=True, refresh_per_second=12) as growing:
            yield lambda result: _grow(growing, result)


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
