"""``prepared.json``: the header of a data folder, which describes its manifests.

``asr prepare`` writes the header last, so a folder that has one is whole. Training takes the text normalisation and
the tokenizer from it, and evaluation compares them with the model's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from asr import __version__
from asr.data.extension import extended
from asr.data.manifest import Utterance
from asr.data.text import AS_PREPARED, check_profile, has_digits
from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import FILE as TOKENIZER_FILE
from asr.data.tokenizer_file import find_tokenizer, read_tokenizer
from asr.errors import ConfigError, DataError, os_reason
from asr.files import read_small, write_json

log = logging.getLogger(__name__)

FILE = "prepared.json"
#: the header that is to come, while the files of the folder are being written
UNFINISHED = FILE + ".unfinished"


@dataclass(frozen=True)
class Header:
    """The facts of a preparation."""

    recipe: str
    title: str
    licence: str
    homepage: str
    #: the profile of the texts in the manifests (``asr.data.text.NORMALIZATIONS``)
    normalization: str
    #: file name of the tokenizer that was trained with the folder, beside it; empty: characters
    tokenizer: str
    #: by split: ``utterances``, ``hours``, ``speakers`` (0: not known), ``with_digits``
    splits: dict[str, dict[str, float | int]]
    #: utterances that were left out
    dropped: int
    #: utterances whose text holds digits, which do not show how the number was spoken
    flagged_numbers: int
    #: SHA-256 of the archives that the folder was made of, by name
    archives: dict[str, str] = field(default_factory=dict)
    asr_version: str = __version__

    def __post_init__(self) -> None:
        check_profile(self.normalization)
        # a path out of the folder would let a foreign header read any file
        if Path(self.tokenizer).name != self.tokenizer:
            raise ConfigError(f"'tokenizer' must be the name of a file beside it, got {self.tokenizer!r}")


_HEADER = TypeAdapter(Header)


def split_facts(rows: Iterable[Utterance]) -> dict[str, float | int]:
    """Return the facts of a split for the header."""
    rows = list(rows)
    hours = sum(u.duration_s for u in rows) / 3600
    speakers = {u.speaker for u in rows if u.speaker}
    return {
        "utterances": len(rows),
        "hours": round(hours, 4),
        "speakers": len(speakers),
        "with_digits": count_with_digits(rows),
    }


def count_with_digits(rows: Iterable[Utterance]) -> int:
    """Count the utterances whose text holds digits."""
    return sum(has_digits(u.text) for u in rows)


def read(folder: Path) -> Header | None:
    """Return the header of a data folder, or None if it has none. Fields of later versions are ignored.

    Raises:
        DataError: the header is damaged or foreign, or the last preparation of the folder did not finish.
    """
    header = _read(folder / FILE)
    if header is None and (folder / UNFINISHED).exists():
        raise DataError(
            "the last 'asr prepare' of this folder did not finish; run it again, or remove this file to use the "
            "manifests as they are",
            folder / UNFINISHED,
        )
    return header


def read_unfinished(folder: Path) -> Header | None:
    """Return the header, or the one that an interrupted preparation was about to write.

    Raises:
        DataError: it is damaged or foreign.
    """
    return _read(folder / FILE) or _read(folder / UNFINISHED)


def is_own(folder: Path, name: str) -> bool:
    """Check whether ``asr prepare`` made a file of a data folder, by the header that names it."""
    try:
        header = read_unfinished(folder)
    except DataError:
        return True  # there was a preparation, and nothing tells of which files
    return header is not None and (name == header.tokenizer or name.removesuffix(".jsonl") in header.splits)


def corpus_title(folder: Path) -> str:
    """Return the title of the corpus in a data folder, or an empty string if there is none."""
    try:
        header = read(folder)
    except DataError:
        return ""
    return header.title if header is not None else ""


def _read(path: Path) -> Header | None:
    try:
        content = read_small(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot read: {os_reason(error)}", path) from error

    try:
        return _HEADER.validate_json(content, strict=True)
    except ConfigError as error:
        reason = str(error)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
    raise DataError(f"{reason}; prepare again, or remove it to use the manifests without it", path)


def begin(folder: Path, header: Header, replaced: Iterable[str]) -> None:
    """Mark a folder as unfinished, and remove the files that are about to be written.

    From here until ``write``, the header that is to come stands under another name. It describes every file that is
    there: those that stay, and those that were written already. A preparation that is killed in between is noticed by
    ``read``, and the next one still knows which files are its own, and their profile.

    Raises:
        OSError: the folder cannot be written.
    """
    write_json(folder / UNFINISHED, asdict(header))
    (folder / FILE).unlink(missing_ok=True)
    for name in replaced:
        (folder / name).unlink(missing_ok=True)


def write(folder: Path, header: Header) -> None:
    """Write the header atomically; the folder is whole from here on.

    Raises:
        DataError: it cannot be written.
    """
    try:
        write_json(folder / FILE, asdict(header))
        (folder / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", folder / FILE) from error


def resolve_normalization(configured: str, header: Header | None) -> str:
    """Return the profile to train with: the configured one, or that of the header if ``data`` is configured.

    A configured profile that differs from the header's is applied on top of it, and a warning is logged.
    """
    prepared = "none" if header is None else header.normalization
    if configured == AS_PREPARED:
        return prepared
    if configured != prepared != "none":
        log.warning(
            "text.normalization is %s, but the data were prepared with %s: it is applied on top of that "
            "(text.normalization=%s takes the data's own)",
            configured,
            prepared,
            AS_PREPARED,
        )

    return configured


def tokenizer_path(folder: Path, header: Header | None) -> Path | None:
    """Return the tokenizer file that the header names, or that is there if there is no header; None: characters."""
    if header is not None:
        return folder / header.tokenizer if header.tokenizer else None
    path = folder / TOKENIZER_FILE
    return path if path.exists() else None


def tokenizer_of(init: str) -> Tokenizer:
    """Return the tokenizer of a model or run in a folder.

    Raises:
        CheckpointError: it has none, or a damaged one.
        ConfigError: there is no such folder.
    """
    if not Path(init).is_dir():
        raise ConfigError(f"train.init: {init}: no such model folder or run folder", key="train.init")
    return read_tokenizer(find_tokenizer(Path(init)))


def tokenizer_for(
    choice: str,
    folder: Path,
    header: Header | None,
    init: str | None = None,
    texts: Iterable[str] = (),
    read_init: Callable[[str], Tokenizer] = tokenizer_of,
) -> Tokenizer | None:
    """Return the tokenizer to train with on a data folder, as ``text.tokenizer`` asks for it; None: characters.

    Args:
        init: the model or run that training starts from, if any.
        texts: of the training set, normalised: ``init+`` adds tokens for them.
        read_init: reads its tokenizer.

    Raises:
        CheckpointError: the header names one that is not there, or it is damaged.
        ConfigError: the tokenizer of ``init`` is asked for, and there is none, or it takes no new tokens.
    """
    if choice == "char":
        return None

    if choice in ("init", "init+"):
        if init is None:
            raise ConfigError(
                f"text.tokenizer is {choice}, which needs a model: train.init, or --init MODEL of 'asr train'",
                key="text.tokenizer",
            )
        tokenizer = read_init(init)
        return extended(tokenizer, texts) if choice == "init+" else tokenizer

    path = tokenizer_path(folder, header)
    if path is not None:
        return read_tokenizer(path)
    unused = folder / TOKENIZER_FILE
    if unused.exists():
        log.warning("%s: not used, as %s names no tokenizer; to train with it, write its name there", unused, FILE)
    return None
