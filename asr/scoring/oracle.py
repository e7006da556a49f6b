"""Oracle error rate of n-best lists: what a perfect choice among each utterance's texts would reach.

It bounds what rescoring the lists can gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from asr.scoring.compounds import respelled
from asr.scoring.info import UtteranceInfo
from asr.scoring.wer import Score, score, word_counts


def oracle(
    utterances: Iterable[tuple[str, str, Sequence[str]]],
    info: Mapping[str, UtteranceInfo] | None = None,
    alignment: str = "levenshtein",
    normalization: str = "none",
    compounds: bool = False,
) -> Score:
    """Score (id, reference, texts) rows, their texts as they stand, each by the text with the fewest word errors.

    Of several such texts the first is taken; no texts are as an empty one. The character error rate is that of the
    chosen texts.

    >>> oracle([("u1", "a b", ["a c", "a b c", "a b"])]).wer.rate
    0.0

    Args:
        info: what is known of each id, as in ``asr.scoring.wer.score``.
        normalization: what was done to the texts before; it is kept for the record.
        compounds: as in ``asr.scoring.wer.score``.

    Raises:
        DataError: there are no rows.
    """
    rows = [(id_, reference, list(texts) or [""]) for id_, reference, texts in utterances]
    pairs = [(reference, text) for _, reference, texts in rows for text in texts]
    if compounds:
        pairs = [(reference, respelled(reference, text)[0]) for reference, text in pairs]
    errors = iter([counts.errors for counts in word_counts(pairs, alignment)])

    chosen = []
    for id_, reference, texts in rows:
        best = min(texts, key=lambda _: next(errors))  # min takes the key of each text once, in order
        chosen.append((id_, reference, best))
    return score(chosen, info, alignment, normalization, compounds)
