"""Alignment of words with the costs of NIST's sclite: 4 for a substitution, 3 for a deletion or an insertion.

These costs prefer a deletion and an insertion to two substitutions if that makes a word correct, even if it takes
more errors in all: ``v w x a b`` against ``a b p q r`` is 5 substitutions (cost 20) to Levenshtein's distance, and to
sclite 3 deletions and 3 insertions (cost 18), 6 errors. Ties are broken as sclite breaks them, so that the counts are
equal too: seen from the end, a pair of words before a gap, then an insertion before a deletion.

Axes: p pairs, i reference words, j hypothesis words.
Source: the document of sclite (NIST SCTK 2.4, doc/sclite.htm): "word-to-word distance measures of: 0, 3, 3, 4 for
correct, insertions, deletions and substitutions"; the ties, as its program behaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from asr.errors import DataError
from asr.limits import ALIGNMENT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Operation = Literal["equal", "substitute", "delete", "insert"]
#: one (operation, reference word, hypothesis word) per row
WordAlignment = list[tuple[Operation, str | None, str | None]]
_WordPair = tuple[Sequence[str], Sequence[str]]

SUBSTITUTION, GAP = 4, 3
_PAIR, _DELETE, _INSERT = 0, 1, 2
#: cells of the tables of one block of pairs, padding included: 2 MB of choices
_BLOCK = 2_000_000


def align_words(pairs: Sequence[_WordPair]) -> list[WordAlignment]:
    """Align each (reference words, hypothesis words).

    >>> [row[0] for row in align_words([("v w x a b".split(), "a b p q r".split())])[0]].count("equal")
    2

    Raises:
        DataError: two texts are too long for one table.
    """
    # Equal words at the end are paired in any best alignment that prefers pairs; identical texts cost nothing.
    ends = [_common_end(reference, hypothesis) for reference, hypothesis in pairs]
    heads = [(ref[: len(ref) - end], hyp[: len(hyp) - end]) for (ref, hyp), end in zip(pairs, ends, strict=True)]

    aligned: list[WordAlignment] = [[] for _ in pairs]
    for block in _blocks(heads):
        choices_pij = _choices([heads[p] for p in block])
        for p, choices_ij in zip(block, choices_pij, strict=True):
            aligned[p] = _trace(*heads[p], choices_ij)

    for (reference, _), end, rows in zip(pairs, ends, aligned, strict=True):
        rows.extend(("equal", word, word) for word in reference[len(reference) - end :])
    return aligned


def _common_end(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    end = 0
    for ref, hyp in zip(reversed(reference), reversed(hypothesis), strict=False):
        if ref != hyp:
            break
        end += 1
    return end


def _blocks(pairs: Sequence[_WordPair]) -> Iterator[list[int]]:
    """Yield the indexes of pairs of like size, so that padding is small; empty pairs are left out."""
    for reference, hypothesis in pairs:
        if len(reference) * len(hypothesis) > ALIGNMENT:
            raise DataError(
                f"{len(reference):,} reference words beside {len(hypothesis):,} words, too many for one alignment "
                f"(from '{' '.join(reference[:5])} …'); score the text in segments, each with an id"
            )

    longest = [max(len(reference), len(hypothesis)) for reference, hypothesis in pairs]
    block: list[int] = []
    for p in sorted(range(len(pairs)), key=longest.__getitem__):
        if not longest[p]:
            continue

        if block and (len(block) + 1) * (longest[p] + 1) ** 2 > _BLOCK:
            yield block
            block = []
        block.append(p)
    if block:
        yield block


def _choices(pairs: Sequence[_WordPair]) -> NDArray[np.uint8]:
    """Return for each pair and cell (i, j) the last operation of the best alignment of the first i and j words."""
    import numpy as np

    # Words as numbers; the padding of references and hypotheses never matches.
    number_of: dict[str, int] = {}
    num_i = max(len(reference) for reference, _ in pairs)
    num_j = max(len(hypothesis) for _, hypothesis in pairs)
    refs_pi = np.full((len(pairs), num_i), -1, dtype=np.int32)
    hyps_pj = np.full((len(pairs), num_j), -2, dtype=np.int32)
    for p, (reference, hypothesis) in enumerate(pairs):
        refs_pi[p, : len(reference)] = [number_of.setdefault(word, len(number_of)) for word in reference]
        hyps_pj[p, : len(hypothesis)] = [number_of.setdefault(word, len(number_of)) for word in hypothesis]

    choices_pij = np.full((len(pairs), num_i + 1, num_j + 1), _INSERT, dtype=np.uint8)
    choices_pij[:, 1:, 0] = _DELETE
    inserted_j = GAP * np.arange(num_j + 1, dtype=np.int32)
    costs_pj = np.broadcast_to(inserted_j, (len(pairs), num_j + 1))
    for i in range(num_i):
        pair_pj = costs_pj[:, :-1] + np.where(refs_pi[:, i, None] == hyps_pj, 0, SUBSTITUTION).astype(np.int32)
        delete_pj = costs_pj[:, 1:] + GAP

        # The cost with any number of insertions after it: a running minimum once j insertions are taken off.
        best_pj = np.empty_like(costs_pj)
        best_pj[:, 0] = (i + 1) * GAP
        np.minimum(pair_pj, delete_pj, out=best_pj[:, 1:])
        costs_pj = np.minimum.accumulate(best_pj - inserted_j, axis=1) + inserted_j

        insert_pj = costs_pj[:, :-1] + GAP
        gap_pj = np.where(delete_pj < insert_pj, _DELETE, _INSERT)
        choices_pij[:, i + 1, 1:] = np.where(pair_pj <= np.minimum(delete_pj, insert_pj), _PAIR, gap_pj)
    return choices_pij


def _trace(reference: Sequence[str], hypothesis: Sequence[str], choices_ij: NDArray[np.uint8]) -> WordAlignment:
    """Follow the choices from the end of both texts to their beginning."""
    width = choices_ij.shape[1]
    choices = choices_ij.tobytes()

    i = len(reference)
    j = len(hypothesis)
    rows: WordAlignment = []
    while i or j:
        choice = choices[i * width + j]
        if choice == _PAIR:
            i -= 1
            j -= 1
            kind: Operation = "equal" if reference[i] == hypothesis[j] else "substitute"
            rows.append((kind, reference[i], hypothesis[j]))
        elif choice == _DELETE:
            i -= 1
            rows.append(("delete", reference[i], None))
        else:
            j -= 1
            rows.append(("insert", None, hypothesis[j]))

    rows.reverse()
    return rows
