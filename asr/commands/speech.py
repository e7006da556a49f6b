"""``asr transcribe``: audio in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from asr.commands.console import audio_bar, check_target, print_json, print_result, say, shown
from asr.commands.options import (
    DecodingOptions,
    Json,
    MachineOptions,
    ModelPath,
    NoSpeechThreshold,
    Precision,
    load_recognizer,
    naming_failures,
    with_groups,
)
from asr.errors import AsrError, ConfigError, DataError
from asr.heartbeat import stderr_is_terminal

if TYPE_CHECKING:
    from asr.outputs import Targets
    from asr.recordings.inputs import Input, Part
    from asr.transcribe import Failure, Recognizer
    from asr.transcript import Transcript

#: a progress bar is not worth reading more headers than this
_MOST_HEADERS = 10_000
#: formats that show no confidences, so that they need not be computed
_WITHOUT_CONFIDENCE = {"txt", "srt", "vtt", "tsv"}


@dataclass(frozen=True)
class OutputOptions:
    """In which form transcripts are written, and where."""

    formats: Annotated[
        list[str] | None,
        Option("--format", "-f", metavar="FORMAT,...", help="txt, srt, vtt, tsv, json, jsonl, ctm, TextGrid; all."),
    ] = None
    out: Annotated[Path | None, Option("--out", "-o", metavar="DIR", help="Write files here, not to stdout.")] = None
    skip_existing: Annotated[bool, Option("--skip-existing", help="Leave out what is done in DIR.")] = False
    as_json: Json = False
    word_times: Annotated[bool, Option("--word-times", help="Times of words in txt, srt and vtt, too.")] = False
    max_line_width: Annotated[int, Option(min=1, help="Characters in a line of a subtitle.")] = 42
    max_line_count: Annotated[int, Option(min=1, help="Lines in a subtitle.")] = 2

    def kinds(self) -> tuple[str, ...]:
        """Return the names of the formats, checked against the other options.

        Raises:
            ConfigError: a format is unknown, or the options contradict each other.
        """
        from asr.outputs import parse_formats

        kinds = parse_formats(self.formats or [])
        if self.as_json and (self.formats or self.out):
            raise ConfigError("--json prints one document for all; choose it, or -f json with -o DIR")
        if self.skip_existing and self.out is None:
            raise ConfigError("--skip-existing needs -o DIR")
        return kinds or ("txt",)


@dataclass(frozen=True)
class CuttingOptions:
    """Options of the part of each recording that is transcribed, and of its pieces."""

    start: Annotated[float, Option(min=0, metavar="SECONDS", help="Begin here.")] = 0.0
    end: Annotated[float | None, Option(metavar="SECONDS", help="End here.")] = None
    channel: Annotated[int | None, Option(min=1, help="Take this channel; default: all mixed down.")] = None
    longest: Annotated[
        float | None, Option(min=0.5, max=3600, metavar="SECONDS", help="Cut at pauses to this; default: as trained.")
    ] = None
    no_speech_threshold: NoSpeechThreshold = 0.6

    def part(self) -> Part:
        """Return the part of each recording.

        Raises:
            ConfigError: it ends before it begins.
        """
        from asr.recordings.inputs import Part

        if self.end is not None and self.end <= self.start:
            raise ConfigError(f"--end {self.end:g} is not after --start {self.start:g}")
        return Part(self.channel, self.start, self.end)


@dataclass(frozen=True)
class NbestDecodingOptions(DecodingOptions):
    """Decoding that can give several texts per recording."""

    nbest: Annotated[int | None, Option(min=1, help="Texts per recording, best first, in JSON.")] = None


@with_groups
def transcribe(
    *,
    model: ModelPath,
    inputs: Annotated[
        list[str],
        Argument(metavar="INPUT...", help="Audio files, folders, globs, manifests, - for stdin."),
    ],
    output: OutputOptions,
    cutting: CuttingOptions,
    decoding: NbestDecodingOptions,
    picture: Annotated[Path | None, Option(help="Draw the first file's spectrogram and posteriors here.")] = None,
    precision: Precision = "auto",
    batch_seconds: Annotated[float | None, Option(min=1, metavar="SECONDS", help="Padded audio in a batch.")] = None,
    jobs: Annotated[int | None, Option(min=1, max=1024, help="Threads that decode; default one per core.")] = None,
    machine: MachineOptions,
) -> None:
    """Transcribe recordings: text, subtitles, words with times."""
    from asr.recordings.inputs import find_inputs

    kinds = output.kinds()
    if (decoding.nbest or 1) > 1 and not (output.as_json or {"json", "jsonl"} & set(kinds)):
        raise ConfigError("--nbest is shown in JSON only; add --json or -f json")
    part = cutting.part()
    if picture is not None:
        from asr.scoring.picture import check

        check(picture)
        check_target(picture)

    found = find_inputs(inputs, part)
    writer = _Writer(found, kinds, output, also_read=_other_inputs(inputs, Path(model)))
    items = writer.left_to_do(found)
    if not items:
        if picture is not None:
            say(f"asr: nothing is left to draw: {shown(picture)} is not written")
        with naming_failures(writer.failed):
            return
    if picture is not None:
        _check_readable_twice(items)

    confidence = output.as_json or output.word_times or bool(set(kinds) - _WITHOUT_CONFIDENCE)
    recognizer = load_recognizer(model, machine, decoding, precision=precision, confidence=confidence)
    recognizer.no_speech_threshold = cutting.no_speech_threshold

    with naming_failures(writer.failed, writer.truncated):
        audio_s = _seconds(items) if stderr_is_terminal() else None
        with audio_bar(audio_s) as advance:
            results = recognizer.transcribe_all(
                items, longest_s=cutting.longest, batch_s=batch_seconds, jobs=jobs, advance=advance
            )
            for item, result in zip(items, results, strict=True):
                writer.take(item, result, several=(decoding.nbest or 1) > 1)
        writer.finish({"failed": writer.failed, "model": str(model)})

        if picture is not None:
            _draw_first(recognizer, [item for item in items if _label(item) not in writer.failed], picture)


def _draw_first(recognizer: Recognizer, items: Sequence[Input], picture: Path) -> None:
    from asr.scoring.picture import draw

    if items:
        draw(recognizer, items[0], picture)
        say(f"picture: {shown(picture)}")


def _other_inputs(inputs: Sequence[str], model: Path) -> list[Path]:
    """Return what is read besides the audio: manifests and the model's files."""
    manifests = [path for path in map(Path, inputs) if path.suffix.lower() == ".jsonl"]
    return [*manifests, *model.glob("*"), *(model / "best").glob("*")]


def _check_readable_twice(inputs: Sequence[Input]) -> None:
    """Refuse to draw audio that can be read only once, since the picture reads it a second time."""
    for item in inputs:
        # A name that the system refuses fails later, with a better message.
        with suppress(OSError):
            if item.source is None or item.source.is_fifo():
                label = _label(item)
                raise ConfigError(f"--picture draws from a file, and {label} can be read only once; save it first")


class _Writer:
    """Write transcripts: to files in a folder, to stdout one by one, or to stdout as one JSON document."""

    def __init__(
        self, inputs: Sequence[Input], kinds: Sequence[str], output: OutputOptions, also_read: Sequence[Path]
    ) -> None:
        """Check that everything can be written; ``also_read`` must not be written over, nor must the audio."""
        from asr.outputs import Layout, Targets, recording_ids

        self._kinds = kinds
        self._as_json = output.as_json
        self._layout = Layout(output.word_times, output.max_line_width, output.max_line_count)
        self._num_inputs = len(inputs)
        self._documents: list[dict[str, Any]] = []
        self._notes: Counter[str] = Counter()

        # Rows of a manifest have ids; files get theirs from their names.
        files = [item.name for item in inputs if item.text is None]
        self._ids = {item.name: item.name for item in inputs} | dict(zip(files, recording_ids(files), strict=True))

        self._skip_existing = output.skip_existing
        self._targets: Targets | None = None
        if output.out is not None:
            sources = [*also_read, *(item.source for item in inputs if item.source is not None)]
            self._targets = Targets([item.name for item in inputs], kinds, output.out, inputs=sources)
        elif not output.as_json:
            self._check_stdout()

        #: label -> why there is no transcript; at first, inputs whose files would have the names of another's files
        self.failed: dict[str, str] = {}
        if self._targets is not None:
            clashes = self._targets.clashes
            self.failed = {_label(item): clashes[item.name] for item in inputs if item.name in clashes}
        #: label -> where a recording is cut
        self.truncated: dict[str, str] = {}

    def _check_stdout(self) -> None:
        from asr.outputs import on_stdout

        if len(self._kinds) > 1:
            raise ConfigError(f"stdout takes one format, got {', '.join(self._kinds)}; add -o DIR")
        if not self._is_plain() and not on_stdout(self._kinds[0], self._num_inputs):
            raise ConfigError(f"{self._kinds[0]} of {self._num_inputs:,} recordings does not go on stdout; add -o DIR")

    def _is_plain(self) -> bool:
        """Return true if each transcript is one line of text."""
        return self._kinds[0] == "txt" and not self._layout.word_times

    def left_to_do(self, inputs: Sequence[Input]) -> list[Input]:
        """Return the inputs that are left to transcribe; say how many are done already."""
        possible = [item for item in inputs if _label(item) not in self.failed]
        items = possible
        if self._skip_existing and self._targets is not None:
            items = [item for item in possible if not self._targets.done(item.name)]
        if len(items) < len(possible):
            say(f"asr: {len(possible) - len(items):,} of {len(possible):,} are done already")
        return items

    def take(self, item: Input, result: Transcript | Failure, *, several: bool) -> None:
        """Write a transcript, or note why there is none; ``several``: other texts of each recording are wanted."""
        from asr.transcribe import Failure

        label = _label(item)
        prefix = "" if item.text is None else f"utt '{item.name}': "
        if isinstance(result, Failure):
            self.failed[label] = prefix + result.why
            return

        notes = list(result.notes)
        if several and result.seams and not result.others:
            notes.append("decoded in several passages: no other texts of the whole (--nbest)")
        for note in notes:
            if not self._notes[note]:  # said with the first recording of which it is true
                say(f"{shown(label)}: {note}")
            self._notes[note] += 1
        if result.truncated:
            self.truncated[label] = f"{label}: {result.truncated}"
        try:
            self._write(item, result)
        except DataError as error:  # the files of other recordings can perhaps be written
            self.failed[label] = prefix + str(error)

    def _write(self, item: Input, transcript: Transcript) -> None:
        from asr.outputs import document, render

        if self._as_json:
            own_id = {} if item.text is None else {"id": item.name}
            self._documents.append(own_id | document(transcript))
        elif self._targets is not None:
            self._targets.write(transcript, item.name, self._layout, self._ids[item.name])
        elif self._is_plain():
            label = "" if self._num_inputs == 1 else f"{shown(_label(item))}\t"
            print_result(label + transcript.text)
        else:
            text = render(transcript, self._kinds[0], self._layout, id_=self._ids[item.name])
            print_result(text.removesuffix("\n"))

    def finish(self, facts: dict[str, Any]) -> None:
        """Say of how many recordings each note is true; print the JSON document, with the facts in it."""
        for note, count in self._notes.items():
            if count > 1:
                say(f"asr: {count:,} recordings: {note}")
        if self._as_json:
            print_json({"transcripts": self._documents} | facts)


def _label(item: Input) -> str:
    """Return what the user calls a recording: the file, or the id of a manifest's utterance."""
    return item.name if item.text is not None else str(item.source or item.name)


def _seconds(inputs: Sequence[Input]) -> float | None:
    """Return how much audio there is; None if a header does not state it, or there are too many headers."""
    from asr.data.audio import info
    from asr.sound.ffmpeg import SUFFIXES as FFMPEG_SUFFIXES

    if len(inputs) > _MOST_HEADERS:
        return None
    total_s = 0.0
    for item in inputs:
        end_s = item.part.end_s
        if end_s is None:
            if item.source is None or item.source.suffix.lower() in FFMPEG_SUFFIXES:
                return None
            try:
                end_s = info(item.source).duration_s
            except AsrError:  # transcribing it will fail, or another reader takes it
                continue
        total_s += max(0.0, end_s - item.part.start_s)
    return total_s
