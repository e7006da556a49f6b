"""``asr transcribe``: audio in, text out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr.commands import options
from asr.commands.console import check_target, print_json, print_result, say, shown, speed_bar
from asr.commands.options import (
    Alpha,
    Asked,
    Backend,
    Beam,
    Beta,
    DecoderName,
    Device,
    Hotwords,
    Json,
    Lexicon,
    Lm,
    ModelPath,
    NoSpeechThreshold,
    Precision,
    RescoreModel,
    RescoreWeight,
    Threads,
    naming_failures,
)  # fmt: skip
from asr.errors import ConfigError, DataError

if TYPE_CHECKING:
    from asr.outputs import Layout, Targets
    from asr.recordings.inputs import Input
    from asr.transcript import Transcript


def transcribe(
    model: ModelPath,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Audio files, folders, globs, a manifest, or - for standard input."),
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", "-f", metavar="FORMAT,...", help="txt, srt, vtt, tsv, json, jsonl, ctm, TextGrid; all."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Write files here, not to stdout.")
    ] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out what is done in DIR.")] = False,
    as_json: Json = False,
    word_times: Annotated[bool, typer.Option("--word-times", help="Times of words in txt, srt and vtt, too.")] = False,
    max_line_width: Annotated[int, typer.Option(min=1, help="Characters in a line of a subtitle.")] = 42,
    max_line_count: Annotated[int, typer.Option(min=1, help="Lines in a subtitle.")] = 2,
    start: Annotated[float, typer.Option("--start", min=0, metavar="SECONDS", help="Begin here.")] = 0.0,
    end: Annotated[float | None, typer.Option("--end", metavar="SECONDS", help="End here.")] = None,
    channel: Annotated[int | None, typer.Option(min=1, help="Take this channel; default: all mixed down.")] = None,
    longest: Annotated[
        float | None,
        typer.Option(min=0.5, max=3600, metavar="SECONDS", help="Cut at pauses to this; default: as trained."),
    ] = None,
    no_speech_threshold: NoSpeechThreshold = 0.6,
    decoder: DecoderName = "",
    lm: Lm = None,
    beam: Beam = None,
    nbest: Annotated[int | None, typer.Option(min=1, help="Texts a recording, best first, in JSON.")] = None,
    alpha: Alpha = None,
    beta: Beta = None,
    hotwords: Hotwords = None,
    lexicon: Lexicon = None,
    rescore: RescoreModel = None,
    rescore_weight: RescoreWeight = None,
    backend: Backend = "",
    picture: Annotated[Path | None, typer.Option(help="Draw the first file's spectrogram and posteriors here.")] = None,
    precision: Precision = "auto",
    batch_seconds: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Padded audio in a batch of the network.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads that decode; default one a core.")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Transcribe recordings: text, subtitles, words with times."""
    from asr.outputs import Layout, parse_formats
    from asr.recordings.inputs import find_inputs
    from asr.recordings.media import Part

    kinds = parse_formats(formats or [])
    if as_json and (formats or out):
        raise ConfigError("--json prints one document for all; choose it, or -f json with -o DIR")
    if nbest is not None and nbest > 1 and not (as_json or {"json", "jsonl"} & set(kinds)):
        raise ConfigError("--nbest is shown in JSON only; add --json or -f json")
    if skip_existing and out is None:
        raise ConfigError("--skip-existing needs -o DIR")
    if end is not None and end <= start:
        raise ConfigError(f"--end {end:g} is not after --start {start:g}")
    if picture is not None:
        from asr.scoring.picture import check

        check(picture)
        check_target(picture)
    found = find_inputs(inputs, Part(channel, start, end))
    layout = Layout(word_times, max_line_width, max_line_count)
    output = _Output(found, kinds or ("txt",), out, layout, as_json, _read_besides(inputs, Path(model)) if out else [])
    failed = {_label(one): output.clashes[one.name] for one in found if one.name in output.clashes}
    found = [one for one in found if one.name not in output.clashes]
    todo = [one for one in found if not (skip_existing and output.done(one))]
    if len(todo) < len(found):
        say(f"asr: {len(found) - len(todo):,} of {len(found):,} are done already")
        if not todo:
            if picture is not None:
                say(f"asr: nothing is left to draw: {shown(picture)} is not written")
            with naming_failures(failed):
                return
    if picture is not None:
        _check_drawn(todo)
    search = {"beam_width": beam, "nbest": nbest, "alpha": alpha, "beta": beta}
    confident = as_json or word_times or bool(set(kinds) - {"txt", "srt", "vtt", "tsv"})
    recognizer = options.recognizer(
        model,
        device,
        threads,
        False,
        Asked(decoder, lm, hotwords or [], search, backend, lexicon, confident, rescore, rescore_weight),
        precision,
    )
    recognizer.no_speech_threshold = no_speech_threshold
    from asr.infer import BATCH_S
    from asr.transcribe import Failure

    cut: dict[str, str] = {}
    notes = _Notes()
    with naming_failures(failed, cut):
        with speed_bar(_seconds(todo) if sys.stderr.isatty() else None) as advance:
            results = recognizer.transcribe_all(
                todo, longest_s=longest, batch_s=batch_seconds or BATCH_S, jobs=jobs, advance=advance
            )
            for one, result in zip(todo, results, strict=True):
                if isinstance(result, Failure):
                    failed[_label(one)] = _why(one, result.why)
                    continue
                notes.take(one, result.notes)
                if result.truncated:
                    cut[_label(one)] = f"{_label(one)}: {result.truncated}"
                if (nbest or 1) > 1 and result.seams and not result.others:
                    notes.take(one, ["decoded in several passages: no other texts of the whole (--nbest)"])
                try:
                    output.take(one, result)
                except DataError as error:  # its file cannot be written: the others may be
                    failed[_label(one)] = _why(one, str(error))
        notes.finish()
        if as_json:
            print_json({"transcripts": output.documents, "failed": failed, "model": str(model)})
        if picture is not None and any(_label(one) not in failed for one in todo):
            from asr.scoring.picture import draw

            drawn = next(one for one in todo if _label(one) not in failed)
            draw(recognizer, drawn, picture)
            say(f"picture: {shown(picture)}")


def _read_besides(inputs: Sequence[str], model: Path) -> list[Path]:
    """What is read beside the audio: manifests and the model's files."""
    manifests = [path for path in map(Path, inputs) if path.suffix.lower() == ".jsonl"]
    return [*manifests, *model.glob("*"), *(model / "best").glob("*")]


def _check_drawn(inputs: Sequence[Input]) -> None:
    """A picture is of audio that is read a second time."""
    for one in inputs:
        try:
            only_once = one.source is None or one.source.is_fifo()
        except OSError:  # a name that cannot be looked at fails by itself, later
            continue
        if only_once:
            raise ConfigError(f"--picture draws from a file, and {_label(one)} can be read only once; save it first")


class _Output:
    """Where transcripts go: files in a folder, or stdout."""

    def __init__(
        self, inputs: Sequence[Input], formats: Sequence[str], out: Path | None, layout: Layout, as_json: bool,
        read: Sequence[Path],
    ) -> None:  # fmt: skip
        """``read``: files beside the audio that are read, and must not be written over."""
        from asr.outputs import Targets, on_stdout, recording_ids

        self.documents: list[dict[str, Any]] = []
        self._formats, self._layout, self._as_json, self._alone = formats, layout, as_json, len(inputs) == 1
        files = [one.name for one in inputs if one.text is None]
        self._ids = dict(zip(files, recording_ids(files), strict=True))  # of a manifest's rows: as they are
        self._targets: Targets | None = None
        if out is not None:
            sources = [*read, *(one.source for one in inputs if one.source is not None)]
            self._targets = Targets([one.name for one in inputs], formats, out, inputs=sources)
        elif not as_json:
            if len(formats) > 1:
                raise ConfigError(f"stdout takes one format, got {', '.join(formats)}; add -o DIR")
            by_name = formats[0] == "txt" and not layout.word_times  # a line each, the name in front
            if not by_name and not on_stdout(formats[0], len(inputs)):
                raise ConfigError(f"{formats[0]} of {len(inputs):,} recordings does not go on stdout; add -o DIR")

    @property
    def clashes(self) -> dict[str, str]:
        """Names of inputs whose files another one's have taken, with the reason."""
        return {} if self._targets is None else self._targets.clashes

    def done(self, one: Input) -> bool:
        return self._targets is not None and self._targets.done(one.name)

    def take(self, one: Input, transcript: Transcript) -> None:
        from asr.outputs import document, render

        if self._as_json:
            ours = {} if one.text is None else {"id": one.name}
            self.documents.append(ours | document(transcript))
        elif self._targets is not None:
            self._targets.write(transcript, one.name, self._layout, self._id(one))
        elif self._formats == ("txt",) and not self._layout.word_times:
            print_result(transcript.text if self._alone else f"{shown(_label(one))}\t{transcript.text}")
        else:
            print_result(render(transcript, self._formats[0], self._layout, id_=self._id(one)).removesuffix("\n"))

    def _id(self, one: Input) -> str:
        return one.name if one.text is not None else self._ids[one.name]


class _Notes:
    """What was done to the audio, said once with the first recording, and at the end of how many it is true."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def take(self, one: Input, notes: Sequence[str]) -> None:
        for note in notes:
            if not self._count[note]:
                say(f"{shown(_label(one))}: {note}")
            self._count[note] += 1

    def finish(self) -> None:
        for note, count in self._count.items():
            if count > 1:
                say(f"asr: {count:,} recordings: {note}")


def _label(one: Input) -> str:
    """What a recording is known by to its user: the file, or the id of a manifest's utterance."""
    return one.name if one.text is not None else str(one.source or one.name)


def _why(one: Input, why: str) -> str:
    return why if one.text is None else f"utt '{one.name}': {why}"


def _seconds(inputs: Sequence[Input]) -> float | None:
    """How much audio there is, for the progress bar; None where a header does not say, or there are too many to ask."""
    from asr.data.audio import info
    from asr.errors import AsrError
    from asr.sound.ffmpeg import SUFFIXES as FFMPEG_SUFFIXES

    if len(inputs) > 10_000:
        return None
    total_s = 0.0
    for one in inputs:
        if one.source is None:
            return None
        if one.part.end_s is None and one.source.suffix.lower() in FFMPEG_SUFFIXES:
            return None
        try:
            duration_s = info(one.source).duration_s
        except AsrError:  # another reader's, or a failure: said when its turn comes
            continue
        total_s += max(0.0, min(duration_s, one.part.end_s or duration_s) - one.part.start_s)
    return total_s
