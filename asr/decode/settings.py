"""Settings of a beam search: widths, prunings, weights. One frozen model, saved beside the model when tuned.

Units: every score and weight is a natural logarithm.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import FailFast, Field, field_validator, model_validator

from asr.config import Stage
from asr.errors import ConfigError

#: prefixes in a beam, at most; published systems keep up to 4,500
MOST_BEAM = 10_000
#: a hotword's weight, at most, and with a minus at least
MOST_WEIGHT = 100


class BeamConfig(Stage):
    """Settings of the CTC prefix beam search; ``docs/decoding.md`` defines what each one weighs."""

    #: prefixes kept after every step; as a model's folder may ask for this, not as many as memory has room for
    beam_width: int = Field(100, ge=1, le=MOST_BEAM)
    #: a token below this in a step is taken as impossible there, unless it is the step's best; null: no token pruning
    min_token_log_prob: float | None = Field(-5.0, le=0)
    #: a prefix this far below the best one is dropped; null: only the width limits
    beam_prune_log_prob: float | None = Field(-10.0, lt=0)
    #: number of hypotheses returned, at most
    nbest: int = Field(1, ge=1)
    #: whether the confidence of words looks at the other texts in the beam too; costs a few milliseconds an utterance
    confidence: bool = False
    #: minimum Bayes risk: the first text is the one with the fewest expected word errors over the beam, with its
    #: confusion network (``asr.decode.consensus``)
    mbr: bool = False
    #: weight of the language model's log-probability
    alpha: float = Field(0.5, ge=0, le=10)
    #: added for every word (fusion: token, for every token) when there is a language model, which prefers few words
    beta: float = Field(1.5, ge=-100, le=100)
    #: added for a word that the language model does not know, on top of alpha times its probability of <unk>
    unknown_log_prob: float = Field(-10.0, ge=-100, le=0)
    #: while it is open, a longer unknown word costs in proportion: unknown_log_prob x letters / this (pyctcdecode's 6)
    unknown_letters: float = Field(6.0, gt=0, le=1e6)
    #: word or phrase -> score that it adds wherever it occurs; the words of a hotword count as known
    hotwords: dict[str, float] = Field(default_factory=dict)
    #: only these words can come out; null: any
    lexicon: Annotated[tuple[str, ...] | None, FailFast()] = None
    #: what the language model's words are: words, or the tokens of the acoustic model; auto: as its vocabulary says
    fusion: Literal["auto", "word", "token"] = "auto"
    #: how a token-level language model writes the space
    space_symbol: str = Field("▁", max_length=100)

    @field_validator("hotwords")
    @classmethod
    def _hotwords(cls, value: dict[str, float]) -> dict[str, float]:
        spaced = {" ".join(text.split()): weight for text, weight in value.items()}
        for text, weight in spaced.items():
            if not text:
                raise ValueError("hotword is empty")
            if not abs(weight) <= MOST_WEIGHT:
                raise ValueError(f"the weight of hotword {text!r} must be between -100 and 100, got {weight:g}")
        return spaced

    @field_validator("lexicon")
    @classmethod
    def _lexicon(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not value:
            raise ValueError("a lexicon needs at least one word; leave it out to allow any")
        for word in value or ():
            _check_word("lexicon word", word)
        return value

    @model_validator(mode="after")
    def _hotwords_can_be_said(self) -> BeamConfig:
        if self.lexicon is None:
            return self
        listed = set(self.lexicon)
        for text in self.hotwords:
            lost = [word for word in text.split() if word not in listed]
            if lost:
                what = f"hotword {text!r}" if lost == [text] else f"{lost[0]!r} of hotword {text!r}"
                raise ValueError(f"{what} is not in the lexicon, so it can never come out; add it there")
        return self


def parse_hotword(text: str) -> tuple[str, float]:
    """Return a hotword and its weight from ``PHRASE``, ``PHRASE:weight`` or ``PHRASE<tab>weight``.

    >>> parse_hotword("ZURICH"), parse_hotword("NEW YORK:4.5")
    (('ZURICH', 10.0), ('NEW YORK', 4.5))

    Raises:
        ConfigError: there is no word, or the weight is not a number.
    """
    phrase, separator, weight = text.rpartition("\t" if "\t" in text else ":")
    if not separator:
        phrase, weight = text, "10"  # pyctcdecode's default
    phrase = " ".join(phrase.split())
    try:
        if not phrase:
            raise ValueError
        return phrase, float(weight)
    except ValueError:
        raise ConfigError(
            f"hotword {text!r}: expected PHRASE or PHRASE:weight, for example BERN:5 or NEW YORK:5", key="hotwords"
        ) from None


def _check_word(kind: str, word: str) -> None:
    if not word:
        raise ValueError(f"{kind} is empty")
    if word.split() != [word]:
        raise ValueError(f"{kind} {word!r} has white space in it; give its words one by one")
