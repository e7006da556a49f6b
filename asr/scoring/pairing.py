"""Pair references and hypotheses of any kinds of files under the same ids: by id, line by line, or cut in time.

One line on stderr reports an uncertain pairing, and an impossible one is refused: texts that do not belong together
have no error rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from asr.errors import ConfigError, DataError, nearest
from asr.scoring.kinds import Kind, kind_of
from asr.scoring.nist import CtmWord
from asr.scoring.stm import cut, joined
from asr.scoring.transcripts import Transcripts, read, read_lines

Pair = Literal["auto", "lines", "ids"]
PAIRS = ("auto", "lines", "ids")
Say = Callable[[str], None]
#: files in whose order texts may be paired
_IN_ORDER: tuple[Kind, ...] = ("plain", "rows", "table", "trn")
#: the first words of this many sentences are not all different, nor nearly all the same as the other file's
_MANY, _SHARED = 20, 0.9
#: an optional word of trn and stm
_OPTIONAL = re.compile(r"(?<!\S)\(\S+\)(?!\S)")
_ID = re.compile(r".*[\d_/:@#|].*|.+[-.].+|.", re.DOTALL)


def find_pair(name: str) -> Pair:
    """Return the way of pairing of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PAIRS:
        raise ConfigError(f"unknown --pair '{name}' ({', '.join(PAIRS)}){nearest(name, PAIRS)}")
    return name  # type: ignore[return-value]


def read_together(
    files: Sequence[tuple[str | Path, Sequence[str]]], pair: Pair = "auto", say: Say = lambda line: None
) -> list[Transcripts]:
    """Return the transcripts of several files, those of the same utterance under the same id.

    Args:
        files: each with the preferred fields of JSON rows for its texts; the first has the references.
        say: called with one line about an interpretation that is uncertain.

    Raises:
        DataError: a file cannot be used, or they cannot be paired in that way.
    """
    named = [(Path(path), prefer) for path, prefer in files]
    kinds = [kind_of(path) for path, _ in named]
    if pair == "lines" or (pair == "auto" and set(kinds) == {"plain"} and _are_sentences([p for p, _ in named], say)):
        return _by_line(named, kinds)
    found = [None if pair == "auto" and kind == "plain" else read(*one) for one, kind in zip(named, kinds, strict=True)]
    ids = {id_ for one in found if one is not None and one.of_one for id_ in one.texts}
    sides = [
        _plain(path, ids, say) if one is None else one for (path, _), one in zip(named, found, strict=True)
    ]  # fmt: skip
    _say_optional(sides, say)
    return _same_names(_same_stretches(sides))


def check_common(*sides: Transcripts) -> None:
    """Refuse transcripts that have no utterance in common.

    Raises:
        DataError: they have no id in common; an example of each is given.
    """
    first, *others = sides
    if set(first.texts).intersection(*(one.texts for one in others)):
        return
    last = others[-1]
    here, there = next(iter(last.texts)), next(iter(first.texts))
    remedy = "; texts without ids are paired with --pair lines" if all(one.kind in _IN_ORDER for one in sides) else ""
    names = " and ".join(str(one.path) for one in sides[:-1])
    raise DataError(f"no id in common with {names}: for example '{here}' here, '{there}' there{remedy}", last.path)


def _are_sentences(paths: Sequence[Path], say: Say) -> bool:
    """Return true if plain files hold texts only, without ids before them."""
    lines = [[line for line in read_lines(path) if line] for path in paths]
    first = [[line.split(" ", 1)[0] for line in each] for each in lines]
    some = ", ".join(repr(word) for word in first[0][:3]) + (", …" if len(first[0]) > 3 else "")
    distinct = [set(each) for each in first]
    like_ids = [_ID.fullmatch(word) is not None for each in first for word in each]
    if 2 * sum(like_ids) >= len(like_ids):
        letters = all(len(word) == 1 and word.isalpha() for word in distinct[0])
        if letters and all(words == distinct[0] for words in distinct):
            say(f"each line is taken to begin with an id ({some}), which is not scored; --pair lines if it is a word")
        return False
    are_different = all(len(a) == len(b) for a, b in zip(distinct, first, strict=True))
    shared = len(set.intersection(*distinct)) / max(map(len, distinct))
    have_texts = any(" " in line for each in lines for line in each)
    if are_different and have_texts and len(first[0]) >= _MANY and shared >= _SHARED:
        return False
    count = f"{len(lines[0]):,} line{'s' if len(lines[0]) > 1 else ''}"
    say(f"plain sentences ({some} begin them), paired line by line ({count}); --pair ids if each begins with an id")
    return True


def _say_optional(sides: Sequence[Transcripts], say: Say) -> None:
    """Report that optional words, which NIST marks with parentheses, are scored all the same."""
    for one in sides:
        count = sum(len(_OPTIONAL.findall(text)) for text in one.texts.values()) if one.kind in ("stm", "trn") else 0
        if count:
            say(f"{one.path}: {count:,} words in parentheses are scored as written, as by sclite without -D")


def _by_line(files: Sequence[tuple[Path, Sequence[str]]], kinds: Sequence[Kind]) -> list[Transcripts]:
    """Pair the texts of each file by their place; their ids are those of a file that has ids, else line numbers."""
    sides = []
    for (path, prefer), kind in zip(files, kinds, strict=True):
        if kind not in _IN_ORDER:
            raise DataError(f"--pair lines is for texts in the same order; a file of this kind ({kind}) has ids", path)
        lines = read_lines(path) if kind == "plain" else []
        texts = {f"line {number}": line for number, line in enumerate(lines, start=1)}
        sides.append(Transcripts(path, texts) if lines else read(path, prefer))
    for other in sides[1:]:
        if len(other.texts) != len(sides[0].texts):
            raise DataError(
                f"{len(other.texts):,} texts, {len(sides[0].texts):,} in {sides[0].path}: line by line they must be "
                "equally many; where lines begin with ids use --pair ids",
                other.path,
            )
    ids = next(
        (list(one.texts) for one, kind in zip(sides, kinds, strict=True) if kind != "plain"), list(sides[0].texts)
    )
    return [_renamed(one, ids) for one in sides]


def _renamed(one: Transcripts, ids: Sequence[str]) -> Transcripts:
    """Return the same transcripts under other ids, in their order."""
    renamed = list(zip(ids, one.texts, strict=True))
    texts = {new: one.texts[old] for new, old in renamed}
    return replace(one, texts=texts, facts={new: one.facts[old] for new, old in renamed if old in one.facts})


def _plain(path: Path, recordings: set[str], say: Say) -> Transcripts:
    """Read lines of ``id text``; or one text, if another file is of one recording whose name is none of the ids."""
    lines = read_lines(path)
    if not recordings or recordings & {line.split(" ", 1)[0] for line in lines if line}:
        return read(path)
    say(f"{path}: taken as the text of one recording")
    return Transcripts(path, {path.stem: " ".join(line for line in lines if line)}, of_one=True)


def _same_stretches(sides: list[Transcripts]) -> list[Transcripts]:
    """Cut timed words to the stretches of the references; for words without times, join each recording's stretches."""
    reference, *others = sides
    if reference.stretches is not None and all(one.words is not None for one in others):
        return [reference, *(_cut(reference, one) for one in others)]
    if all(one.stretches is not None for one in sides):
        return sides
    return [
        one if one.stretches is None else replace(one, texts=joined(one.stretches, one.path), facts={}) for one in sides
    ]


def _cut(reference: Transcripts, hypothesis: Transcripts) -> Transcripts:
    assert reference.stretches is not None
    assert hypothesis.words is not None
    words = dict(zip(_spelled(hypothesis.words, reference.stretches), hypothesis.words.values(), strict=True))
    texts = {}
    for recording, stretches in reference.stretches.items():
        for stretch, some in cut(stretches, words.pop(recording, ())):
            texts[stretch.id] = _text(some)
    texts |= {recording: _text(some) for recording, some in words.items()}  # in no stretch: named, and not scored
    return replace(hypothesis, texts=texts)


def _text(words: Sequence[CtmWord]) -> str:
    return " ".join(word.word for word in words)


def _same_names(sides: list[Transcripts]) -> list[Transcripts]:
    """Give the only recordings of two files the same id, whatever their names; NIST's names ignore letter case."""
    reference, *others = sides
    done = [reference]
    for one in others:
        if one.of_one and reference.of_one:
            one = _renamed(one, list(reference.texts))
        elif one.words is not None and reference.words is not None:
            one = _renamed(one, _spelled(one.texts, reference.texts))
        done.append(one)
    return done


def _spelled(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Return names as another file has them, if they differ in letter case only."""
    as_known = {name.casefold(): name for name in known}
    found = [name if name in known else as_known.get(name.casefold(), name) for name in names]
    return found if len(set(found)) == len(found) else list(names)
