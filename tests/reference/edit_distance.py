"""Levenshtein distance as the textbook has it: a full table, one cell at a time."""

from collections.abc import Sequence


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The fewest substitutions, deletions and insertions that turn one sequence into the other.

    Source: Wagner & Fischer, The string-to-string correction problem, JACM 21(1), 1974.
    """
    # table[i][j] is the distance of the first i reference tokens to the first j hypothesis tokens
    table = [[0] * (len(hypothesis) + 1) for _ in range(len(reference) + 1)]
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            if i == 0:
                table[i][j] = j
            elif j == 0:
                table[i][j] = i
            else:
                match_or_substitute = table[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1])
                delete = table[i - 1][j] + 1
                insert = table[i][j - 1] + 1
                table[i][j] = min(match_or_substitute, delete, insert)
    return table[len(reference)][len(hypothesis)]
