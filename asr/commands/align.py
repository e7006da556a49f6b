"""``asr align``: when each word of a text is said, and which transcripts are likely wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from asr.commands.console import audio_bar, print_json, print_result, say, shown
from asr.commands.options import Json, MachineOptions, ModelPath, naming_failures, with_groups, with_resampling
from asr.errors import AsrError, ConfigError, DataError

if TYPE_CHECKING:
    from asr.align import Aligned
    from asr.data.manifest import Manifest
    from asr.model.checkpoint import AcousticModel
    from asr.outputs import Targets

Row = tuple[str, "Aligned | DataError"]
#: of a likely wrong transcript: words that are listed, and characters of each text
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
    text: Annotated[Path | None, Option("--text", metavar="FILE", help="What is said in the recording.")] = None,
    formats: Annotated[
        list[str] | None,
        Option("-f", "--format", metavar="FORMAT,...", help="txt srt vtt tsv json jsonl ctm TextGrid, or all."),
    ] = None,
    out: Annotated[Path | None, Option("-o", "--out", metavar="DIR", help="Write a file an utterance here.")] = None,
    worst: Annotated[
        int | None, Option(min=1, metavar="N", help="List the N likeliest wrong transcripts instead.")
    ] = None,
    as_json: Json = False,
    normalization: Annotated[
        str | None,
        Option("--normalization", metavar="PROFILE", help="Done to the text first; default the model's."),
    ] = None,
    allow_gaps: Annotated[
        bool, Option("--allow-gaps", help="Align what fits; leave the rest of the text and the audio out.")
    ] = False,
    resample: Annotated[bool, Option("--resample", help="Resample a manifest's audio of another rate.")] = False,
    machine: MachineOptions,
) -> None:
    """Say when each word and character of a text is said, and how well the text fits the audio."""
    from asr.outputs import Targets, on_stdout, parse_formats

    names = parse_formats(formats or [])
    words, manifest = _inputs(source, text)
    if names and out is None:
        if as_json or worst is not None:
            raise ConfigError(f"-f and --{'json' if as_json else 'worst'} both go to stdout; add -o DIR for the files")
        if len(names) > 1 or not on_stdout(names[0], 1 if manifest is None else len(manifest)):
            raise ConfigError(f"{', '.join(names)}: several files; add -o DIR")
    ids = [source.name] if manifest is None else [u.id for u in manifest]
    targets = None
    if out is not None:
        audio = [] if manifest is None else map(manifest.audio_path, manifest)
        targets = Targets(ids, names or ("json",), out, inputs=[source, *([text] if text else []), *audio])
    loaded = _load(model, machine, resample)
    failed: dict[str, str] = {}
    misfits: list[tuple[str, Aligned]] = []
    with naming_failures(failed):
        rows: Iterator[Row]
        if manifest is None:
            rows = iter([(source.name, _recording(loaded, source, words, normalization, allow_gaps))])
        else:
            rows = _utterances(loaded, manifest, normalization, allow_gaps)
        done = _written(rows, failed, misfits, targets, are_ids=manifest is not None)
        if as_json or worst is not None:
            _print_all(done, model, failed, worst, as_json)
        elif targets is None:
            for name, one in done:
                id_ = None if manifest is None else name
                print_result(_line(one) if not names else _rendered(one, names[0], name, id_))
        else:
            for _ in done:
                pass
        if misfits and manifest is not None:
            _say_misfits(misfits, len(manifest), allow_gaps)
    if misfits and manifest is None:
        say(_misfit(*misfits[0], allow_gaps=allow_gaps))
        if not allow_gaps:
            raise typer.Exit(1)


def _inputs(source: Path, text: Path | None) -> tuple[str, Manifest | None]:
    """The text of the recording, or the manifest."""
    if text is not None:
        from asr.align import read_text

        if source.suffix.lower() in (".jsonl", ".json"):
            raise ConfigError("--text is the text of one recording; a manifest has its texts itself")
        return read_text(text), None
    from asr.data import manifest as manifests

    try:
        return "", manifests.read(source)
    except DataError as error:
        if source.suffix.lower() in (".jsonl", ".json") or not source.is_file():
            raise
        raise DataError(f"{error}; if it is a recording, give its text with --text FILE") from error


def _load(model: Path, machine: MachineOptions, resample: bool) -> AcousticModel:
    from asr.model.checkpoint import load_model
    from asr.runtime import find_device, use_threads

    use_threads(machine.threads)
    loaded = load_model(model, find_device(machine.device))
    return with_resampling(loaded) if resample else loaded


def _recording(model: AcousticModel, path: Path, text: str, normalization: str | None, allow_gaps: bool) -> Aligned:
    from asr.align import align_recording

    return align_recording(model, path, text, normalization=normalization, allow_gaps=allow_gaps)


def _utterances(model: AcousticModel, manifest: Manifest, normalization: str | None, allow_gaps: bool) -> Iterator[Row]:
    from asr.align import align_manifest, unwritable

    if line := unwritable(model, (u.text for u in manifest), normalization):
        say(f"asr: {shown(line)}")
    with audio_bar(manifest.duration_s) as advance:
        for utterance, one in align_manifest(
            model, manifest, advance, normalization=normalization, allow_gaps=allow_gaps
        ):
            yield utterance.id, one


def _written(
    rows: Iterable[Row],
    failed: dict[str, str],
    misfits: list[tuple[str, Aligned]],
    targets: Targets | None,
    *,
    are_ids: bool,
) -> Iterator[tuple[str, Aligned]]:
    """What could be aligned, its files written; the rest is noted in ``failed``, what fits in part in ``misfits``."""
    for name, one in rows:
        if isinstance(one, DataError):
            failed[name] = str(one)
            continue
        if targets is not None:
            try:
                targets.write(one.transcript, name, id_=name if are_ids else None)
            except AsrError as error:
                failed[name] = str(error)
        for note in one.transcript.notes:
            say(f"{shown(name)}: {shown(note)}")
        if one.unmatched:
            misfits.append((name, one))
        yield name, one


def _misfit(name: str, one: Aligned, *, allow_gaps: bool) -> str:
    """What is said of a recording whose text fits in part: where it does not, and which words are doubted."""
    parts = [f"  {part}" for part in one.unmatched[:_PARTS]]
    if len(one.unmatched) > _PARTS:
        parts.append(f"  and {len(one.unmatched) - _PARTS:,} more")
    if allow_gaps:
        return "\n".join(map(shown, [f"asr: {name}: left out, as text and audio do not fit there:", *parts]))
    lines = [f"asr: {name}: the text does not fit the audio (score {one.score:.1f}), so its times may be wrong", *parts]
    doubted = [word for word in one.weakest(len(one.transcript.words)) if (word.confidence or 0.0) < _DOUBTFUL]
    if doubted:
        listed = ", ".join(f"{w.word} {w.start_s:.2f} s ({w.confidence:.4f})" for w in doubted[:_DOUBTED])
        more = f", and {len(doubted) - _DOUBTED:,} more" if len(doubted) > _DOUBTED else ""
        lines.append(f"  doubted words: {listed}{more}")
    return "\n".join(map(shown, [*lines, "  --allow-gaps aligns what fits and leaves out the rest"]))


def _say_misfits(misfits: list[tuple[str, Aligned]], utterances: int, allow_gaps: bool) -> None:
    """One line about the utterances of a manifest whose texts fit in part."""
    lowest = [shown(name) for name, _ in sorted(misfits, key=lambda row: row[1].score)]
    more = ", …" if len(lowest) > _NAMED else ""
    what = "were aligned in part" if allow_gaps else "do not fit their audio everywhere"
    then = "" if allow_gaps else "; --worst lists them, --allow-gaps aligns what fits"
    say(
        f"asr: {len(misfits):,} of {utterances:,} texts {what} ('unmatched' in the JSON says where): "
        f"{', '.join(lowest[:_NAMED])}{more}{then}"
    )


def _print_all(
    done: Iterator[tuple[str, Aligned]], model: Path, failed: dict[str, str], worst: int | None, as_json: bool
) -> None:
    import heapq

    kept = (one for _, one in done)
    if not as_json:
        assert worst is not None
        lowest = heapq.nsmallest(worst, kept, key=lambda one: one.score)  # no more than these are held
        if lowest:
            print_result("\n\n".join(_listed(one) for one in lowest))
        return
    alignments = list(kept)
    order = sorted(alignments, key=lambda one: one.score)[: worst or 0]
    print_json(
        {"alignments": [_row(one) for one in alignments], "failed": failed, "model": str(model)}
        | ({"worst": [one.id for one in order]} if worst is not None else {})
    )


def _row(one: Aligned) -> dict[str, Any]:
    from asr.outputs import document

    return one.to_json() | document(one.transcript)


def _line(one: Aligned) -> str:
    return json.dumps(_row(one), ensure_ascii=False, allow_nan=False)


def _rendered(one: Aligned, format: str, name: str, id_: str | None) -> str:
    from asr.outputs import render

    return render(one.transcript, format, name=name, id_=id_).removesuffix("\n")


def _listed(one: Aligned) -> str:
    """A likely wrong transcript, for people."""
    weak = ", ".join(f"{w.word} {w.start_s:.2f} s ({w.confidence:.2f})" for w in one.weakest(_DOUBTED))
    lines = [f"{one.id}  score {one.score:.3f}", f"  text   {_cut(one.reference)}", f"  heard  {_cut(one.heard)}"]
    return "\n".join(shown(line) for line in [*lines, *([f"  doubt  {weak}"] if weak else [])])


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
