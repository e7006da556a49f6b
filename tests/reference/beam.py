"""Texts and their scores by definition: every path there is, collapsed, grouped by text, scored. Exponential.

Axes: s steps, v vocabulary; the blank is 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

LN10 = math.log(10)


class BackoffModel:
    """An n-gram model as the ARPA file says it: a dict of log10 probabilities and back-off weights.

    Source: Katz 1987; the recursion as in Jurafsky & Martin, "N-gram Language Models", back-off in ARPA format.
    """

    def __init__(self, ngrams: Mapping[tuple[str, ...], tuple[float, float]]) -> None:
        self.ngrams = dict(ngrams)
        self.order = max(len(words) for words in ngrams)
        self.known = {words[0] for words in ngrams if len(words) == 1} - {"<unk>"}
        self.scored = {("<unk>",): (-100.0, 0.0), **ngrams}  # what kenlm does where there is no <unk>

    def log_prob(self, context: Sequence[str], word: str) -> float:
        """ln P(word | context); a word it does not know is <unk>."""
        context = [w if w in self.known else "<unk>" for w in context]
        word = word if word in self.known else "<unk>"
        words = (*context[max(0, len(context) - self.order + 1) :], word)
        log10 = 0.0
        while words not in self.scored:
            log10 += self.scored.get(words[:-1], (0.0, 0.0))[1]
            words = words[1:]
        return (log10 + self.scored[words][0]) * LN10

    def sentence(self, words: Sequence[str]) -> list[float]:
        """ln P of each word and of the sentence's end, as kenlm scores with bos and eos."""
        padded = ["<s>", *words, "</s>"]
        return [self.log_prob(padded[:i], padded[i]) for i in range(1, len(padded))]

    def arpa(self) -> str:
        """The model as an ARPA file."""
        counts = [sum(len(words) == n for words in self.ngrams) for n in range(1, self.order + 1)]
        lines = ["\\data\\", *(f"ngram {n}={count}" for n, count in enumerate(counts, start=1))]
        for n in range(1, self.order + 1):
            lines += ["", f"\\{n}-grams:"]
            for words, (log10, backoff) in self.ngrams.items():
                if len(words) == n:
                    lines.append(f"{log10!r}\t{' '.join(words)}" + (f"\t{backoff!r}" if n < self.order else ""))
        return "\n".join([*lines, "", "\\end\\", ""])


def labelling_probs(log_probs_sv: np.ndarray) -> dict[tuple[int, ...], float]:
    """The total probability of every labelling, over all of its paths."""
    probs_sv = np.exp(np.asarray(log_probs_sv, np.float64))
    totals: dict[tuple[int, ...], float] = {}
    steps, vocabulary = probs_sv.shape
    for path_s in itertools.product(range(vocabulary), repeat=steps):
        prob = math.prod(probs_sv[step, token] for step, token in enumerate(path_s))
        labelling = tuple(token for token, _ in itertools.groupby(path_s) if token != 0)
        if prob > 0:
            totals[labelling] = totals.get(labelling, 0.0) + prob
    return totals


def text_of(labelling: Sequence[int], pieces: Sequence[str]) -> str:
    """The words a labelling writes, single spaces between."""
    return " ".join("".join(pieces[token] for token in labelling).split())


def canonical(labelling: Sequence[int], pieces: Sequence[str]) -> tuple[int, ...]:
    """The labelling without spaces at its ends and after spaces (tokens that write only a space)."""
    kept: list[int] = []
    for token in labelling:
        if pieces[token] != " " or (kept and pieces[kept[-1]] != " "):
            kept.append(token)
    if kept and pieces[kept[-1]] == " ":
        kept.pop()
    return tuple(kept)


def fusion_score(
    words: Sequence[str],
    *,
    lm: BackoffModel | None = None,
    alpha: float = 0.5,
    beta: float = 1.5,
    unknown: float = -10.0,
    hotwords: Mapping[str, float] | None = None,
    lexicon: Sequence[str] | None = None,
) -> float:
    """What a text's words add to its acoustic log-probability; -inf for one that the lexicon forbids."""
    hotwords = hotwords or {}
    score = hotword_score(words, hotwords)
    hot = {word for phrase in hotwords for word in phrase.split()}
    if lexicon is not None and not set(words) <= set(lexicon):
        return -math.inf
    if lm is not None:
        score += alpha * sum(lm.sentence(words)) + beta * len(words)
        for word in words:
            if word not in lm.known and word not in hot:
                score += unknown
    return score


def hotword_score(words: Sequence[str], hotwords: Mapping[str, float]) -> float:
    """The weights of all hotwords, words or phrases, wherever they stand in a text."""
    phrases = [(phrase.split(), weight) for phrase, weight in hotwords.items()]
    return sum(
        weight
        for phrase, weight in phrases
        for start in range(len(words) - len(phrase) + 1)
        if list(words[start : start + len(phrase)]) == phrase
    )


def token_fusion_score(
    symbols: Sequence[str], lm: BackoffModel, *, alpha: float = 0.5, beta: float = 1.5, unknown: float = -10.0
) -> float:
    """The same for a language model of tokens."""
    lost = sum(symbol not in lm.known for symbol in symbols)
    return alpha * sum(lm.sentence(symbols)) + beta * len(symbols) + unknown * lost


def texts(log_probs_sv: np.ndarray, pieces: Sequence[str], **scoring) -> list[tuple[str, float, float]]:
    """Every text that is possible with acoustic log-probability and fusion score, best first (word fusion)."""
    totals: dict[str, float] = {}
    for labelling, prob in labelling_probs(log_probs_sv).items():
        text = text_of(labelling, pieces)
        totals[text] = totals.get(text, 0.0) + prob
    scored = [(text, math.log(prob), fusion_score(text.split(), **scoring)) for text, prob in totals.items()]
    return sorted((s for s in scored if s[2] > -math.inf), key=lambda s: -(s[1] + s[2]))


def token_texts(
    log_probs_sv: np.ndarray,
    pieces: Sequence[str],
    lm: BackoffModel,
    space: str = "▁",
    hotwords: Mapping[str, float] | None = None,
    **scoring,
) -> list[tuple[str, float, float]]:
    """The same for token fusion: canonical labellings are scored, and a text has its best one's scores."""
    totals: dict[tuple[int, ...], float] = {}
    for labelling, prob in labelling_probs(log_probs_sv).items():
        tokens = canonical(labelling, pieces)
        totals[tokens] = totals.get(tokens, 0.0) + prob
    scored = []
    for tokens, prob in totals.items():
        symbols = [pieces[token].replace(" ", space) for token in tokens]
        text = text_of(tokens, pieces)
        fusion = token_fusion_score(symbols, lm, **scoring) + hotword_score(text.split(), hotwords or {})
        scored.append((text, math.log(prob), fusion))
    best: dict[str, tuple[str, float, float]] = {}
    for each in sorted(scored, key=lambda s: -(s[1] + s[2])):
        best.setdefault(each[0], each)
    return list(best.values())


def paths_of(tokens: Sequence[int], steps: int, pieces: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Every path of so many steps that writes these tokens, up to spaces that do not count."""
    for path_s in itertools.product(range(len(pieces)), repeat=steps):
        labelling = tuple(token for token, _ in itertools.groupby(path_s) if token != 0)
        if canonical(labelling, pieces) == tuple(tokens):
            yield path_s
