"""Score a file of hypotheses against references, and compare two: read, pair, normalise, then count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.data.text import normalize
from asr.errors import DataError
from asr.scoring.alphabet import unlike_line
from asr.scoring.compare import Comparison, compare
from asr.scoring.info import UtteranceInfo, merge_info
from asr.scoring.pairing import Warn, check_common, read_together
from asr.scoring.transcripts import HYPOTHESES, REFERENCES, Transcripts, read
from asr.scoring.wer import Score, score


def score_files(
    ref_path: str | Path,
    hyp_path: str | Path,
    normalization: str = "none",
    alignment: str = "levenshtein",
    pair: str = "auto",
    warn: Warn = lambda line: None,
    compounds: bool = False,
) -> tuple[Score, list[str], list[str]]:
    """Score the ids in both files; also return the ids that the hypotheses lack, and those that the references lack.

    Missing ids are not scored, so a caller must report them. An id that is missing in a file of timed words (``.ctm``)
    has no words there: its text is empty, and it is scored.

    Args:
        pair: by id, line by line, or as the files look (``asr.scoring.pairing``).
        warn: called with one line about what is uncertain, or makes the rate meaningless.
        compounds: as in ``asr.scoring.wer.score``.

    Raises:
        DataError: a file cannot be used (see ``asr.scoring.transcripts.read``), or the files have no id in common.
        ConfigError: the normalisation is unknown.
    """
    normalize("", normalization)  # an unknown profile is refused before the files are read
    references, hypotheses = read_together([(ref_path, REFERENCES), (hyp_path, HYPOTHESES)], pair, warn)

    rows, info, missing = _common_rows(references, [hypotheses], normalization, warn)
    return score(rows, info, alignment, normalization, compounds), missing[1], missing[0]


def compare_files(
    ref_path: str | Path | None,
    path_a: str | Path,
    path_b: str | Path,
    normalization: str = "none",
    alignment: str = "levenshtein",
    pair: str = "auto",
    warn: Warn = lambda line: None,
    compounds: bool = False,
) -> tuple[Comparison, list[tuple[Path, list[str]]]]:
    """Compare the ids in all files; also return for each file the ids that others have and it lacks (not compared).

    Without references the two files must hold them (as ``asr evaluate --hypotheses`` writes them), and the same ones.

    Raises:
        DataError: a file cannot be used, they have no id in common, or the two files' references differ.
        ConfigError: the normalisation is unknown.
    """
    normalize("", normalization)  # an unknown profile is refused before the files are read
    hypothesis_files = [(path_a, HYPOTHESES), (path_b, HYPOTHESES)]
    if ref_path is None:
        a, b = read_together(hypothesis_files, pair, warn)
        references = _references_in(path_a)
        _check_same_references(references, _references_in(path_b), normalization)
    else:
        references, a, b = read_together([(ref_path, REFERENCES), *hypothesis_files], pair, warn)

    rows, info, missing = _common_rows(references, [a, b], normalization, warn)
    named = [(a.path, missing[1]), (b.path, missing[2])]
    if ref_path is not None:
        named.append((references.path, missing[0]))
    return compare(rows, info, alignment, normalization, compounds), [(path, ids) for path, ids in named if ids]


def _common_rows(
    references: Transcripts, hypotheses: Sequence[Transcripts], normalization: str, warn: Warn
) -> tuple[list[Any], dict[str, UtteranceInfo], list[list[str]]]:
    """Return rows of (id, reference, hypothesis, …) of the ids in all files, their info, and what each file lacks."""
    sources = [references, *hypotheses]
    check_common(sources)
    ids = list(dict.fromkeys(id_ for source in sources for id_ in source.texts))
    for source in [*hypotheses, references]:
        source.add_silent(ids, warn)

    missing = [[id_ for id_ in ids if id_ not in source.texts] for source in sources]

    rows = [
        (id_, *(normalize(source.texts[id_], normalization) for source in sources))
        for id_ in ids
        if all(id_ in source.texts for source in sources)
    ]

    _, reference_texts, *hypothesis_texts = zip(*rows, strict=True)
    lines = [unlike_line(reference_texts, texts) for texts in hypothesis_texts]
    for line in dict.fromkeys(filter(None, lines)):
        warn(line)
    return rows, merge_info(*(source.info for source in sources)), missing


def _references_in(path: str | Path) -> Transcripts:
    found = read(path, REFERENCES)
    if found.field != "reference":
        raise DataError("holds no references; name a file of them first: compare REFERENCE A B", path)
    return found


def _check_same_references(a: Transcripts, b: Transcripts, normalization: str) -> None:
    for id_, text in a.texts.items():
        other = b.texts.get(id_)
        if other is None or normalize(text, normalization).split() == normalize(other, normalization).split():
            continue
        hint = ""
        if normalize(text, "lower") == normalize(other, "lower"):
            hint = "; they differ in letter case only: --normalization lower compares them"
        raise DataError(f"the references differ, first in '{id_}': {text!r} here, {other!r} in {b.path}{hint}", a.path)
