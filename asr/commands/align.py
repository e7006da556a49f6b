"""``asr align``: when each word of a text is said, and which transcripts are likely wrong."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from asr.commands.console import audio_bar, print_json, print_result, say, shown
from asr.commands.options import Json, MachineOptions, ModelPath, naming_failures, with_groups, with_resampling
from asr.errors import AsrError, ConfigError, DataError
from asr.files import json_text

if TYPE_CHECKING:
    from asr.align import Aligned
    from asr.data.manifest import Manifest
    from asr.model.contract import AcousticModel
    from asr.outputs import Targets

Formats = Annotated[
    list[str] | None,
    Option("-f", "--format", metavar="FORMAT,...", help="txt srt vtt tsv json jsonl ctm TextGrid, or all."),
]
#: words listed of a likely wrong transcript, and characters shown of each text
_DOUBTED, _SHOWN = 5, 500
#: a word of which the model is less sure than this is doubted, where its text does not fit
_DOUBTFUL = 0.1
#: parts that do not fit, and utterances with such parts, that are named
_PARTS, _NAMED = 10, 5


@with_groups
def align(
    *,
    model: ModelPath,
    source: Annotated[Path, Argument(metavar="INPUT", help="A manifest, or with --text one recording.")],
    text: Annotated[Path | None, Option(metavar="FILE", help="What is said in the recording.")] = None,
    formats: Formats = None,
    out: Annotated[Path | None, Option("-o", "--out", metavar="DIR", help="Write a file per utterance here.")] = None,
    worst: Annotated[int | None, Option(min=1, metavar="N", help="List the N likeliest wrong texts instead.")] = None,
    as_json: Json = False,
    normalization: Annotated[str | None, Option(metavar="PROFILE", help="For the text; default the model's.")] = None,
    allow_gaps: Annotated[bool, Option("--allow-gaps", help="Align what fits, leave out the rest.")] = False,
    resample: Annotated[bool, Option("--resample", help="Resample a manifest's audio of another rate.")] = False,
    machine: MachineOptions,
) -> None:
    """Say when each word and character of a text is said, and how well the text fits the audio."""
    from asr.outputs import parse_formats

    names = parse_formats(formats or [])
    words, manifest = _inputs(source, text)
    if names and out is None:
        _check_stdout(names, as_json, worst, 1 if manifest is None else len(manifest))
    targets = None if out is None else _targets(out, names, source, text, manifest)
    loaded = _load(model, machine, resample)
    failed: dict[str, str] = {}
    misfits: list[tuple[str, Aligned]] = []

    # Align and write one text after the other; note failures and misfits.
    def aligned() -> Iterator[tuple[str, Aligned]]:
        for name, result in _align_all(loaded, source, words, manifest, normalization, allow_gaps):
            if isinstance(result, DataError):
                failed[name] = str(result)
                continue
            try:
                if targets is not None:
                    targets.write(result.transcript, name, id_=None if manifest is None else name)
            except AsrError as error:
                failed[name] = str(error)
            for note in result.transcript.notes:
                say(f"{shown(name)}: {shown(note)}")
            if result.unmatched:
                misfits.append((name, result))
            yield name, result

    with naming_failures(failed):
        if as_json:
            _print_json(aligned(), {"failed": failed, "model": str(model)}, worst)
        elif worst is not None:
            _print_worst(aligned(), worst)
        else:
            for name, result in aligned():
                if targets is None:
                    print_result(_printed(result, names, name, is_id=manifest is not None))
        if misfits and manifest is not None:
            _say_misfits(misfits, len(manifest), allow_gaps)
    if misfits and manifest is None:
        _say_misfit(*misfits[0], allow_gaps=allow_gaps)
        if not allow_gaps:
            raise typer.Exit(1)


def _inputs(source: Path, text: Path | None) -> tuple[str, Manifest | None]:
    """Return the text of the recording, or the manifest."""
    if text is not None:
        from asr.data.lines import whole_text

        if source.suffix.lower() in (".jsonl", ".json"):
            raise ConfigError("--text is the text of one recording; a manifest has its texts itself")
        return whole_text(text), None

    from asr.data import manifest as manifests

    try:
        return "", manifests.read(source)
    except DataError as error:
        if source.suffix.lower() in (".jsonl", ".json") or not source.is_file():
            raise
        raise DataError(f"{error}; if it is a recording, give its text with --text FILE") from error


def _check_stdout(names: tuple[str, ...], as_json: bool, worst: int | None, num_texts: int) -> None:
    """Refuse formats that cannot go to stdout together, or beside another result."""
    from asr.outputs import on_stdout

    if as_json or worst is not None:
        raise ConfigError(f"-f and --{'json' if as_json else 'worst'} both go to stdout; add -o DIR for the files")
    if len(names) > 1 or not on_stdout(names[0], num_texts):
        raise ConfigError(f"{', '.join(names)}: several files; add -o DIR")


def _targets(out: Path, names: tuple[str, ...], source: Path, text: Path | None, manifest: Manifest | None) -> Targets:
    """Choose the files to write; none of them may be an input."""
    from asr.outputs import Targets

    ids = [source.name] if manifest is None else [u.id for u in manifest]
    audio = [] if manifest is None else map(manifest.audio_path, manifest)
    return Targets(ids, names or ("json",), out, inputs=[source, *([text] if text else []), *audio])


def _load(model: Path, machine: MachineOptions, resample: bool) -> AcousticModel:
    from asr.machine import use_threads
    from asr.model.use import load_for_use

    use_threads(machine.threads)
    loaded = load_for_use(model, machine.device, "fp32")
    return with_resampling(loaded) if resample else loaded


def _align_all(
    model: AcousticModel,
    source: Path,
    text: str,
    manifest: Manifest | None,
    normalization: str | None,
    allow_gaps: bool,
) -> Iterator[tuple[str, Aligned | DataError]]:
    """Align the recording with its text, or each utterance of the manifest; yield names and results."""
    from asr.align import align_manifest, align_recording, unwritable

    if manifest is None:
        yield source.name, align_recording(model, source, text, normalization=normalization, allow_gaps=allow_gaps)
        return
    if line := unwritable(model, (u.text for u in manifest), normalization):
        say(f"asr: {shown(line)}")
    with audio_bar(manifest.duration_s) as advance:
        results = align_manifest(model, manifest, advance, normalization=normalization, allow_gaps=allow_gaps)
        for utterance, result in results:
            yield utterance.id, result


def _print_json(aligned: Iterator[tuple[str, Aligned]], facts: dict[str, Any], worst: int | None) -> None:
    results = [result for _, result in aligned]
    document = {"alignments": [_row(result) for result in results]} | facts
    if worst is not None:
        document["worst"] = [result.id for result in sorted(results, key=lambda result: result.score)[:worst]]
    print_json(document)


def _print_worst(aligned: Iterator[tuple[str, Aligned]], worst: int) -> None:
    """Print the likeliest wrong transcripts, for people."""
    results = (result for _, result in aligned)
    texts = []
    for result in heapq.nsmallest(worst, results, key=lambda result: result.score):  # no more than these are held
        lines = [f"{result.id}  score {result.score:.3f}"]
        lines += [f"  text   {_cut(result.reference)}", f"  heard  {_cut(result.heard)}"]
        weakest = result.weakest(_DOUBTED)
        if weakest:
            words = ", ".join(f"{w.word} {w.start_s:.2f} s ({w.confidence:.2f})" for w in weakest)
            lines.append(f"  doubt  {words}")
        texts.append("\n".join(map(shown, lines)))
    if texts:
        print_result("\n\n".join(texts))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _printed(result: Aligned, names: tuple[str, ...], name: str, *, is_id: bool) -> str:
    from asr.outputs import render

    if not names:
        return json_text(_row(result))
    return render(result.transcript, names[0], name=name, id_=name if is_id else None).removesuffix("\n")


def _row(result: Aligned) -> dict[str, Any]:
    from asr.outputs import document

    return result.to_json() | document(result.transcript)


def _say_misfit(name: str, result: Aligned, *, allow_gaps: bool) -> None:
    """Say where the text of a recording does not fit, and which words are doubted."""
    parts = [f"  {part}" for part in result.unmatched[:_PARTS]]
    if len(result.unmatched) > _PARTS:
        parts.append(f"  and {len(result.unmatched) - _PARTS:,} more")
    if allow_gaps:
        lines = [f"asr: {name}: left out, as text and audio do not fit there:", *parts]
    else:
        why = f"the text does not fit the audio (score {result.score:.1f}), so its times may be wrong"
        lines = [f"asr: {name}: {why}", *parts]
        words = result.weakest(len(result.transcript.words))
        doubted = [word for word in words if (word.confidence or 0.0) < _DOUBTFUL]
        if doubted:
            listed = ", ".join(f"{w.word} {w.start_s:.2f} s ({w.confidence:.4f})" for w in doubted[:_DOUBTED])
            more = f", and {len(doubted) - _DOUBTED:,} more" if len(doubted) > _DOUBTED else ""
            lines.append(f"  doubted words: {listed}{more}")
        lines.append("  --allow-gaps aligns what fits and leaves out the rest")
    say("\n".join(map(shown, lines)))


def _say_misfits(misfits: list[tuple[str, Aligned]], num_texts: int, allow_gaps: bool) -> None:
    """Say in one line which utterances of a manifest have texts that fit in part."""
    lowest = [shown(name) for name, _ in sorted(misfits, key=lambda row: row[1].score)]
    named = ", ".join(lowest[:_NAMED]) + (", …" if len(lowest) > _NAMED else "")
    what = "were aligned in part" if allow_gaps else "do not fit their audio everywhere"
    then = "" if allow_gaps else "; --worst lists them, --allow-gaps aligns what fits"
    counts = f"{len(misfits):,} of {num_texts:,} texts"
    say(f"asr: {counts} {what} ('unmatched' in the JSON says where): {named}{then}")
