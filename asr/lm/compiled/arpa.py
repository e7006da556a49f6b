"""Reads the n-gram lines of an ARPA file, in compiled code. ``asr.lm.arpa_reader`` has the words for its errors.

The data end with a newline, so that every loop over a line ends there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.lm.compiled.ngram import MISSING, Int, _compile, find, first_slot, insert
from asr.lm.model import MOST_BACKOFF_LOG10, NEVER_LOG10_PROB, Floats, Ints, Longs, NgramArrays

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

#: n-grams read before they are looked up: their words stay in the first-level cache
_BLOCK = 1024
#: what can be wrong with a line
OK, BAD_NUMBER, POSITIVE, BAD_BACKOFF, FIELDS, UNKNOWN_WORD, NO_CONTEXT, TWICE, TOO_FEW, LARGE_BACKOFF = range(10)

_TAB, _NEWLINE, _RETURN, _SPACE, _BACKSLASH = 9, 10, 13, 32, 92
_PLUS, _MINUS, _DOT, _ZERO, _NINE = 43, 45, 46, 48, 57
_MINUS_INF = np.frombuffer(b"-inf", np.uint8)
_POWERS = np.array([10.0**i for i in range(39)])
_LN10 = np.log(10.0)
# Unsigned, as an index of type int64 costs a test for negative ones; numba makes uint64 and int64 a float64.
_ZERO64, _ONE, _SEVEN, _EIGHT, _HALF = np.uint64(0), np.uint64(1), np.uint64(7), np.uint64(8), np.uint64(32)
_MIX = np.uint64(0x9FB21C651E98DF25)


@_compile
def _skip_blanks(data: Bytes, at: Int) -> Int:
    while data[at] == _SPACE or data[at] == _TAB or data[at] == _RETURN:
        at += 1
    return at


@_compile
def _is_space(c: Int) -> Any:
    return c <= _SPACE and (c == _SPACE or c == _TAB or c == _NEWLINE or c == _RETURN)  # noqa: SIM109, numba is slow


@_compile
def _skip_blank_lines(data: Bytes, at: Int) -> Int:
    """Where the next line with text on it begins to have some, or the end of the data."""
    while at < len(data) and (data[at] == _SPACE or _TAB <= data[at] <= _RETURN):  # vertical tab, form feed: as kenlm
        at += 1
    return at


@_compile
def _read_any_number(data: Bytes, at: Int) -> tuple[Any, Any, Int]:
    """Whether a decimal number stands here, its value, and where it ends."""
    negative = data[at] == _MINUS
    if negative or data[at] == _PLUS:
        at += 1
    mantissa, exponent, digits = np.uint64(0), 0, 0
    seen_dot = False
    while True:
        c = data[at]
        if _ZERO <= c <= _NINE:
            digits += 1
            if mantissa < np.uint64(10**17):  # the digits behind these are below a double's precision
                mantissa = mantissa * np.uint64(10) + np.uint64(c - _ZERO)
                exponent -= seen_dot
            else:
                exponent += not seen_dot
        elif c == _DOT and not seen_dot:
            seen_dot = True
        else:
            break
        at += 1
    if digits == 0:
        return False, 0.0, at
    if data[at] == 101 or data[at] == 69:  # e or E
        at += 1
        minus = data[at] == _MINUS
        if minus or data[at] == _PLUS:
            at += 1
        power: Int = 0
        digits = 0
        while _ZERO <= data[at] <= _NINE:
            power = min(power * 10 + (data[at] - _ZERO), 9999)
            digits += 1
            at += 1
        if digits == 0:
            return False, 0.0, at
        exponent += -power if minus else power
    value = np.float64(mantissa)
    while exponent < 0 and value != 0.0:
        value /= _POWERS[min(-exponent, 38)]
        exponent += min(-exponent, 38)
    while exponent > 0 and 0.0 < value < 1e300:
        value *= _POWERS[min(exponent, 38)]
        exponent -= min(exponent, 38)
    return value < 1e38, -value if negative else value, at


@_compile
def _read_number(data: Bytes, at: Int) -> tuple[Any, Any, Int]:
    """Whether a decimal number stands here, its value, and where it ends; quick for the usual ones."""
    i = np.uint64(at)
    negative = data[i] == _MINUS
    if negative:
        i += _ONE
    first = point = i
    mantissa, digit = np.int64(0), np.int64(data[i]) - _ZERO
    while 0 <= digit <= 9:
        mantissa = mantissa * 10 + digit
        i += _ONE
        digit = np.int64(data[i]) - _ZERO
    decimals: Int = 0
    if data[i] == _DOT:
        i += _ONE
        point = i
        digit = np.int64(data[i]) - _ZERO
        while 0 <= digit <= 9:
            mantissa = mantissa * 10 + digit
            i += _ONE
            digit = np.int64(data[i]) - _ZERO
        decimals = np.int64(i - point)
    if data[i] > _SPACE or not 2 <= np.int64(i - first) <= 18:  # an exponent, too many digits, or no number
        return _read_any_number(data, at)
    value = np.float64(mantissa) / _POWERS[decimals]
    return True, -value if negative else value, np.int64(i)


@_compile
def hash_word(data: Bytes, at: Int) -> tuple[Int, Int]:
    """A hash of the word that starts here, and where it ends: bytes gathered by eight, each eight mixed in."""
    start, i = np.uint64(at), np.uint64(at)
    hashed, gathered = np.uint64(0), np.uint64(0)
    while not _is_space(data[i]):
        gathered = (gathered << _EIGHT) | np.uint64(data[i])
        i += _ONE
        if (i - start) & _SEVEN == _ZERO64:
            hashed = (hashed ^ gathered) * _MIX
            hashed ^= hashed >> _HALF
            gathered = _ZERO64
    hashed = (hashed ^ gathered ^ ((i - start) << _HALF)) * _MIX
    return hashed ^ (hashed >> _HALF), np.int64(i)


@_compile
def _insert_word(
    data: Bytes, at: Int, end: Int, hashed: Int, ids: Ints, hashes: Longs, starts: Longs
) -> tuple[Int, Int]:
    """The slot for a new word in the vocabulary's table, -1 if the word is there already; and whether another word has
    its hash."""
    mask = len(ids) - 1
    slot = first_slot(np.int64(hashed), mask + 1)
    shared = 0
    while ids[slot] >= 0:
        if hashes[slot] == np.int64(hashed):
            if _same_word(data, at, end, starts[ids[slot]]):
                return MISSING, shared
            shared = 1
        slot = (slot + 1) & mask
    return slot, shared


@_compile
def _same_word(data: Bytes, at: Int, end: Int, other: Int) -> Any:
    for i in range(end - at):
        if data[other + i] != data[at + i]:
            return False
    return _is_space(data[other + end - at])


@_compile
def _find_word(
    data: Bytes, at: Int, end: Int, hashed: Int, ids: Ints, hashes: Longs, starts: Longs, shared: Int
) -> Int:
    """The id of a word or -1. Words are known by 64-bit hashes, by their bytes only where two share one."""
    mask = len(ids) - 1
    slot = first_slot(np.int64(hashed), mask + 1)
    while ids[slot] >= 0:
        if hashes[slot] == np.int64(hashed) and (shared == 0 or _same_word(data, at, end, starts[ids[slot]])):
            return ids[slot]
        slot = (slot + 1) & mask
    return MISSING


@_compile
def _is_minus_inf(data: Bytes, at: Int) -> Any:
    """Whether ``-inf`` stands here, in letters of any case."""
    for i in range(4):
        if at + i >= len(data) or (data[at + i] != _MINUS_INF[i] and data[at + i] + 32 != _MINUS_INF[i]):
            return False
    return True


@_compile
def _read_backoff(data: Bytes, at: Int, highest: bool) -> tuple[Int, float, Int]:
    """An error code, the back-off weight or 0, and where the next line starts."""
    at = _skip_blanks(data, at)
    if data[at] == _NEWLINE:
        return OK, 0.0, at + 1
    good, value, at = _read_number(data, at)
    if not good or not _is_space(data[at]):
        return BAD_BACKOFF, 0.0, at
    at = _skip_blanks(data, at)
    if data[at] != _NEWLINE or (highest and value != 0.0):
        return FIELDS, 0.0, at
    if value > MOST_BACKOFF_LOG10:
        return LARGE_BACKOFF, 0.0, at
    return OK, value, at + 1


@_compile
def _read_log_prob(data: Bytes, at: Int) -> tuple[Int, float, Int]:
    """An error code, the log10 probability that starts here, and where the first word does."""
    if data[at] == _BACKSLASH:
        return TOO_FEW, 0.0, at
    start = at
    good, value, at = _read_number(data, at)
    if not good and _is_minus_inf(data, start):
        good, value, at = True, NEVER_LOG10_PROB, start + 4
    if not good or not _is_space(data[at]):
        return BAD_NUMBER, 0.0, at
    if value > 0.0:
        return POSITIVE, 0.0, at
    return OK, value, _skip_blanks(data, at)


@_compile
def read_unigrams(
    data: Bytes, at: Int, count: Int, highest: bool, special: Longs, ids: Ints, hashes: Longs, starts: Longs,
    ends: Longs, log_probs: Floats, backoffs: Floats,
) -> tuple[Int, Int, Int, Int]:  # fmt: skip
    """Reads the lines of words into nodes ``1 + id``. The word with the hash ``special[i]`` gets the id ``i % 3``.

    Returns an error code, the byte where reading stopped, the number of words, and whether two have the same
    hash.
    """
    num_words, shared = 3, 0
    for _ in range(count):
        line = at = _skip_blank_lines(data, at)
        if at >= len(data):
            return TOO_FEW, at, num_words, shared
        code, log_prob, at = _read_log_prob(data, at)
        if code != OK:
            return code, line, num_words, shared
        hashed, end = hash_word(data, at)
        if end == at:
            return FIELDS, line, num_words, shared
        slot, clash = _insert_word(data, at, end, hashed, ids, hashes, starts)
        shared |= clash
        if slot < 0:
            return TWICE, line, num_words, shared
        word = num_words
        for i in range(len(special)):
            if np.int64(hashed) == special[i]:
                word = i % 3
        if word == num_words:
            if num_words == len(starts):
                return TOO_FEW, line, num_words, shared
            num_words += 1
        elif starts[word] >= 0:
            return TWICE, line, num_words, shared
        ids[slot], hashes[slot], starts[word], ends[word] = word, np.int64(hashed), at, end
        code, backoff, at = _read_backoff(data, end, highest)
        if code != OK:
            return code, line, num_words, shared
        log_probs[1 + word] = log_prob * _LN10
        backoffs[1 + word] = backoff * _LN10
    return OK, at, num_words, shared


@_compile
def read_ngrams(
    data: Bytes, at: Int, count: Int, order: Int, highest: bool, ids: Ints, hashes: Longs, starts: Longs,
    shared: Int, arrays: NgramArrays, first_node: Int,
) -> tuple[Int, Int, Int]:  # fmt: skip
    """Reads the lines of one order into nodes from ``first_node`` on; their suffixes are the longest there are.

    In blocks, first the text and then the table: the waits for far memory then overlap.

    Returns an error code, the byte where reading stopped, and the lines before it, -1 where the byte says which it is.
    """
    words_bu = np.empty((_BLOCK, order), np.int32)
    done = 0
    while done < count:
        lines = min(_BLOCK, count - done)
        code, at = _read_block(
            data, at, lines, highest, ids, hashes, starts, shared, words_bu, arrays, first_node + done
        )
        if code != OK:
            return code, at, -1
        code, line = _link_block(words_bu[:lines], arrays, first_node + done)
        if code != OK:
            return code, at, done + line
        done += lines
    return OK, at, count


@_compile
def _read_block(
    data: Bytes, at: Int, lines: Int, highest: bool, ids: Ints, hashes: Longs, starts: Longs, shared: Int,
    words_bu: Ints, arrays: NgramArrays, first_node: Int,
) -> tuple[Int, Int]:  # fmt: skip
    """Reads the numbers of some lines into the arrays, and their words. Returns an error code and where it stopped."""
    order = words_bu.shape[1]
    for b in range(lines):
        line = at = _skip_blank_lines(data, at)
        if at >= len(data):
            return TOO_FEW, at
        code, log_prob, at = _read_log_prob(data, at)
        if code != OK:
            return code, line
        for u in range(order):
            hashed, end = hash_word(data, at)
            if end == at:
                return FIELDS, line
            word = _find_word(data, at, end, hashed, ids, hashes, starts, shared)
            if word < 0:
                return UNKNOWN_WORD, at
            words_bu[b, u] = word
            at = _skip_blanks(data, end) if u < order - 1 else end
        code, backoff, at = _read_backoff(data, at, highest)
        if code != OK:
            return code, line
        arrays.log_probs[first_node + b] = log_prob * _LN10
        if not highest:
            arrays.backoffs[first_node + b] = backoff * _LN10
            arrays.is_context[first_node + b] = backoff != 0.0
    return OK, at


@_compile
def _fetch(arrays: NgramArrays, keys: Longs) -> None:
    """Reads what the searches for some keys will read first.

    A search waits for one answer before it asks on; these reads do not, so that the processor has many on the way.
    """
    found = 0
    for b in range(len(keys)):
        slot = first_slot(keys[b], len(arrays.table_keys))
        found += (arrays.table_keys[slot] == keys[b]) + arrays.table_nodes[slot]
    arrays.suffixes[0] = min(found, 0)  # always 0; without it the compiler leaves the reads out


@_compile
def _link_block(words_bu: Ints, arrays: NgramArrays, first_node: Int) -> tuple[Int, Int]:
    """Puts n-grams into the table and finds their suffixes. Returns an error code and the line it is about."""
    lines, order = words_bu.shape
    size = arrays.vocabulary_size[0]
    contexts, shorter, keys = np.empty(lines, np.int64), np.empty(lines, np.int64), np.empty(lines, np.int64)
    for b in range(lines):
        contexts[b] = words_bu[b, 0] + 1
    for u in range(1, order - 1):
        for b in range(lines):
            keys[b] = contexts[b] * size + words_bu[b, u]
        _fetch(arrays, keys)
        for b in range(lines):
            contexts[b] = find(arrays, contexts[b], words_bu[b, u])
            if contexts[b] < 0:
                return NO_CONTEXT, b
    for b in range(lines):
        arrays.is_context[contexts[b]] = 1
        shorter[b] = arrays.suffixes[contexts[b]]
        keys[b] = contexts[b] * size + words_bu[b, order - 1]
    _fetch(arrays, keys)
    for b in range(lines):
        if insert(arrays.table_keys, arrays.table_nodes, keys[b], first_node + b) != MISSING:
            return TWICE, b
    for b in range(lines):
        keys[b] = shorter[b] * size + words_bu[b, order - 1]
    _fetch(arrays, keys)
    for b in range(lines):
        suffix, state = MISSING, shorter[b]
        while suffix < 0:
            suffix = find(arrays, state, words_bu[b, order - 1])
            state = np.int64(arrays.suffixes[state])
        arrays.suffixes[first_node + b] = suffix
    return OK, lines


@_compile
def copy_words(data: Bytes, starts: Longs, ends: Longs, out: Bytes) -> None:
    """Writes words one after the other, a newline before each."""
    at = 0
    for word in range(len(starts)):
        out[at] = _NEWLINE
        for i in range(starts[word], ends[word]):
            at += 1
            out[at] = data[i]
        at += 1
