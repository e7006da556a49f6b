"""Alignment of words with the costs of NIST's sclite: 4 for a substitution, 3 for a deletion or an insertion.

These costs prefer a deletion and an insertion to two substitutions when that makes a word correct, even where it takes
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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Operation = Literal["equal", "substitute", "delete", "insert"]
Aligned = list[tuple[Operation, str | None, str | None]]

SUBSTITUTION, GAP = 4, 3
_PAIR, _DELETE, _INSERT = 0, 1, 2
# Cells of the tables of one block of pairs, padding included: 2 MB of choices.
_BLOCK = 2_000_000


def align_words(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[Aligned]:
    """The alignment of each (reference words, hypothesis words), one (operation, reference, hypothesis) a row.

    >>> [row[0] for row in align_words([("v w x a b".split(), "a b p q r".split())])[0]].count("equal")
    2
    """
    # Equal words at the end are paired in any best alignment that prefers pairs; identical texts cost nothing.
    ends = [_common_end(reference, hypothesis) for reference, hypothesis in pairs]
    shapes = [(len(ref) - end, len(hyp) - end) for (ref, hyp), end in zip(pairs, ends, strict=True)]
    out: list[Aligned] = [[] for _ in pairs]
    for block in _blocks(shapes):
        for p, choices in zip(block, _choices([pairs[p] for p in block], [shapes[p] for p in block]), strict=True):
            out[p] = _trace(*pairs[p], shapes[p], choices)
    for (reference, hypothesis), end, rows in zip(pairs, ends, out, strict=True):
        tail = len(hypothesis) - end
        rows.extend(
            ("equal", ref, hyp) for ref, hyp in zip(reference[len(reference) - end :], hypothesis[tail:], strict=True)
        )
    return out


def _common_end(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    end = 0
    for ref, hyp in zip(reversed(reference), reversed(hypothesis), strict=False):
        if ref != hyp:
            break
        end += 1
    return end


def _blocks(shapes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Pairs of like size, so that padding is small; those of nothing are left out."""
    block: list[int] = []
    size = 0
    for p in sorted((p for p, shape in enumerate(shapes) if any(shape)), key=lambda p: max(shapes[p])):
        longest = max(shapes[p]) + 1
        if block and (len(block) + 1) * longest * longest > _BLOCK:
            yield block
            block, size = [], 0
        block.append(p)
        size = longest
    if block and size:
        yield block


def _choices(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]], shapes: Sequence[tuple[int, int]]
) -> Iterator[NDArray[np.uint8]]:
    """For each pair and each cell (i, j) the last operation of the best alignment of i and j words."""
    import numpy as np

    number: dict[str, int] = {}
    most_i, most_j = max(i for i, _ in shapes), max(j for _, j in shapes)
    refs_pi = np.full((len(pairs), most_i), -1, dtype=np.int32)
    hyps_pj = np.full((len(pairs), most_j), -2, dtype=np.int32)
    for p, ((reference, hypothesis), (i, j)) in enumerate(zip(pairs, shapes, strict=True)):
        refs_pi[p, :i] = [number.setdefault(word, len(number)) for word in reference[:i]]
        hyps_pj[p, :j] = [number.setdefault(word, len(number)) for word in hypothesis[:j]]
    choices_pij = np.full((len(pairs), most_i + 1, most_j + 1), _INSERT, dtype=np.uint8)
    choices_pij[:, 1:, 0] = _DELETE
    inserted_j = GAP * np.arange(most_j + 1, dtype=np.int32)
    costs_pj = np.broadcast_to(inserted_j, (len(pairs), most_j + 1))
    for i in range(most_i):
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
    yield from choices_pij


def _trace(
    reference: Sequence[str], hypothesis: Sequence[str], shape: tuple[int, int], choices_ij: NDArray[np.uint8]
) -> Aligned:
    width, choices = choices_ij.shape[1], choices_ij.tobytes()
    i, j = shape
    rows: Aligned = []
    while i or j:
        choice = choices[i * width + j]
        if choice == _PAIR:
            i, j = i - 1, j - 1
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
