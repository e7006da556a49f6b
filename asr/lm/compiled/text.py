"""Splits text into words with ids, and writes the lines of ARPA files, in compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.jit import compiled
from asr.lm.arrays import Bytes, Doubles, Ints, Longs
from asr.lm.compiled.arpa import hash_word
from asr.lm.compiled.ngram import slot_of

Int = Any

_TAB, _NEWLINE, _RETURN, _SPACE = 9, 10, 13, 32
#: ASCII separators that end a word for Python, too
_FILE, _UNIT = 28, 31
_POINT, _MINUS, _ZERO, _E = 46, 45, 48, 101
_POWERS = np.array([10.0**i for i in range(39)])
#: significant digits of a number
_DIGITS = 9
#: bytes that a number may take: sign, digits, point, exponent
_LONGEST_NUMBER = 24


@compiled
def word_ids(
    data: Bytes,
    at: Int,
    hashes: Longs,
    ids: Ints,
    num_words: Int,
    most_words: Int,
    begin_id: Int,
    end_id: Int,
    skip_symbols: bool,
    tokens: Ints,
    starts: Longs,
) -> tuple[Int, Int, Int, Int]:
    """Write the ids of lines of text, each between ``begin_id`` and ``end_id``; a new word gets the next id.

    A word is known by its hash, as in ``asr.lm.compiled.arpa``. The data end with a newline; ``at`` begins a line.

    Args:
        hashes, ids: Open addressing; a negative id is that of a word that may not be in a text.
        most_words: Stop before a line that might lead to more.
        starts: Where each word that is new stands in the data, by its number among the new ones.

    Returns:
        The byte to go on with, the tokens written, the words known now; and the byte of a word that may not be there,
        or -1.
    """
    num_tokens = 0
    first_new = num_words
    while at < len(data):
        line = at
        line_tokens = num_tokens
        tokens[num_tokens] = begin_id
        num_tokens += 1
        while data[at] != _NEWLINE:
            c = data[at]
            if c == _SPACE or _TAB <= c <= _RETURN or _FILE <= c <= _UNIT:
                at += 1
                continue

            start = at
            hashed, at = hash_text(data, at)
            slot = slot_of(hashes, hashed)
            if hashes[slot] == -1:
                if num_words == most_words:
                    return line, line_tokens, num_words, np.int64(-1)
                hashes[slot] = hashed
                ids[slot] = num_words
                starts[num_words - first_new] = start
                num_words += 1
            if ids[slot] >= 0:
                tokens[num_tokens] = ids[slot]
                num_tokens += 1
            elif not skip_symbols:
                return line, line_tokens, num_words, np.int64(start)
        tokens[num_tokens] = end_id
        num_tokens += 1
        at += 1
    return at, num_tokens, num_words, np.int64(-1)


@compiled
def hash_text(data: Bytes, at: Int) -> tuple[Int, Int]:
    """Return the hash of the word that starts here, never -1, and where it ends: at what Python calls white space."""
    hashed, end = hash_word(data, at)
    for i in range(at, end):
        c = data[i]
        if c < _SPACE and (_TAB <= c <= _RETURN or _FILE <= c <= _UNIT):
            # rare: hash_word ends words at spaces, tabs and line ends only
            return _hash_between(data, at, i), i
    return (hashed if hashed != -1 else np.int64(-2)), end


@compiled
def _hash_between(data: Bytes, at: Int, end: Int) -> Int:
    word = np.empty(end - at + 1, np.uint8)
    word[: end - at] = data[at:end]
    word[end - at] = _NEWLINE
    hashed = hash_word(word, 0)[0]
    return hashed if hashed != -1 else np.int64(-2)


@compiled
def write_lines(
    first: Int,
    last: Int,
    order: Int,
    log10_probs_n: Doubles,
    log10_backoffs_n: Doubles,
    with_backoffs: bool,
    contexts_n: Ints,
    words_n: Ints,
    vocabulary: Bytes,
    word_ends: Longs,
    out: Bytes,
) -> tuple[Int, Int]:
    """Write the lines of nodes from ``first`` until ``last`` or until the room is used up.

    Args:
        log10_probs_n, log10_backoffs_n: From ``first`` on.
        word_ends: Where each word ends in the vocabulary; the next begins one byte later.

    Returns:
        The node to go on with, and the bytes written.
    """
    path_u = np.empty(order, np.int64)
    at = 0
    for node in range(first, last):
        ancestor = np.int64(node)
        size = 2 * _LONGEST_NUMBER + order + 2
        for u in range(order):
            word = np.int64(words_n[ancestor])
            path_u[order - 1 - u] = word
            size += word_ends[word] - (word_ends[word - 1] if word > 0 else -1)
            ancestor = np.int64(contexts_n[ancestor])
        if at + size > len(out):
            return node, at

        at = write_number(log10_probs_n[node - first], out, at)
        for u in range(order):
            out[at] = _TAB if u == 0 else _SPACE
            at += 1
            word = path_u[u]
            begin = word_ends[word - 1] + 1 if word > 0 else 0
            for i in range(begin, word_ends[word]):
                out[at] = vocabulary[i]
                at += 1
        if with_backoffs:
            out[at] = _TAB
            at = write_number(log10_backoffs_n[node - first], out, at + 1)
        out[at] = _NEWLINE
        at += 1
    return last, at


@compiled
def write_number(value: float, out: Bytes, at: Int) -> Int:
    """Write a finite number as ``%.9g`` does, up to the rounding of ties; return where it ends."""
    if value == 0.0:
        out[at] = _ZERO
        return at + 1
    if value < 0.0:
        out[at] = _MINUS
        at += 1
        value = -value

    # The decimal exponent, and nine digits as a whole number.
    exponent: Int = 0
    if 1e-8 < value < 1e8:  # without a logarithm
        while value >= _POWERS[exponent + 1]:
            exponent += 1
        while exponent <= 0 and value * _POWERS[-exponent] < 1.0:
            exponent -= 1
    else:
        exponent = np.int64(np.floor(np.log10(value)))
    mantissa = _scaled(value, _DIGITS - 1 - exponent)
    if mantissa >= 10**_DIGITS:
        exponent += 1
        mantissa = _scaled(value, _DIGITS - 1 - exponent)
    elif mantissa < 10 ** (_DIGITS - 1):
        exponent -= 1
        mantissa = _scaled(value, _DIGITS - 1 - exponent)
        if mantissa >= 10**_DIGITS:
            exponent += 1
            mantissa = np.int64(10 ** (_DIGITS - 1))
    digits = _DIGITS
    while mantissa % 10 == 0:
        mantissa //= 10
        digits -= 1

    scientific = exponent < -4 or exponent >= _DIGITS
    whole = 1 if scientific else exponent + 1  # digits before the point
    if whole <= 0:
        out[at] = _ZERO
        out[at + 1] = _POINT
        at += 2
        for _ in range(-whole):
            out[at] = _ZERO
            at += 1
        at = _write_digits(mantissa, digits, 0, out, at)
    else:
        at = _write_digits(mantissa, digits, whole, out, at)
        for _ in range(whole - digits):
            out[at] = _ZERO
            at += 1

    if scientific:
        out[at] = _E
        out[at + 1] = _MINUS if exponent < 0 else 43
        at += 2
        exponent = abs(exponent)
        if exponent < 10:
            out[at] = _ZERO
            at += 1
        width = 1 if exponent < 10 else (2 if exponent < 100 else 3)
        at = _write_digits(exponent, width, 0, out, at)
    return at


@compiled
def _scaled(value: float, power: Int) -> Int:
    """Return the whole number nearest to ``value * 10^power``."""
    while power > 38:
        value *= _POWERS[38]
        power -= 38
    while power < -38:
        value /= _POWERS[38]
        power += 38
    return np.int64(np.rint(value * _POWERS[power] if power >= 0 else value / _POWERS[-power]))


@compiled
def _write_digits(number: Int, digits: Int, point: Int, out: Bytes, at: Int) -> Int:
    """Write a whole number of so many digits, a point behind the first ``point`` of them (0: none)."""
    has_point = 0 < point < digits
    end = at + digits + has_point
    place = end - 1
    for i in range(digits, 0, -1):
        out[place] = _ZERO + number % 10
        number //= 10
        place -= 1
        if has_point and i - 1 == point:
            out[place] = _POINT
            place -= 1
    return end
