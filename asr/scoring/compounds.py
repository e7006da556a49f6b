"""Compound words that one side writes as one and the other as several: "air plane" and "airplane".

Neighbouring words of one side, written together, may be one word of the other side at no cost, if that gives the fewest
errors. The hypothesis is then spelled there as the reference is, so that every count and table sees the same words, and
the number of reference words stays.

Source: the rule is that of kaldialign's ``merge_compounds``. The errors are as many as kaldialign 0.12 counts;
for 3 of 60,000 pairs of random letters they were fewer, since respelled words may pair with others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asr.errors import DataError

#: cells of one table: a second or two
_CELLS = 4_000_000


def respelled(reference: str, hypothesis: str) -> tuple[str, int]:
    """Return the hypothesis with compounds spelled as in the reference, and how many were respelled.

    >>> respelled("an air plane lands", "an airplane landed")
    ('an air plane landed', 1)

    Raises:
        DataError: the texts are too long for one table.
    """
    ref, hyp = reference.split(), hypothesis.split()
    if ref == hyp:
        return hypothesis, 0
    # By its end in both texts: how many words of each side it takes.
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, count, j in _joined(ref, hyp):
        groups.setdefault((i, j), []).append((count, 1))
    for j, count, i in _joined(hyp, ref):
        groups.setdefault((i, j), []).append((1, count))
    if not groups:
        return hypothesis, 0

    if len(ref) * len(hyp) > _CELLS:
        raise DataError(
            f"{len(ref):,} reference words beside {len(hyp):,} words, too many to look for compounds "
            f"(from '{' '.join(ref[:5])} …'); score the text in segments, each with an id, or leave --compounds out"
        )
    chosen = _best(ref, hyp, groups)
    words: list[str] = []
    at = 0
    for i, j, (num_ref, num_hyp) in chosen:
        words += hyp[at : j - num_hyp]
        words += ref[i - num_ref : i]
        at = j
    return " ".join(words + hyp[at:]), len(chosen)


def _joined(several: Sequence[str], single: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Yield (end, number of words, end in the other text) of neighbouring words that are one word of the other text."""
    places: dict[str, list[int]] = {}
    for end, word in enumerate(single, start=1):
        places.setdefault(word, []).append(end)
    longest = max(map(len, places), default=0)

    for start, first in enumerate(several):
        written = first
        for end in range(start + 2, len(several) + 1):
            written += several[end - 1]
            if len(written) > longest:
                break
            for place in places.get(written, ()):
                yield end, end - start, place


def _best(
    ref: Sequence[str], hyp: Sequence[str], groups: dict[tuple[int, int], list[tuple[int, int]]]
) -> list[tuple[int, int, tuple[int, int]]]:
    """Return the groups on the path with the fewest errors, of equally good ones that with the fewest groups."""
    # (errors, groups) of each pair of beginnings, and the step that leads there.
    costs: list[list[tuple[int, int]]] = [[(j, 0) for j in range(len(hyp) + 1)]]
    steps: list[list[tuple[int, int]]] = [[(0, 1)] * (len(hyp) + 1)]
    for i, word in enumerate(ref, start=1):
        above = costs[-1]
        row = [(i, 0)]
        taken = [(1, 0)]
        for j, other in enumerate(hyp, start=1):
            errors, merged = above[j - 1]
            best, step = (errors + (word != other), merged), (1, 1)
            if (gap := (above[j][0] + 1, above[j][1])) < best:
                best, step = gap, (1, 0)
            if (gap := (row[j - 1][0] + 1, row[j - 1][1])) < best:
                best, step = gap, (0, 1)
            for num_ref, num_hyp in groups.get((i, j), ()):
                before = (costs[i - num_ref] if num_ref > 1 else above)[j - num_hyp]
                if (group := (before[0], before[1] + 1)) < best:
                    best, step = group, (num_ref, num_hyp)
            row.append(best)
            taken.append(step)
        costs.append(row)
        steps.append(taken)

    chosen = []
    i, j = len(ref), len(hyp)
    while i or j:
        step = steps[i][j]
        if max(step) > 1:
            chosen.append((i, j, step))
        i -= step[0]
        j -= step[1]
    return chosen[::-1]
