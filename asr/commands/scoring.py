"""``asr evaluate``, ``asr score`` and ``asr compare``: error rates, with a model and without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr.commands import options
from asr.commands.console import (
    audio_bar,
    check_apart,
    check_target,
    file_bar,
    print_json,
    print_result,
    say,
    shown,
    write_lines,
)
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
from asr.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from asr.data.manifest import Manifest
    from asr.evaluate import Evaluation
    from asr.scoring.wer import Score

By = Annotated[
    list[str] | None,
    typer.Option("--by", metavar="FIELD", help="Also a table by this: speaker, length, meta.x; may be repeated."),
]
Report = Annotated[Path | None, typer.Option(metavar="HTML", help="Write all of it as one page that needs no other.")]
Worst = Annotated[int | None, typer.Option(min=0, help="Utterances shown word by word in the report; default 20.")]
Alignment = Annotated[
    str,
    typer.Option("--alignment", metavar="levenshtein|sclite", help="How words are paired; fewest errors, or NIST's."),
]
Pairing = Annotated[
    str,
    typer.Option("--pair", metavar="auto|lines|ids", help="Texts by their ids, or line by line; default: as it looks."),
]
Normalization = Annotated[str, typer.Option("--normalization", metavar="PROFILE", help="Done to all texts first.")]
WORST = 20


def evaluate(
    model: ModelPath,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A JSON Lines manifest with the references.")],
    hypotheses: Annotated[
        Path | None, typer.Option(help="Write the transcripts here: JSON Lines, or .trn, or .ctm with times.")
    ] = None,
    references: Annotated[Path | None, typer.Option(help="Write the references as scored here: .trn.")] = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a row for a RESULTS.md table.")] = False,
    by: By = None,
    report: Report = None,
    worst: Worst = None,
    alignment: Alignment = "levenshtein",
    normalization: Annotated[
        str | None,
        typer.Option("--normalization", metavar="PROFILE", help="Done to both sides; default the model's, to one."),
    ] = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Also how often words of each confidence are right.")
    ] = False,
    decoder: DecoderName = "",
    lm: Lm = None,
    beam: Beam = None,
    alpha: Alpha = None,
    beta: Beta = None,
    hotwords: Hotwords = None,
    lexicon: Lexicon = None,
    rescore: RescoreModel = None,
    rescore_weight: RescoreWeight = None,
    backend: Backend = "",
    resample: Annotated[bool, typer.Option("--resample", help="Resample audio of another rate.")] = False,
    no_speech_threshold: NoSpeechThreshold = 0.6,
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure a model's WER and CER on a manifest."""
    from asr.data import manifest as manifests
    from asr.data.text import check_profile
    from asr.scoring.info import UtteranceInfo
    from asr.scoring.tables import check_fields
    from asr.scoring.wer import ALIGNMENTS

    if as_json and markdown:
        raise ConfigError("--json and --markdown are two forms of one result; choose one")
    if markdown and by and report is None:
        raise ConfigError("--by has no place in a --markdown row; leave one out, or add --report")
    if markdown and confidence:
        raise ConfigError("--confidence has no place in a --markdown row; leave one out")
    if markdown and precision != "fp32":
        raise ConfigError("--markdown states results of fp32; leave --precision out")
    check_choice("alignment", alignment, ALIGNMENTS)
    if normalization is not None:
        check_profile(normalization)
    _check_report(report, worst)
    check_apart([hypotheses, references, report], [manifest])
    rows = manifests.read(manifest)
    check_fields(by or [], (UtteranceInfo(u.speaker, u.duration_s, u.meta) for u in rows))
    _check_targets(hypotheses, references, [u.id for u in rows])
    search = {"beam_width": beam, "alpha": alpha, "beta": beta}
    asked = Asked(decoder, lm, hotwords or [], search, backend, lexicon, confidence, rescore, rescore_weight)
    if report is not None:
        from asr.scoring.picture import check

        check(Path("report.png"))  # before the work: pictures need matplotlib
    recognizer = options.recognizer(model, device, threads, resample, asked, precision)
    from asr.evaluate import MARKDOWN_HEADER, markdown_row
    from asr.evaluate import evaluate as measure
    from asr.scoring.reliability import format_reliability

    timed = hypotheses is not None and hypotheses.suffix.lower() == ".ctm"
    with audio_bar(rows.duration_s) as advance:
        with_words = timed or confidence
        result = measure(
            recognizer.model,
            rows,
            recognizer.decoder,
            advance,
            alignment=alignment,
            with_words=with_words,
            normalization=normalization,
            no_speech_threshold=no_speech_threshold,
        )
    if result.unwritable:
        say(f"asr: {shown(result.unwritable)}")
    used = getattr(recognizer.model.network, "precision", "fp32")
    reliability = result.reliability() if confidence else None
    # The result first: it must not be lost when the file cannot be written.
    if as_json:
        more = {"confidence": reliability.to_json() if reliability else None} if confidence else {}
        print_json(result.to_json(str(model), by or []) | more | {"precision": used})
    elif markdown:
        print_result(f"{MARKDOWN_HEADER}\n{markdown_row(recognizer.model, result)}")
    else:
        conditions = ", ".join(f"{name} {value}" for name, value in result.conditions().items())
        conditions += "" if used == "fp32" else f", precision {used}"
        _print_score(result.score, by or [], conditions)
        if confidence:
            print_result("\n" + (format_reliability(reliability) if reliability else "no words: no confidences"))
    with naming_failures(result.failed):
        _write_texts(result, hypotheses, references)
        if report is not None:
            count = WORST if worst is None else worst
            _write_page(report, result, recognizer.model, rows, (str(model), str(manifest)), by or [], count)


def score(
    reference: Annotated[Path, typer.Argument(help="Manifest, table, .trn, .ctm, .stm, subtitles, plain lines, …")],
    hypothesis: Annotated[Path, typer.Argument(help="Hypotheses in any of these, or the folder of asr transcribe.")],
    as_json: Json = False,
    by: By = None,
    report: Report = None,
    worst: Worst = None,
    alignment: Alignment = "levenshtein",
    normalization: Normalization = "none",
    pair: Pairing = "auto",
) -> None:
    """Score hypotheses against references, paired by utterance id or line by line; no model needed."""
    from asr.scoring.files import score_files
    from asr.scoring.pairing import PAIRINGS
    from asr.scoring.tables import check_fields, commonest_errors, tables
    from asr.scoring.wer import ALIGNMENTS

    check_choice("alignment", alignment, ALIGNMENTS)
    check_choice("--pair", pair, PAIRINGS)
    _check_report(report, worst)
    check_apart([report], [reference, hypothesis])
    result, no_hypothesis, no_reference = score_files(reference, hypothesis, normalization, alignment, pair, _told)
    check_fields(by or [], (one.info for one in result.per_utterance))
    if as_json:
        groups = {table.field: [group.to_json() for group in table.groups] for table in tables(result, by or [])}
        more = {"errors": commonest_errors(result), "by": groups}
        print_json(result.to_json() | more | {"missing_hypothesis": no_hypothesis, "missing_reference": no_reference})
    else:
        said = "" if normalization == "none" else f"text normalization {normalization}"
        _print_score(result, by or [], said)
    if report is not None:
        from asr.scoring.report import write_report

        conditions = {"references": str(reference), "hypotheses": str(hypothesis), "text normalization": normalization}
        count = WORST if worst is None else worst
        write_report(report, result, f"{hypothesis} against {reference}", conditions, by or [], count)
        say(f"report: {shown(report)}")
    _name_missing([(hypothesis, "hypothesis", no_hypothesis), (reference, "reference", no_reference)])


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[REFERENCE] A B", help="References, unless A and B hold them; two files of hypotheses."
        ),
    ],
    as_json: Json = False,
    show: Annotated[int, typer.Option(min=0, help="Utterances shown, those that differ most.")] = 10,
    alignment: Alignment = "levenshtein",
    normalization: Normalization = "none",
    pair: Pairing = "auto",
) -> None:
    """Compare two systems on the same references: is one better, or is it chance?"""
    from asr.scoring.compare import conclusion, format_comparison
    from asr.scoring.files import compare_files
    from asr.scoring.pairing import PAIRINGS
    from asr.scoring.wer import ALIGNMENTS

    if len(files) not in (2, 3):
        raise ConfigError(f"compare takes two files of hypotheses, after one of references or not; got {len(files)}")
    *reference, path_a, path_b = files
    check_choice("alignment", alignment, ALIGNMENTS)
    check_choice("--pair", pair, PAIRINGS)
    against = reference[0] if reference else None
    result, missing = compare_files(against, path_a, path_b, normalization, alignment, pair, _told)
    sentence = conclusion(result, f"A ({path_a})", f"B ({path_b})")
    if as_json:
        names = {"a": str(path_a), "b": str(path_b), "reference": str(reference[0]) if reference else None}
        print_json(
            result.to_json(show)
            | {"conclusion": sentence, "files": names, "missing": {str(path): ids for path, ids in missing}}
        )
    else:
        print_result(f"{format_comparison(result, show)}\n\n{shown(sentence)}")
    _name_missing([(path, "text", ids) for path, ids in missing])


def _told(line: str) -> None:
    say(f"asr: {shown(line)}")


def _print_score(result: Score, by: Sequence[str], conditions: str) -> None:
    from asr.scoring.tables import commonest_errors, format_errors, format_table, tables
    from asr.scoring.wer import format_score

    print_result(format_score(result))
    if conditions:
        print_result(shown(conditions))
    if result.wer.errors:
        print_result(format_errors(commonest_errors(result)))
    for table in tables(result, by) if by else []:
        if table.field in by:
            print_result("\n" + format_table(table))


def _write_page(
    path: Path, result: Evaluation, model: Any, rows: Manifest, names: tuple[str, str], by: Sequence[str], count: int
) -> None:
    """The page of ``--report``; the worst utterances are computed again, one at a time."""
    from asr.scoring.examples import examples
    from asr.scoring.report import write_report
    from asr.scoring.tables import worst

    ids = [one.id for one in worst(result.score, count)]
    conditions = {"model": names[0], "manifest": names[1], **result.conditions()}
    with file_bar(len(ids)) as step:
        drawn = _counting(examples(model, rows, ids), step)
        write_report(path, result.score, " on ".join(names), conditions, by, count, drawn, result.failed)
    say(f"report: {shown(path)}")


def _write_texts(result: Evaluation, hypotheses: Path | None, references: Path | None) -> None:
    from asr.scoring.nist import write_ctm, write_trn

    scored = result.score.per_utterance
    if hypotheses is not None:
        kind = hypotheses.suffix.lower()
        if kind == ".trn":
            write_trn(hypotheses, ((u.id, u.hypothesis) for u in scored))
        elif kind == ".ctm":
            write_ctm(hypotheses, {u.id: result.words[u.id] for u in scored})
        else:
            write_lines(hypotheses, (u.to_json() for u in scored))
    if references is not None:
        write_trn(references, ((u.id, u.reference) for u in scored))


def _check_targets(hypotheses: Path | None, references: Path | None, ids: Sequence[str]) -> None:
    """Refuses, before the work, what could not be written after it."""
    from asr.scoring.nist import check_id

    if references is not None and references.suffix.lower() != ".trn":
        raise ConfigError(f"--references writes trn; name the file with .trn, got {references}")
    for path in (hypotheses, references):
        if path is not None:
            check_target(path)
            for id_ in ids if path.suffix.lower() in (".trn", ".ctm") else ():
                check_id(id_, path)


def _check_report(report: Path | None, worst: int | None) -> None:
    if report is not None:
        check_target(report)
    elif worst is not None:
        raise ConfigError("--worst is about the report; add --report")


def _name_missing(missing: Iterable[tuple[Path, str, Sequence[str]]]) -> None:
    any_missing = False
    for path, what, ids in missing:
        if ids:
            any_missing = True
            some = ", ".join(ids[:10]) + (", …" if len(ids) > 10 else "")
            say(shown(f"asr: {path}: no {what} for {len(ids):,} of the ids, which are not scored: {some}"))
    if any_missing:
        raise typer.Exit(1)


def _counting(items: Iterable[Any], step: Any) -> Iterable[Any]:
    for item in items:
        yield item
        step()
