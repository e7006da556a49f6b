"""Characters that one side never writes are counted, with the profile that mends it; fitting texts say nothing."""

from __future__ import annotations

import random

import pytest

from asr.data.text import normalize
from asr.scoring.alphabet import under, unlike_line, unwritable_line

UPPER = set(" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ")
MIXED = ["Hello there, it’s late.", "Where is Zoë? At home, I think.", "Go on - and on!"]


def all_under(texts, profile):
    return [normalize(text, profile) for text in texts]


def test_lower_case_against_a_model_of_upper_case_is_counted_and_mended():
    line = unwritable_line(["one two", "six"], UPPER)
    assert line == (
        "9 of 9 characters of the references are none that the model writes ('o', 'n', 'e', 't', 'w', …): "
        "--normalization upper mends that"
    )
    assert unwritable_line(["one two", "six"], under(UPPER, "upper"), "upper") == ""


def test_upper_case_against_a_model_of_lower_case_is_mended_by_lower():
    assert unwritable_line(["ONE"], set(" eno")).endswith(": --normalization lower mends that")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DON'T GO.", "1 of 8 characters of the references are none that the model writes ('.'): "),
        ("DON'T GO.", ": --normalization upper-nopunct mends that"),
        ("Where is Zoë?", "--normalization librispeech mends that"),
        ("AT 5, OR 6", "model writes ('5', ',', '6'): --normalization upper-nopunct mends all but 2"),
        ("5 OR 6", "no --normalization mends that; write them as the model does, numbers as they are spoken"),
    ],
)
def test_what_a_profile_mends_and_what_it_does_not(text, said):
    assert said in unwritable_line([text], UPPER)


def test_what_the_model_can_write_says_nothing():
    assert unwritable_line(["DON'T GO", ""], UPPER) == ""
    assert unwritable_line(["don't go"], UPPER, "upper") == ""  # its own profile
    assert unwritable_line(["a\tb\u00a0c"], set("abc")) == ""  # white space is none
    assert unwritable_line([], UPPER) == ""


def test_an_apostrophe_inside_words_is_written_under_every_profile():
    assert "'" in under(UPPER, "upper-nopunct") and "!" not in under("ab!", "lower-nopunct")
    assert "." in under("12.", "lower-nopunct")  # inside numbers


@pytest.mark.parametrize(
    ("references", "hypotheses", "profile"),
    [
        ("lower", "upper", "upper"),
        ("upper", "lower", "lower"),
        (None, "lower-nopunct", "lower-nopunct"),
        (None, "lower", "lower"),
        ("upper", None, "lower"),
        ("lower", None, "lower"),
        ("lower-nopunct", "lower", "lower-nopunct"),
        ("upper", "upper-nopunct", "upper-nopunct"),
        ("librispeech", "upper-nopunct", "librispeech"),
    ],
)
def test_the_profile_that_is_named_makes_both_sides_alike(references, hypotheses, profile):
    texts = ["Plain words, and Others.", "More of THEM!", "Ice."] * 9
    texts += ["Zoë naïve é à"] * 9 if profile == "librispeech" else []
    sides = [texts if one is None else all_under(texts, one) for one in (references, hypotheses)]
    line = unlike_line(*sides)
    assert f"--normalization {profile} mends that" in line and "\n" not in line
    left = [all_under(side, profile) for side in sides]
    assert left[0] == left[1] and unlike_line(*left) == ""


def test_a_lack_on_either_side_is_counted():
    line = unlike_line(["one two three"] * 3, ["One, two, three."] * 3)
    assert line == (
        "12 of 42 characters of the hypotheses are upper case or punctuation, the references have none: "
        "--normalization lower-nopunct mends that"
    )


@pytest.mark.parametrize(
    ("references", "hypotheses"),
    [
        (MIXED, MIXED),
        (["I am here"], ["you are here"]),  # one capital is chance
        (["it's late", "x y z"], ["its late", "x y"]),  # an apostrophe is spelling
        (["at 10:30, 5% of 1,000"] * 9, ["at 10:30, 5% of 1,000"] * 9),
        (["语音识别"], ["语音"]),
        ([""], ["a b c"]),
        (["a b c"], [""]),
    ],
)
def test_texts_of_the_same_kind_say_nothing(references, hypotheses):
    assert unlike_line(references, hypotheses) == ""


def test_recognition_errors_in_fitting_texts_say_nothing():
    generator = random.Random(1)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "six", "zebras"]
    for _ in range(50):
        reference = [" ".join(generator.choices(words, k=8)) for _ in range(5)]
        hypothesis = [
            " ".join(generator.choice(words) if generator.random() < 0.3 else w for w in text.split())
            for text in reference
        ]
        assert unlike_line(reference, hypothesis) == ""


def test_signs_inside_words_and_numbers_are_no_punctuation_of_either_side() -> None:
    # Neighbours decide: these signs stay under lower-nopunct, and the other side lacks nothing.
    assert unlike_line(["it is 3.5 o'clock"] * 20, ["it is three o clock"] * 20) == ""
    line = unlike_line(["it is late, so go."] * 20, ["it is late so go"] * 20)
    assert "40 of 280 characters of the references are punctuation" in line
