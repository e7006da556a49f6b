"""``asr evaluate``, ``asr score`` and ``asr compare``: error rates, with a model and without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from asr.commands.console import (
    audio_bar,
    check_apart,
    check_target,
    print_json,
    print_result,
    say,
    shown,
    write_lines,
)
from asr.commands.options import (
    DecodingOptions,
    Json,
    MachineOptions,
    ManifestPath,
    ModelPath,
    NoSpeechThreshold,
    Precision,
    Resample,
    load_recognizer,
    naming_failures,
    with_groups,
)
from asr.errors import ConfigError, check_choice
from asr.heartbeat import counted

if TYPE_CHECKING:
    from asr.data.manifest import Manifest
    from asr.evaluate import Evaluation
    from asr.scoring.wer import Score
    from asr.transcribe import Recognizer

Alignment = Annotated[str, Option(metavar="levenshtein|sclite", help="How words are paired: fewest errors, or NIST's.")]
Pairing = Annotated[str, Option("--pair", metavar="auto|lines|ids", help="By ids, or line by line; auto: as it looks.")]
Normalization = Annotated[str, Option(metavar="PROFILE", help="Applied to all texts first.")]
Compounds = Annotated[bool, Option("--compounds", help="Words written together or apart (air plane) are equal.")]
#: ids that are missing in one of the files are listed up to this number
_MOST_LISTED = 10


@dataclass(frozen=True)
class ReportOptions:
    """Options of tables and pages beyond the error rates."""

    by: Annotated[
        list[str] | None,
        Option("--by", metavar="FIELD", help="Also a table by this: speaker, length, meta.x; may be repeated."),
    ] = None
    report: Annotated[Path | None, Option(metavar="HTML", help="Write all of it as one page that needs no other.")] = (
        None
    )
    worst: Annotated[int | None, Option(min=0, help="Utterances shown word by word in the report; default 20.")] = None

    @property
    def fields(self) -> list[str]:
        return self.by or []

    @property
    def num_worst(self) -> int:
        return 20 if self.worst is None else self.worst

    def check(self) -> None:
        """Refuse a report that cannot be written, and options of a report that is not asked for."""
        if self.report is not None:
            check_target(self.report)
        elif self.worst is not None:
            raise ConfigError("--worst is about the report; add --report")


@dataclass(frozen=True)
class TextFileOptions:
    """Files for the texts of an evaluation."""

    hypotheses: Annotated[Path | None, Option(help="Write the transcripts here: .jsonl, .trn, or .ctm with times.")] = (
        None
    )
    references: Annotated[Path | None, Option(help="Write the references as scored here: .trn.")] = None

    @property
    def with_times(self) -> bool:
        return self.hypotheses is not None and self.hypotheses.suffix.lower() == ".ctm"

    def check(self, ids: Sequence[str]) -> None:
        """Refuse files that could not be written after the work."""
        from asr.scoring.nist import check_id

        if self.references is not None and self.references.suffix.lower() != ".trn":
            raise ConfigError(f"--references writes trn; name the file with .trn, got {self.references}")
        for path in (self.hypotheses, self.references):
            if path is None:
                continue
            check_target(path)
            if path.suffix.lower() in (".trn", ".ctm"):
                for id_ in ids:
                    check_id(id_, path)

    def write(self, result: Evaluation) -> None:
        """Write the texts of an evaluation."""
        from asr.scoring.nist import write_ctm, write_trn

        scored = result.score.per_utterance
        if self.hypotheses is not None:
            if self.with_times:
                write_ctm(self.hypotheses, {u.id: result.words[u.id] for u in scored})
            elif self.hypotheses.suffix.lower() == ".trn":
                write_trn(self.hypotheses, ((u.id, u.hypothesis) for u in scored))
            else:
                write_lines(self.hypotheses, (u.to_json() | _nbest_of(result, u.id) for u in scored))
        if self.references is not None:
            write_trn(self.references, ((u.id, u.reference) for u in scored))


def _nbest_of(result: Evaluation, id_: str) -> dict[str, Any]:
    """Return the best texts of an utterance for its row, if they were kept."""
    from asr.outputs.whisper import alternative

    return {"nbest": [alternative(one) for one in result.nbest[id_]]} if result.nbest else {}


@dataclass(frozen=True)
class NbestOptions(DecodingOptions):
    """Decoding that can keep several texts per utterance."""

    nbest: Annotated[
        int | None, Option(min=1, help="Keep so many best texts: the oracle's WER; in --hypotheses FILE.jsonl.")
    ] = None

    def check_place(self, files: TextFileOptions, markdown: bool) -> None:
        """Refuse n-best texts that nothing would show."""
        path = files.hypotheses
        if self.nbest is not None and markdown and (path is None or path.suffix.lower() in (".trn", ".ctm")):
            raise ConfigError("--nbest has no place in a --markdown row; add --hypotheses FILE.jsonl, or leave one out")


@with_groups
def evaluate(
    *,
    model: ModelPath,
    manifest: ManifestPath,
    files: TextFileOptions,
    as_json: Json = False,
    markdown: Annotated[bool, Option("--markdown", help="Print a row for a RESULTS.md table.")] = False,
    reporting: ReportOptions,
    alignment: Alignment = "levenshtein",
    normalization: Annotated[str | None, Option(metavar="PROFILE", help="For both sides; default the model's.")] = None,
    compounds: Compounds = False,
    confidence: Annotated[bool, Option("--confidence", help="Also how often words of a confidence are right.")] = False,
    decoding: NbestOptions,
    resample: Resample = False,
    no_speech_threshold: NoSpeechThreshold = 0.6,
    precision: Precision = "fp32",
    machine: MachineOptions,
) -> None:
    """Measure a model's WER and CER on a manifest."""
    decoding.check_place(files, markdown)
    if markdown:
        _check_markdown(as_json, reporting, confidence, compounds, precision)
    rows = _read_checked(manifest, files, reporting, alignment, normalization)
    recognizer = load_recognizer(
        model, machine, decoding, precision=precision, resample=resample, confidence=confidence
    )

    from asr.evaluate import evaluate as measure_error_rates

    with audio_bar(rows.duration_s) as advance:
        result = measure_error_rates(
            recognizer.model,
            rows,
            recognizer.decoder,
            advance,
            alignment=alignment,
            with_words=files.with_times or confidence,
            with_nbest=decoding.nbest is not None,
            normalization=normalization,
            compounds=compounds,
            no_speech_threshold=no_speech_threshold,
        )
    if result.unwritable:
        say(f"asr: {shown(result.unwritable)}")

    # The result first: it must not be lost when a file cannot be written.
    if markdown:
        from asr.evaluate import MARKDOWN_HEADER, markdown_row

        print_result(f"{MARKDOWN_HEADER}\n{markdown_row(recognizer.model, result)}")
    else:
        _print_evaluation(result, recognizer, str(model), as_json, reporting.fields, confidence)
    with naming_failures(result.failed):
        files.write(result)
        if reporting.report is not None:
            _write_page(reporting, reporting.report, result, recognizer, rows, (str(model), str(manifest)))


def _read_checked(
    manifest: Path, files: TextFileOptions, reporting: ReportOptions, alignment: str, normalization: str | None
) -> Manifest:
    """Read the manifest; refuse, before the work, what would fail after it."""
    from asr.data import manifest as manifests
    from asr.data.text import check_profile
    from asr.scoring.info import UtteranceInfo
    from asr.scoring.tables import check_fields
    from asr.scoring.wer import ALIGNMENTS

    check_choice("alignment", alignment, ALIGNMENTS)
    if normalization is not None:
        check_profile(normalization)
    reporting.check()
    check_apart([files.hypotheses, files.references, reporting.report], [manifest])

    rows = manifests.read(manifest)
    check_fields(reporting.fields, (UtteranceInfo(u.speaker, u.duration_s, u.meta) for u in rows))
    files.check([u.id for u in rows])
    if reporting.report is not None:
        from asr.scoring.picture import check

        check(Path("report.png"))  # pictures need matplotlib
    return rows


def _check_markdown(as_json: bool, reporting: ReportOptions, confidence: bool, compounds: bool, precision: str) -> None:
    """Refuse what a row of a table cannot show."""
    if as_json:
        raise ConfigError("--json and --markdown are two forms of one result; choose one")
    if reporting.by and reporting.report is None:
        raise ConfigError("--by has no place in a --markdown row; leave one out, or add --report")
    if confidence:
        raise ConfigError("--confidence has no place in a --markdown row; leave one out")
    if compounds:
        raise ConfigError("--compounds has no place in a --markdown row; leave one out")
    if precision != "fp32":
        raise ConfigError("--markdown states results of fp32; leave --precision out")


def _print_evaluation(
    result: Evaluation, recognizer: Recognizer, model: str, as_json: bool, by: list[str], confidence: bool
) -> None:
    from asr.scoring.reliability import format_reliability

    precision = getattr(recognizer.model.network, "precision", "fp32")
    reliability = result.reliability() if confidence else None
    if as_json:
        document = result.to_json(model, by)
        if confidence:
            document["confidence"] = reliability.to_json() if reliability else None
        print_json(document | {"precision": precision})
        return

    conditions = [f"{name} {value}" for name, value in result.conditions().items()]
    if precision != "fp32":
        conditions.append(f"precision {precision}")
    _print_score(result.score, by, ", ".join(conditions), result.oracle_line())
    if confidence:
        print_result("\n" + (format_reliability(reliability) if reliability else "no words: no confidences"))


def _write_page(
    reporting: ReportOptions,
    path: Path,
    result: Evaluation,
    recognizer: Recognizer,
    rows: Manifest,
    names: tuple[str, str],
) -> None:
    """Write the page of ``--report``; the worst utterances are computed again, one at a time."""
    from asr.scoring.examples import examples
    from asr.scoring.report import write_report
    from asr.scoring.tables import worst

    ids = [utterance.id for utterance in worst(result.score, reporting.num_worst)]
    conditions = {"model": names[0], "manifest": names[1], **result.conditions()}
    with counted("files", len(ids)) as advance:

        def drawn() -> Iterator[Any]:
            for example in examples(recognizer.model, rows, ids):
                yield example
                advance(1)

        write_report(
            path,
            result.score,
            " on ".join(names),
            conditions,
            reporting.fields,
            reporting.num_worst,
            drawn(),
            result.failed,
        )
    say(f"report: {shown(path)}")


@with_groups
def score(
    *,
    reference: Annotated[Path, Argument(help="Manifest, table, .trn, .ctm, .stm, subtitles, plain lines, …")],
    hypothesis: Annotated[Path, Argument(help="Hypotheses in any of these, or the folder of asr transcribe.")],
    as_json: Json = False,
    reporting: ReportOptions,
    alignment: Alignment = "levenshtein",
    normalization: Normalization = "none",
    compounds: Compounds = False,
    pair: Pairing = "auto",
) -> None:
    """Score hypotheses against references, paired by utterance id or line by line; no model needed."""
    from asr.scoring.files import score_files
    from asr.scoring.tables import check_fields, commonest_errors, tables

    _check_pairing(alignment, pair)
    reporting.check()
    check_apart([reporting.report], [reference, hypothesis])
    result, no_hypothesis, no_reference = score_files(
        reference, hypothesis, normalization, alignment, pair, _say_line, compounds
    )
    check_fields(reporting.fields, (utterance.info for utterance in result.per_utterance))

    if as_json:
        print_json(
            result.to_json()
            | {
                "errors": commonest_errors(result),
                "by": {
                    table.field: [group.to_json() for group in table.groups]
                    for table in tables(result, reporting.fields)
                },
                "missing_hypothesis": no_hypothesis,
                "missing_reference": no_reference,
            }
        )
    else:
        conditions = "" if normalization == "none" else f"text normalization {normalization}"
        _print_score(result, reporting.fields, conditions)

    if reporting.report is not None:
        from asr.scoring.report import write_report

        title = f"{hypothesis} against {reference}"
        facts = {"references": str(reference), "hypotheses": str(hypothesis), "text normalization": normalization}
        write_report(reporting.report, result, title, facts, reporting.fields, reporting.num_worst)
        say(f"report: {shown(reporting.report)}")
    _name_missing([(hypothesis, "hypothesis", no_hypothesis), (reference, "reference", no_reference)])


def compare(
    files: Annotated[
        list[Path],
        Argument(metavar="[REFERENCE] A B", help="References, unless A and B hold them; two files of hypotheses."),
    ],
    as_json: Json = False,
    show: Annotated[int, Option(min=0, help="Utterances shown, those that differ most.")] = 10,
    alignment: Alignment = "levenshtein",
    normalization: Normalization = "none",
    compounds: Compounds = False,
    pair: Pairing = "auto",
) -> None:
    """Compare two systems on the same references: is one better, or is it chance?"""
    from asr.scoring.compare import conclusion, format_comparison
    from asr.scoring.files import compare_files

    _check_pairing(alignment, pair)
    if len(files) not in (2, 3):
        raise ConfigError(f"compare takes two files of hypotheses, after one of references or not; got {len(files)}")
    reference = files[0] if len(files) == 3 else None
    path_a, path_b = files[-2:]
    result, missing = compare_files(reference, path_a, path_b, normalization, alignment, pair, _say_line, compounds)

    sentence = conclusion(result, f"A ({path_a})", f"B ({path_b})")
    if as_json:
        facts = {
            "conclusion": sentence,
            "files": {"a": str(path_a), "b": str(path_b), "reference": str(reference) if reference else None},
            "missing": {str(path): ids for path, ids in missing},
        }
        print_json(result.to_json(show) | facts)
    else:
        print_result(f"{format_comparison(result, show)}\n\n{shown(sentence)}")
    _name_missing([(path, "text", ids) for path, ids in missing])


def _check_pairing(alignment: str, pair: str) -> None:
    """Refuse an unknown way of pairing words or utterances."""
    from asr.scoring.pairing import PAIRINGS
    from asr.scoring.wer import ALIGNMENTS

    check_choice("alignment", alignment, ALIGNMENTS)
    check_choice("--pair", pair, PAIRINGS)


def _say_line(line: str) -> None:
    say(f"asr: {shown(line)}")


def _print_score(result: Score, by: Sequence[str], conditions: str, oracle: str = "") -> None:
    from asr.scoring.tables import commonest_errors, format_errors, format_table, tables
    from asr.scoring.wer import format_score

    print_result(format_score(result))
    if oracle:
        print_result(oracle)
    if conditions:
        print_result(shown(conditions))
    if result.wer.errors:
        print_result(format_errors(commonest_errors(result)))
    for table in tables(result, by) if by else []:
        if table.field in by:
            print_result("\n" + format_table(table))


def _name_missing(missing: Iterable[tuple[Path, str, Sequence[str]]]) -> None:
    """Name the ids that are not in all files, and exit with 1 if there are any."""
    any_missing = False
    for path, what, ids in missing:
        if ids:
            any_missing = True
            some = ", ".join(ids[:_MOST_LISTED]) + (", …" if len(ids) > _MOST_LISTED else "")
            say(shown(f"asr: {path}: no {what} for {len(ids):,} of the ids, which are not scored: {some}"))
    if any_missing:
        raise typer.Exit(1)
