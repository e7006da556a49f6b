"""Alignment with sclite's costs, one cell of the full table at a time."""

from collections.abc import Sequence


def operations(reference: Sequence[str], hypothesis: Sequence[str]) -> list[str]:
    """The operations of the cheapest alignment: costs 0 (C), 4 (S), 3 (D), 3 (I).

    Of equally cheap last steps the pair is taken first, then the insertion, then the deletion.
    """
    cost: dict[tuple[int, int], int] = {}
    last: dict[tuple[int, int], str] = {}
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            ways = []
            if i and j:
                same = reference[i - 1] == hypothesis[j - 1]
                ways.append((cost[i - 1, j - 1] + (0 if same else 4), 0, "C" if same else "S"))
            if j:
                ways.append((cost[i, j - 1] + 3, 1, "I"))
            if i:
                ways.append((cost[i - 1, j] + 3, 2, "D"))
            cost[i, j], _, last[i, j] = min(ways, default=(0, 0, ""))
    i, j = len(reference), len(hypothesis)
    backwards = []
    while i or j:
        step = last[i, j]
        backwards.append(step)
        i, j = i - (step != "I"), j - (step != "D")
    return backwards[::-1]
