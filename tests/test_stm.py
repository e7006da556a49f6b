"""STM references and CTM hypotheses: the counts are those that sclite 2.10 (SCTK 2.4.12) prints for the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.errors import DataError
from asr.scoring.files import score_files
from asr.scoring.stm import read_stm
from tests.test_transcripts import write

COMMENTED = """;; CATEGORY "0" "" ""
;; LABEL "O" "Overall" "Overall"
talk1 1 spk1 0.00 2.00 <o,f0,male> hello world
talk1 1 inter_segment_gap 2.00 3.00 <o,,> ignore_time_segment_in_scoring
talk1 1 spk1 3.00 5.00 <o,f0,male> how are you
"""
COMMENTED_CTM = """talk1 1 0.10 0.40 hello 0.9
talk1 1 0.60 0.40 word 0.9
talk1 1 2.20 0.40 noise 0.9
talk1 1 3.10 0.40 how 0.9
talk1 1 3.60 0.40 are NA
talk1 1 4.00 0.40 you 0.9
"""
GAPS = "t1 A s1 1.00 2.00 one two\nt1 A s1 3.00 4.00 three four\n"
GAPS_CTM = """t1 A 0.10 0.20 before
t1 A 1.10 0.20 one
t1 A 1.50 0.20 two
t1 A 2.40 0.20 gap
t1 A 3.10 0.20 three
t1 A 3.60 0.20 four
t1 A 5.60 0.20 after
"""
ENDS = "f2 B g 0.00 0.40 <o,,> b d a\nf2 B g 0.77 3.27 <o,f0,male> d c a d\n"
PARENTHESES = "t1 A s1 0.00 2.00 <o,f0> hello (uh) world\nt1 A s1 2.00 4.00 <o,f0> so (uh) yes\n"
PARENTHESES_CTM = "t1 A 0.1 0.2 hello\nt1 A 0.3 0.2 uh\nt1 A 0.6 0.2 world\nt1 A 2.1 0.2 so\nt1 A 2.6 0.2 yes\n"

#: stm, ctm, (correct, substituted, deleted, inserted) of each stretch as sclite prints them
PRINTED = [
    (COMMENTED, COMMENTED_CTM, [(1, 1, 0, 0), (3, 0, 0, 0)]),
    (COMMENTED, COMMENTED_CTM.replace("talk1 1", "TALK1 1"), [(1, 1, 0, 0), (3, 0, 0, 0)]),  # without -s
    (GAPS, GAPS_CTM, [(2, 0, 0, 1), (2, 0, 0, 2)]),  # between two: the later one's; the rest is the last one's
    (GAPS, GAPS_CTM.replace(" A ", " a "), [(2, 0, 0, 1), (2, 0, 0, 2)]),
    (GAPS + "t2 A s2 0.10 0.20 hi\n", GAPS_CTM, [(2, 0, 0, 1), (2, 0, 0, 2), (0, 0, 1, 0)]),  # a file without words
    (ENDS, "f2 B 0.30 0.20 b\n", [(1, 0, 2, 0), (0, 0, 4, 0)]),  # its middle falls on an end
    (PARENTHESES, PARENTHESES_CTM, [(2, 1, 0, 0), (2, 0, 1, 0)]),  # without -D
    (GAPS + "t1 A s1 4.00 9.00 IGNORE_TIME_SEGMENT_IN_SCORING\n", GAPS_CTM, [(2, 0, 0, 1), (2, 0, 0, 1)]),
]


@pytest.mark.parametrize(("stm", "ctm", "counts"), PRINTED)
def test_counts_are_those_that_sclite_prints(tmp_path: Path, stm: str, ctm: str, counts) -> None:
    paths = write(tmp_path / "r.stm", stm), write(tmp_path / "h.ctm", ctm)
    result, no_hypothesis, no_reference = score_files(*paths, alignment="sclite")
    assert (no_hypothesis, no_reference) == ([], [])
    found = [one.counts for one in result.per_utterance]
    assert [(c.reference_length - c.substitutions - c.deletions, *kinds(c)) for c in found] == counts


def kinds(counts):
    return counts.substitutions, counts.deletions, counts.insertions


def test_speakers_labels_and_lengths_are_kept(tmp_path: Path) -> None:
    result, *_ = score_files(write(tmp_path / "r.stm", COMMENTED), write(tmp_path / "h.ctm", COMMENTED_CTM))
    first = result.per_utterance[0]
    assert first.id == "talk1 0.00-2.00" and first.reference == "hello world"
    assert (first.info.speaker, first.info.duration_s, first.info.meta) == ("spk1", 2.0, {"labels": "o,f0,male"})


def test_what_is_optional_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    paths = write(tmp_path / "r.stm", PARENTHESES), write(tmp_path / "h.ctm", PARENTHESES_CTM)
    score_files(*paths, warn=said.append)
    assert said == [f"{paths[0]}: 2 words in parentheses are scored as written, as by sclite without -D"]


def test_a_recording_without_references_is_named(tmp_path: Path) -> None:
    hypothesis = write(tmp_path / "h.ctm", GAPS_CTM + "t2 A 0.1 0.2 hi\nt1 B 0.1 0.2 hi\n")
    result, no_hypothesis, no_reference = score_files(write(tmp_path / "r.stm", GAPS), hypothesis)
    assert result.utterances == 2 and no_hypothesis == [] and no_reference == ["t2", "t1:B"]


def test_words_without_times_are_scored_against_the_whole(tmp_path: Path) -> None:
    reference = write(tmp_path / "r.stm", GAPS)
    for name, content in (
        ("h.trn", "one two tree four (t1)\n"),
        ("t1.srt", "1\n00:00:01,000 --> 00:00:02,000\none two tree four\n"),
    ):
        result, *_ = score_files(reference, write(tmp_path / name, content))
        assert (result.wer.substitutions, result.wer.reference_length) == (1, 4)
    with pytest.raises(DataError, match=r"is not to be scored: give hypotheses with times \(\.ctm\)"):
        score_files(write(tmp_path / "i.stm", COMMENTED), write(tmp_path / "h.trn", "hello world (talk1)\n"))


def test_stretches_at_the_same_time_have_ids_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "r.stm", "a 1 s1 0.0 1.0 x\na 1 s2 0.0 1.0 y\na 2 s1 0.0 1.0\n")
    assert [s.id for each in read_stm(path).values() for s in each] == [
        "a 0.00-1.00",
        "a 0.00-1.00 #2",
        "a:B 0.00-1.00",
    ]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("a 1 s 0.0 1.0 x\na 1 s 0 one x\n", 2, "expected 'file channel speaker start end"),
        ("a 1 s 1.0 0.5 x\n", 1, "expected 'file channel"),
        ("a 1 s 0.0 inf x\n", 1, "expected 'file channel"),
        ("a 1 s 0.0\n", 1, "expected 'file channel"),
        ("a 1 s 0.0 1.0 i've { um / uh / @ } as\n", 1, "mark alternatives; choose one reading"),
        ("a 1 s 0.0 1.0 x\na A s 1.0 2.0 y\n", 2, "'a' has channels '1' and 'A'"),
        (";; only this\n", None, "no utterances"),
    ],
)
def test_an_stm_that_cannot_be_read_says_where(tmp_path: Path, content: str, line: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_stm(write(tmp_path / "x.stm", content))
    assert caught.value.line == line


def test_a_file_of_which_nothing_is_scored_is_refused(tmp_path: Path) -> None:
    reference = write(tmp_path / "r.stm", "a 1 s 0.0 1.0 ignore_time_segment_in_scoring\n")
    with pytest.raises(DataError, match="no part of it is to be scored"):
        score_files(reference, write(tmp_path / "h.ctm", "a 1 0.1 0.2 x\n"))
