"""Pair references and hypotheses of any kinds of files under the same ids: by id, line by line, or cut in time.

An uncertain pairing is reported in one line, and an impossible one is refused: texts that do not belong together have
no error rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from asr.errors import DataError
from asr.scoring.kinds import Kind, kind_of
from asr.scoring.nist import CtmWord
from asr.scoring.stm import join_segments, words_by_segment
from asr.scoring.transcripts import Transcripts, read, read_lines

#: how texts may be paired; auto: as the files look
PAIRINGS = ("auto", "lines", "ids")
Warn = Callable[[str], None]
#: files in whose order texts may be paired
_IN_ORDER: tuple[Kind, ...] = ("plain", "rows", "table", "trn")
#: the first words of this many sentences are not all different, nor nearly all the same as the other file's
_MANY, _SHARED = 20, 0.9
#: an optional word of trn and stm
_OPTIONAL = re.compile(r"(?<!\S)\(\S+\)(?!\S)")
_ID = re.compile(r".*[\d_/:@#|].*|.+[-.].+|.", re.DOTALL)


def read_together(
    files: Sequence[tuple[str | Path, Sequence[str]]], pair: str = "auto", warn: Warn = lambda line: None
) -> list[Transcripts]:
    """Read the transcripts of several files, those of the same utterance under the same id.

    Args:
        files: each with the preferred fields of JSON rows for its texts; the first has the references.
        warn: called with one line about an interpretation that is uncertain.

    Raises:
        DataError: a file cannot be used, or they cannot be paired in that way.
    """
    named = [(Path(path), prefer) for path, prefer in files]
    kinds = [kind_of(path) for path, _ in named]

    by_line = pair == "lines"
    if pair == "auto" and set(kinds) == {"plain"}:
        by_line = _are_sentences([path for path, _ in named], warn)
    if by_line:
        return _read_by_line(named, kinds)

    # A plain file is read last: it may be the text of the recording that another file is of.
    is_plain = [pair == "auto" and kind == "plain" for kind in kinds]
    others = [read(*file) for file, plain in zip(named, is_plain, strict=True) if not plain]
    recordings = {id_ for one in others if one.of_one for id_ in one.texts}
    remaining = iter(others)
    sides = [
        _read_plain(path, recordings, warn) if plain else next(remaining)
        for (path, _), plain in zip(named, is_plain, strict=True)
    ]

    # Optional words, which NIST marks with parentheses, are scored all the same.
    for one in sides:
        count = sum(len(_OPTIONAL.findall(text)) for text in one.texts.values()) if one.kind in ("stm", "trn") else 0
        if count:
            warn(f"{one.path}: {count:,} words in parentheses are scored as written, as by sclite without -D")
    return _same_names(_same_segments(sides))


def check_common(sides: Sequence[Transcripts]) -> None:
    """Refuse transcripts that have no utterance in common.

    Raises:
        DataError: they have no id in common; an example of each is given.
    """
    if set.intersection(*(set(one.texts) for one in sides)):
        return

    *others, last = sides
    here = next(iter(last.texts))
    there = next(iter(sides[0].texts))
    remedy = "; texts without ids are paired with --pair lines" if all(one.kind in _IN_ORDER for one in sides) else ""
    names = " and ".join(str(one.path) for one in others)
    raise DataError(f"no id in common with {names}: for example '{here}' here, '{there}' there{remedy}", last.path)


def _are_sentences(paths: Sequence[Path], warn: Warn) -> bool:
    """Return true if plain files hold texts only, without ids before them."""
    lines = [[line for line in read_lines(path) if line] for path in paths]
    first = [[line.split(" ", 1)[0] for line in each] for each in lines]
    distinct = [set(each) for each in first]
    some = ", ".join(repr(word) for word in first[0][:3]) + (", …" if len(first[0]) > 3 else "")

    # Words with digits or marks, and single letters, look like ids.
    like_ids = [_ID.fullmatch(word) is not None for each in first for word in each]
    if 2 * sum(like_ids) >= len(like_ids):
        letters = all(len(word) == 1 and word.isalpha() for word in distinct[0])
        if letters and all(words == distinct[0] for words in distinct):
            warn(f"each line is taken to begin with an id ({some}), which is not scored; --pair lines if it is a word")
        return False

    # Many first words that all differ and that the files share are ids too.
    all_differ = all(len(words) == len(each) for words, each in zip(distinct, first, strict=True))
    shared = len(set.intersection(*distinct)) / max(map(len, distinct))
    have_texts = any(" " in line for each in lines for line in each)
    if all_differ and have_texts and len(first[0]) >= _MANY and shared >= _SHARED:
        return False

    count = f"{len(lines[0]):,} line{'s' if len(lines[0]) > 1 else ''}"
    warn(f"plain sentences ({some} begin them), paired line by line ({count}); --pair ids if each begins with an id")
    return True


def _read_by_line(files: Sequence[tuple[Path, Sequence[str]]], kinds: Sequence[Kind]) -> list[Transcripts]:
    """Pair the texts of each file by their place; their ids are those of a file that has ids, else line numbers."""
    sides = []
    for (path, prefer), kind in zip(files, kinds, strict=True):
        if kind not in _IN_ORDER:
            raise DataError(f"--pair lines is for texts in the same order; a file of this kind ({kind}) has ids", path)
        if kind == "plain":
            texts = {f"line {number}": line for number, line in enumerate(read_lines(path), start=1)}
            sides.append(Transcripts(path, texts))
        else:
            sides.append(read(path, prefer))

    # Texts that are not equally many cannot be paired by place.
    first = sides[0]
    for other in sides[1:]:
        if len(other.texts) != len(first.texts):
            raise DataError(
                f"{len(other.texts):,} texts, {len(first.texts):,} in {first.path}: line by line they must be "
                "equally many; where lines begin with ids use --pair ids",
                other.path,
            )

    with_ids = next((one for one in sides if one.kind != "plain"), first)
    return [_renamed(one, list(with_ids.texts)) for one in sides]


def _read_plain(path: Path, recordings: set[str], warn: Warn) -> Transcripts:
    """Read lines of ``id text``; or one text, if another file is of one recording whose name is none of the ids."""
    lines = read_lines(path)
    if not recordings or recordings & {line.split(" ", 1)[0] for line in lines if line}:
        return read(path)

    warn(f"{path}: taken as the text of one recording")
    return Transcripts(path, {path.stem: " ".join(line for line in lines if line)}, of_one=True)


def _same_segments(sides: list[Transcripts]) -> list[Transcripts]:
    """Cut timed words to the segments of the references; for words without times, join each recording's segments."""
    # Words with times can be cut at the segments; texts without times are compared as a whole.
    reference, *others = sides
    if reference.segments is not None and all(one.kind == "ctm" for one in others):
        return [reference, *(_cut(reference, one) for one in others)]

    if all(one.kind == "stm" for one in sides):
        return sides
    return [
        one if one.segments is None else replace(one, texts=join_segments(one.segments, one.path), info={})
        for one in sides
    ]


def _cut(reference: Transcripts, hypothesis: Transcripts) -> Transcripts:
    segments = reference.segments or {}
    recordings = hypothesis.words or {}
    words = dict(zip(_spelled_as(segments, recordings), recordings.values(), strict=True))
    cut: dict[str, Sequence[CtmWord]] = {}
    for recording, each in segments.items():
        cut |= {segment.id: some for segment, some in words_by_segment(each, words.pop(recording, ()))}

    cut |= words  # in no segment: named, and not scored
    return replace(hypothesis, texts={id_: " ".join(word.word for word in some) for id_, some in cut.items()})


def _same_names(sides: list[Transcripts]) -> list[Transcripts]:
    """Give the only recordings of two files the same id, whatever their names; NIST's names ignore letter case."""
    reference, *others = sides
    renamed = [reference]
    for one in others:
        if one.of_one and reference.of_one:
            one = _renamed(one, list(reference.texts))
        elif one.kind == reference.kind == "ctm":
            one = _renamed(one, _spelled_as(reference.texts, one.texts))
        renamed.append(one)
    return renamed


def _renamed(one: Transcripts, ids: Sequence[str]) -> Transcripts:
    """Return the same transcripts under other ids, in their order."""
    pairs = list(zip(ids, one.texts, strict=True))
    info = {new: one.info[old] for new, old in pairs if old in one.info}
    return replace(one, texts={new: one.texts[old] for new, old in pairs}, info=info)


def _spelled_as(known: Collection[str], names: Iterable[str]) -> list[str]:
    """Return names as another file spells them, if they differ in letter case only."""
    names = list(names)
    as_known = {name.casefold(): name for name in known}

    found = [name if name in known else as_known.get(name.casefold(), name) for name in names]
    return found if len(set(found)) == len(found) else names
