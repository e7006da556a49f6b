"""``prepared.json``: what a folder of prepared data says about itself.

It is written last, so that its presence means a finished preparation. Training takes the text normalisation from it,
and evaluation compares that with the model's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from asr import __version__
from asr.data.manifest import Utterance
from asr.data.text import AS_PREPARED, check_profile, has_digits
from asr.data.tokenizer import FILE as TOKENIZER_FILE
from asr.data.tokenizer import Tokenizer, find_tokenizer, read_tokenizer
from asr.errors import ConfigError, DataError, os_reason
from asr.files import write_json

log = logging.getLogger(__name__)

FILE = "prepared.json"
#: in its place while manifests are written: what it said of those that stay, and ``pending``, the files of the others
UNFINISHED = FILE + ".unfinished"


@dataclass(frozen=True)
class Header:
    """The facts of a preparation."""

    recipe: str
    title: str
    licence: str
    homepage: str
    #: the profile that the manifests' texts went through (``asr.data.text.NORMALIZATIONS``)
    normalization: str
    #: file name of the tokenizer that was trained with it, beside it; empty: characters
    tokenizer: str
    #: split -> ``utterances``, ``hours``, ``speakers`` (0: not known)
    splits: dict[str, dict[str, float | int]]
    #: utterances that were left out
    dropped: int
    #: utterances whose text holds digits: nobody can tell how they were read
    flagged_numbers: int
    asr_version: str = __version__

    def __post_init__(self) -> None:
        check_profile(self.normalization)


def split_facts(rows: Iterable[Utterance]) -> dict[str, float | int]:
    """What the header says of a split."""
    rows = list(rows)
    hours = sum(u.duration_s for u in rows) / 3600
    return {"utterances": len(rows), "hours": round(hours, 4), "speakers": len({u.speaker for u in rows} - {""})}


def count_with_digits(rows: Iterable[Utterance]) -> int:
    """Utterances whose text holds digits."""
    return sum(has_digits(u.text) for u in rows)


def read(folder: Path) -> Header | None:
    """The header of a data folder; None when the folder has none. Fields of later versions are not looked at.

    Raises:
        DataError: it is there, but damaged or foreign; or the preparation of the folder did not come to its end.
    """
    header = _read(folder / FILE)
    if header is None and (folder / UNFINISHED).exists():
        pending, rest = _pending(folder), _read(folder / UNFINISHED)
        if rest is not None and pending and not any((folder / name).exists() for name in pending):
            return rest  # what was begun is gone again; the others are as they were
        began = ", ".join(sorted(pending))
        raise DataError(
            f"the 'asr prepare' of {began or 'this folder'} did not finish; run it again, or remove this file to use "
            "the manifests as they are",
            folder / UNFINISHED,
        )
    return header


def corpus(folder: Path) -> str:
    """The title of the corpus in a data folder; empty where nothing says it."""
    try:
        header = read(folder)
    except DataError:
        return ""
    return header.title if header is not None else ""


def read_last(folder: Path) -> Header | None:
    """The header, or what ``set_aside`` kept of it before a preparation that did not come to its end.

    Raises:
        DataError: it is there, but damaged or foreign.
    """
    return _read(folder / FILE) or _read(folder / UNFINISHED)


def is_own(folder: Path, name: str) -> bool:
    """Whether a file of a data folder is a preparation's: its header names it, or one that did not finish began it."""
    try:
        last = read_last(folder)
    except DataError:  # damaged: there was one, and nobody knows of what
        return True
    begun = _begun(folder)
    if begun is not None and "pending" not in begun:  # of a version that did not write down which
        return True
    named = last is not None and (name == last.tokenizer or name.removesuffix(".jsonl") in last.splits)
    return named or name in _pending(folder)


def set_aside(folder: Path, splits: Iterable[str], tokenizer: bool = False) -> None:
    """Takes the header away, as some splits are to be written anew; what it says of the others waits for ``write``.

    A preparation that fails then leaves a folder that does not look whole, and the next one still knows the profile of
    the other splits, and which files are not whole.

    Args:
        tokenizer: it is to be written, too.
    """
    anew = set(splits)
    try:
        last, pending = read_last(folder), _pending(folder)
    except DataError:
        last, pending = None, set()
    pending |= {f"{name}.jsonl" for name in anew}
    if tokenizer or (last is not None and last.tokenizer == TOKENIZER_FILE):
        pending.add(TOKENIZER_FILE)
    old = {} if last is None else last.splits
    stay = {name: facts for name, facts in old.items() if name not in anew and (folder / f"{name}.jsonl").is_file()}
    kept = asdict(replace(last, splits=stay)) if last is not None and stay else {}
    write_json(folder / UNFINISHED, kept | {"pending": sorted(pending)})
    (folder / FILE).unlink(missing_ok=True)


def _pending(folder: Path) -> set[str]:
    """The files that a preparation began and did not finish."""
    return set(map(str, (_begun(folder) or {}).get("pending", [])))


def _begun(folder: Path) -> dict[str, Any] | None:
    """What stands in place of the header while a preparation is not finished; None where none is."""
    if (folder / FILE).exists():  # it did finish: only what was set aside could not be removed
        return None
    try:
        data = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("pending", []), list) else None


def _read(path: Path) -> Header | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"cannot read: {reason}", path) from error
    try:
        data = json.loads(text)
        begun = path.name == UNFINISHED and isinstance(data, dict) and set(data) <= {"pending"}
        return None if begun else _parse(data)
    except RecursionError:
        reason = "not valid JSON (nested too deeply)"
    except json.JSONDecodeError as error:
        reason = f"not valid JSON ({error})"
    except (ValueError, ConfigError) as error:
        reason = str(error)
    raise DataError(f"{reason}; prepare again, or remove it to use the manifests without it", path)


def _parse(data: Any) -> Header:
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, got {type(data).__name__}")
    kinds: dict[str, type] = {"splits": dict, "dropped": int, "flagged_numbers": int}
    values = {}
    for field in fields(Header):
        kind = kinds.get(field.name, str)
        if field.name not in data:
            raise ValueError(f"missing field '{field.name}'")
        value = values[field.name] = data[field.name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"'{field.name}' must be of type {kind.__name__}, got {value!r}")
    for name, facts in values["splits"].items():
        if not isinstance(facts, dict) or not all(type(v) in (int, float) for v in facts.values()):
            raise ValueError(f"split '{name}' must have numbers, got {facts!r}")
    if Path(values["tokenizer"]).name != values["tokenizer"]:
        raise ValueError(f"'tokenizer' must be the name of a file beside it, got {values['tokenizer']!r}")
    return Header(**values)


def write(folder: Path, header: Header) -> None:
    """Writes the header atomically; what was set aside is in it, or gone.

    While another manifest is there that a preparation did not finish, the folder stays unfinished, and that is said.

    Raises:
        DataError: it cannot be written.
    """
    whole = {f"{name}.jsonl" for name in header.splits}
    left = sorted(n for n in _pending(folder) - whole if n.endswith(".jsonl") and (folder / n).exists())
    try:
        if left:
            write_json(folder / UNFINISHED, asdict(header) | {"pending": left})
            log.warning(
                "%s: stays unfinished: the 'asr prepare' of %s did not finish; run that one again, or remove what it "
                "left", folder, ", ".join(left),
            )  # fmt: skip
            return
        write_json(folder / FILE, asdict(header))
        (folder / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", folder / FILE) from error


def resolve_normalization(configured: str, header: Header | None) -> str:
    """The profile to train with: the configured one, or for ``data`` that of the data folder's header.

    A configured profile that differs from the header's is applied on top of it, and said.
    """
    prepared = "none" if header is None else header.normalization
    if configured == AS_PREPARED:
        return prepared
    if configured != prepared != "none":
        log.warning(
            "text.normalization is %s, but the data were prepared with %s: it is applied on top of that "
            "(text.normalization=%s takes the data's own)", configured, prepared, AS_PREPARED,
        )  # fmt: skip
    return configured


def tokenizer_path(folder: Path, header: Header | None) -> Path | None:
    """Where the tokenizer of a data folder is: the one that the header names; without a header, the file that is there.

    None: its tokens are characters.
    """
    if header is not None:
        return folder / header.tokenizer if header.tokenizer else None
    return folder / TOKENIZER_FILE if (folder / TOKENIZER_FILE).exists() else None


def tokenizer_for(choice: str, folder: Path, header: Header | None, init: str | None = None) -> Tokenizer | None:
    """The tokenizer to train with on a data folder, as ``text.tokenizer`` asks for it; None: characters.

    Args:
        init: the model or run that training starts from, if any.

    Raises:
        CheckpointError: the header names one that is not there, or it is damaged.
        ConfigError: that of the first model is asked for, and there is none.
    """
    if choice == "char":
        return None
    if choice == "init":
        if init is None:
            raise ConfigError(
                "text.tokenizer is init, which needs a model: train.init, or --init MODEL of 'asr train'",
                key="text.tokenizer",
            )
        if not Path(init).is_dir():
            raise ConfigError(f"train.init: {init}: no such model folder or run folder", key="train.init")
        return read_tokenizer(find_tokenizer(Path(init)))
    path = tokenizer_path(folder, header)
    if path is None and (folder / TOKENIZER_FILE).exists():
        where = folder / TOKENIZER_FILE
        log.warning("%s: not used, as %s names no tokenizer; to train with it, write its name there", where, FILE)
    return read_tokenizer(path) if path is not None else None
