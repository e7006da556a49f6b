"""``trn`` and ``ctm``: what is written is read again, and what cannot be read says where."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decode.types import TimedWord
from asr.errors import DataError
from asr.scoring import files, nist
from asr.scoring.nist import CtmWord
from asr.scoring.transcripts import read
from tests.test_transcripts import write

ids = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"], exclude_characters="()"), min_size=1).filter(
    lambda id_: not id_.startswith(";;") and not any(c.isspace() for c in id_)
)
word = st.text("abAB'-é()", min_size=1, max_size=5)


def test_trn_is_read_with_comments_blank_lines_and_empty_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "r.trn", ";; made by hand\nshe had  your (cmh_sa01)\n\n(s-2)\nuh (um) yes\t(s-3)\r\n")
    assert nist.read_trn(path) == {"cmh_sa01": "she had  your", "s-2": "", "s-3": "uh (um) yes"}


def test_a_trn_of_many_spaces_or_marks_takes_no_time(tmp_path: Path) -> None:
    many = 200_000
    lines = ["a" + many * " " + "b (u1)", "<s>" + many * " " + "c </s> (u2)", "</s>" + many * "<s>" + " (u3)"]
    start = time.monotonic()
    texts = nist.read_trn(write(tmp_path / "x.trn", "\n".join(lines)))
    assert time.monotonic() - start < 5  # hours where it grows with the square
    assert texts["u1"].split() == ["a", "b"] and texts["u2"] == "c"


@given(st.dictionaries(ids, st.lists(word, max_size=4).map(" ".join), min_size=1, max_size=5))
def test_trn_that_is_written_is_read_again(tmp_path_factory, texts: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("trn") / "x.trn"
    nist.write_trn(path, texts)
    assert nist.read_trn(path) == texts


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("a (u1)\nb\n", 2, r"expected 'text \(id\)', got 'b'"),
        ("a (u 1)\n", 1, "expected 'text"),
        ("a ()\n", 1, "expected 'text"),
        ("a (u1)\nb (u1)\n", 2, r"duplicate id 'u1' \(first on line 1\)"),
        ("i've { um / uh / @ } as (u1)\n", 1, "utt 'u1': it holds .* mark alternatives; choose one reading"),
        ("a @ b (u1)\n", 1, "mark alternatives"),
        (";; only this\n", None, "no utterances"),
        (b"a \xff (u1)\n", 1, "not UTF-8"),
    ],
)
def test_a_trn_that_cannot_be_read_says_where(tmp_path, content, line, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        nist.read_trn(write(tmp_path / "x.trn", content))
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"u 1": "a"}, "utt 'u 1' cannot be written as trn: white space"),
        ({"u(1": "a"}, "parentheses"),
        ({"": "a"}, "in its id"),
        ({"u\x1b[31m": "a"}, r"utt 'u\\x1b\[31m' cannot be written as trn: .* control characters"),
        ({"u\u202e": "a"}, "control characters"),
        ({"u1": "{ a / b }"}, "utt 'u1' cannot be written as trn: it holds"),
        ({"u1": ";; a"}, "a comment"),
    ],
)
def test_what_trn_cannot_say_is_refused_and_nothing_is_written(tmp_path, texts, message) -> None:
    with pytest.raises(DataError, match=message):
        nist.write_trn(tmp_path / "x.trn", texts)
    assert not list(tmp_path.iterdir())


CTM = """;; comment
7654 A 12.00 0.34 YOU -12.384530
7654 A 11.34 0.2  YES -6.763

7654 B 1.34 0.2 I
9999 1 0.5 0.1 GO
"""


def test_ctm_is_read_by_file_and_channel_in_the_order_of_time(tmp_path: Path) -> None:
    assert nist.read_ctm(write(tmp_path / "x.ctm", CTM)) == {
        "7654": [CtmWord("YES", 11.34, 0.2, -6.763), CtmWord("YOU", 12.0, 0.34, -12.38453)],
        "7654:B": [CtmWord("I", 1.34, 0.2)],
        "9999": [CtmWord("GO", 0.5, 0.1)],
    }


@pytest.mark.parametrize(("first", "second"), ["AB", "ab", "12", "Ab"])
def test_channels_are_the_same_in_every_spelling(tmp_path: Path, first: str, second: str) -> None:
    content = (
        f"call {first} 0 1 one\ncall {second} 0 1 two\ncall {second.upper()} 1 1 six\ncall 3 0 1 ten\ncall x1 0 1 no\n"
    )
    texts = read(write(tmp_path / "x.ctm", content)).texts
    assert texts == {"call": "one", "call:B": "two six", "call:C": "ten", "call:X1": "no"}


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("a A 0 1\n", 1, "expected 'file channel start duration word"),
        ("a A 0 1 w 0.5 x\n", 1, "expected 'file"),
        ("a A zero 1 w\n", 1, "expected 'file"),
        ("a A nan 1 w\n", 1, "expected 'file"),
        ("a A 0 -1 w\n", 1, "expected 'file"),
        ("a A 0 inf w\n", 1, "expected 'file"),
        ("a A 0 1 w high\n", 1, "expected 'file"),
        ("a A 0 1 w\na A * * <ALT_BEGIN>\n", 2, "alternatives"),
        ("a A 0 1 w\na 1 2 1 v\n", 2, "'a' has channels 'A' and '1'"),
        ("a B 0 1 w\na 2 2 1 v\n", 2, "'a' has channels 'B' and '2'"),
        ("a 0 0 1 w\na 1 2 1 v\n", 2, "'a' has channels '0' and '1'; NIST counts A, B or 1, 2"),
        (";; nothing\n", None, "the file has no words"),
    ],
)
def test_a_ctm_that_cannot_be_read_says_where(tmp_path, content, line, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        nist.read_ctm(write(tmp_path / "x.ctm", content))
    assert caught.value.line == line


def test_ctm_is_written_sorted_with_durations_and_names_who_said_nothing(tmp_path: Path) -> None:
    words = {
        "u2": [TimedWord("B", 0.5, 0.75, 0.25), TimedWord("A", 0.0, 0.125)],
        "u1": [],
        "u10": [TimedWord("C", 1, 1)],
    }
    nist.write_ctm(tmp_path / "x.ctm", words)
    lines = (tmp_path / "x.ctm").read_text().splitlines()
    assert lines == [
        ";; u1 A: no words",
        "u10 A 1.000 0.000 C",
        "u2 A 0.000 0.125 A",
        "u2 A 0.500 0.250 B 0.2500",
    ]
    assert {id_: len(each) for id_, each in nist.read_ctm(tmp_path / "x.ctm").items()} == {"u1": 0, "u10": 1, "u2": 2}
    with pytest.raises(DataError, match="cannot be written as ctm"):
        nist.write_ctm(tmp_path / "y.ctm", {"u 1": []})


def test_control_characters_in_words_are_shown_and_the_words_stay_apart(tmp_path: Path) -> None:
    words = ["a\x1b[31m", "a\x9b", "a\u202e", "a"]
    nist.write_trn(tmp_path / "x.trn", {"u": " ".join(words)})
    nist.write_ctm(tmp_path / "x.ctm", {"u": [TimedWord(word, i, i + 1) for i, word in enumerate(words)]})
    assert nist.read_trn(tmp_path / "x.trn") == {"u": r"a\x1b[31m a\x9b a\u202e a"}
    assert [word.word for word in nist.read_ctm(tmp_path / "x.ctm")["u"]] == [r"a\x1b[31m", r"a\x9b", r"a\u202e", "a"]


def test_who_says_nothing_in_a_ctm_has_an_empty_text_not_none(tmp_path: Path) -> None:
    # The format has words, not utterances: leaving those out would leave their deletions out.
    ref = write(tmp_path / "r.trn", "A B (u1)\nC D E (u2)\n")
    hyp = write(tmp_path / "h.ctm", "u1 A 0 1 A\nu1 A 1 1 X\n")
    score, missing_in_hyp, missing_in_ref = files.score_files(ref, hyp)
    assert (score.wer.substitutions, score.wer.deletions, score.wer.reference_length) == (1, 3, 5)
    assert missing_in_hyp == missing_in_ref == []
    # In a trn, who says nothing has a line.
    assert files.score_files(ref, write(tmp_path / "h.trn", "A X (u1)\n"))[1] == ["u2"]


def test_the_name_decides_the_format(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.TRN", "a b (u1)\n")).texts == {"u1": "a b"}
    assert read(write(tmp_path / "x.ctm", "u1 A 0 1 a\nu1 A 1 1 b\n")).texts == {"u1": "a b"}
    assert read(write(tmp_path / "x.txt", "u1 a b\n")).texts == {"u1": "a b"}


def test_files_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    for writer in (nist.write_trn, nist.write_ctm):
        with pytest.raises(DataError, match="cannot write"):
            writer(tmp_path / "file" / "x", {}) if write(tmp_path / "file", "") else None  # type: ignore[operator]


def test_a_channel_of_thousands_of_digits_is_a_name():
    assert nist.utterance_id("call", "9" * 5000) == f"call:{'9' * 5000}"
