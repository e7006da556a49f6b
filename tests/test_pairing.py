"""Files of any kind are paired as they are meant, or refused: by id, line by line, as one recording."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from asr.errors import DataError
from asr.scoring.files import compare_files, score_files
from tests.test_transcripts import jsonl, write


def scored(tmp_path: Path, reference: str, hypothesis: str, names=("ref.txt", "hyp.txt"), **more):
    """Errors and words of two files with this content, and what was said."""
    said: list[str] = []
    paths = [write(tmp_path / name, content) for name, content in zip(names, (reference, hypothesis), strict=True)]
    result, no_hypothesis, no_reference = score_files(*paths, warn=said.append, **more)
    assert no_hypothesis == no_reference == []
    return (result.wer.errors, result.wer.reference_length), said


PLAIN = "hello brave new world\ngood morning to you\n"


@pytest.mark.parametrize(
    ("hypothesis", "errors"),
    [
        ("hello brave new word\ngood evening to you\n", 2),  # the first words are the same
        ("goodbye brave new world\ngood morning to you\n", 1),  # and not
        ("good morning to you\nhello brave new world\n", 8),  # not by the first words: jiwer's count
        ("hello brave new world\n\n\n", None),
        (PLAIN + "\n\n", 0),  # blank lines at the end are none
        ("\ngood morning to you\n", 4),  # but a text that is empty
        (PLAIN.replace("\n", "\r\n"), 0),
    ],
)
def test_plain_sentences_are_paired_line_by_line_and_it_is_said(tmp_path, hypothesis, errors) -> None:
    if errors is None:
        with pytest.raises(DataError, match=r"1 texts, 2 in .*ref\.txt: line by line .* use --pair ids"):
            scored(tmp_path, PLAIN, hypothesis)
        return
    counts, said = scored(tmp_path, PLAIN, hypothesis)
    assert counts == (errors, 8)
    assert "plain sentences" in said[0] and "line by line (2 lines); --pair ids" in said[0]


def test_sentences_that_begin_alike_are_no_ids(tmp_path) -> None:
    counts, said = scored(tmp_path, "the cat\nthe dog\n", "the cat\nthe log\n")
    assert counts == (1, 4) and len(said) == 1


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("u1 a b\nu2 c d\n", "u2 c d\nu1 a x\n"),
        ("spk-a_x one b\nspk-b_x c d\n", "spk-b_x c d\nspk-a_x one x\n"),
        ("1 a b\n2 c d\n", "2 c d\n1 a x\n"),
        ("x/a.wav a b\nx/b.wav c d\n", "x/b.wav c d\nx/a.wav a x\n"),
    ],
)
def test_lines_that_begin_with_ids_are_paired_by_them(tmp_path, reference, hypothesis) -> None:
    assert scored(tmp_path, reference, hypothesis) == ((1, 4), [])


def test_many_different_words_in_both_files_are_ids(tmp_path) -> None:
    names = [f"{a}{b}rn" for a in "abcde" for b in "aeiou"]
    reference = [f"{name} one two" for name in names]
    hypothesis = random.Random(0).sample(reference, len(reference))
    assert scored(tmp_path, "\n".join(reference), "\n".join(hypothesis)) == ((0, 50), [])
    words = scored(tmp_path, "\n".join(names), "\n".join(names))[1]  # one word a line: no texts after them
    assert "plain sentences" in words[0]


def test_many_sentences_that_all_begin_otherwise_are_no_ids(tmp_path) -> None:
    names = [f"{a}{b}rn" for a in "abcde" for b in "aeiou"]
    reference = [f"{name} one two" for name in names]
    hypothesis = [line.replace("rn", "rm") if i % 5 else line for i, line in enumerate(reference)]
    counts, said = scored(tmp_path, "\n".join(reference), "\n".join(hypothesis))
    assert counts == (20, 75) and "plain sentences" in said[0]


def test_ids_of_one_letter_may_be_words_and_it_is_said(tmp_path) -> None:
    counts, said = scored(tmp_path, "a I love you so\n", "a i love you so\n", normalization="lower")
    assert counts == (0, 4) and "taken to begin with an id ('a'), which is not scored; --pair lines" in said[0]
    counts, said = scored(tmp_path, "a I love you so\n", "a i love you so\n", normalization="lower", pair="lines")
    assert (counts, said) == ((0, 5), [])


def test_an_emoji_leaves_no_invisible_word(tmp_path) -> None:
    counts, _ = scored(tmp_path, "a I love you ❤\ufe0f so\n", "a i love you so\n", normalization="lower-nopunct")
    assert counts == (0, 4)


def test_what_is_asked_for_is_done_without_a_word(tmp_path) -> None:
    assert scored(tmp_path, PLAIN, PLAIN, pair="lines") == ((0, 8), [])
    assert scored(tmp_path, PLAIN, PLAIN, pair="ids") == ((0, 6), [])


@pytest.mark.parametrize(
    ("reference", "hypothesis", "message"),
    [
        ("u1 a\nu2 b\n", "u1 a\nu1 b\n", r"duplicate id 'u1' .*texts without ids are paired with --pair lines"),
        ("u1 a\nu2 b\n", "v1 a\nv2 b\n", r"no id in common .*'v1' here, 'u1' there; .* --pair lines"),
    ],
)
def test_ids_that_do_not_match_say_so_and_name_the_option(tmp_path, reference, hypothesis, message) -> None:
    with pytest.raises(DataError, match=message):
        scored(tmp_path, reference, hypothesis)
    assert scored(tmp_path, reference, hypothesis, pair="lines")[0][1] == 4


def test_plain_sentences_beside_a_manifest_are_paired_in_its_order_when_asked(tmp_path) -> None:
    rows = [{"id": f"u{i}", "text": text, "speaker": "s"} for i, text in enumerate(("one two", "six"))]
    manifest, plain = jsonl(tmp_path / "m.jsonl", *rows), write(tmp_path / "h.txt", "one too\nsix\n")
    with pytest.raises(DataError, match=r"no id in common .* --pair lines"):
        score_files(manifest, plain)
    result, *_ = score_files(manifest, plain, pair="lines")
    assert [(u.id, u.counts.errors, u.info.speaker) for u in result.per_utterance] == [("u0", 1, "s"), ("u1", 0, "s")]
    with pytest.raises(DataError, match=r"a file of this kind \(ctm\) has ids"):
        score_files(manifest, write(tmp_path / "h.ctm", "u0 A 0 1 one\n"), pair="lines")


def test_two_systems_are_compared_line_by_line(tmp_path) -> None:
    refs, a = write(tmp_path / "r", PLAIN), write(tmp_path / "a", PLAIN.replace("world", "word"))
    b, said = write(tmp_path / "b", PLAIN), []
    result, missing = compare_files(refs, a, b, warn=said.append)
    assert (result.a.wer.errors, result.b.wer.errors, missing) == (1, 0, []) and len(said) == 1
    result, _ = compare_files(refs, write(a, PLAIN.upper()), b, warn=said.append)
    assert said[-1].endswith("--normalization upper mends that")


CALL = [("A", "one zero one nine one"), ("B", "one eight four eight")]


def ctm(rows, names="AB") -> str:
    return "".join(
        f"call {name} {i / 5:.1f} 0.2 {word}\n"
        for (_, text), name in zip(rows, names, strict=True)
        for i, word in enumerate(text.split())
    )


@pytest.mark.parametrize("names", ["AB", "ab", "12"])
def test_channels_are_scored_apart_in_any_spelling(tmp_path, names) -> None:
    heard = [CALL[0], ("B", "one eight four sigx")]
    counts, said = scored(tmp_path, ctm(CALL), ctm(heard, names), ("r.ctm", "h.ctm"))  # sclite: 1 sub in 9 words
    assert (counts, said) == ((1, 9), [])


def test_a_channel_without_words_is_said(tmp_path) -> None:
    counts, said = scored(tmp_path, ctm(CALL), ctm(CALL[:1], "A"), ("r.ctm", "h.ctm"))
    assert counts == (4, 9) and said == [
        f"{tmp_path / 'h.ctm'}: no words of 1 of the ids, which count as empty: call:B"
    ]
    counts, said = scored(tmp_path, ctm(CALL), ctm(CALL[:1], "A") + ";; call B: no words\n", ("r.ctm", "h.ctm"))
    assert (counts, said) == ((4, 9), [])


def test_a_text_that_is_no_id_s_is_that_of_the_recording_beside_it(tmp_path) -> None:
    srt = "1\n00:00:00,000 --> 00:00:01,000\ngood morning\n\n2\n00:00:01,000 --> 00:00:02,000\nto yew\n"
    for text in ("good morning to you\n", "good morning\nto you\n"):
        counts, said = scored(tmp_path, text, srt, ("ref.txt", "talk.srt"))
        assert counts == (1, 4) and said == [f"{tmp_path / 'ref.txt'}: taken as the text of one recording"]
    manifest = json.dumps({"id": "talk", "text": "good morning to you"}) + "\n"
    assert scored(tmp_path, manifest, srt, ("m.jsonl", "talk.srt")) == ((1, 4), [])
    assert scored(tmp_path, srt, srt.replace("yew", "you"), ("x.srt", "talk.srt")) == ((1, 4), [])
    with pytest.raises(DataError, match=r"no id in common with .*: for example 'other' here, 'talk' there"):
        scored(tmp_path, manifest, srt, ("m.jsonl", "other.srt"))
