"""``decoder.json``: the decoder settings that were tuned for a model, kept in its folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from asr.config import Stage, parse
from asr.decode.settings import BeamConfig
from asr.errors import CheckpointError, ConfigError, os_reason
from asr.files import open_regular, read_json, write_json

if TYPE_CHECKING:
    from asr.lm.model import NgramModel

log = logging.getLogger(__name__)

FILE = "decoder.json"
FORMAT_VERSION = 1
#: the language models beside it: an n-gram model in binary form, and the folder of a neural model
LM, NEURAL_LM = "lm.bin", "neural-lm"


class Rescore(Stage):
    """A neural language model over the best texts of a beam search, and its weights."""

    #: the model's folder: relative to the acoustic model's, into which tuning copies it; or absolute
    model: str
    #: the size of its weights' file when they were tuned: another one is another model
    model_bytes: int | None = None
    #: how many of the best texts it looks at
    nbest: int = Field(100, ge=2, le=10_000)
    #: of the model's log-probability of the text
    weight: float = Field(0.5, ge=0, le=10)
    #: added for each word, on top of the beam search's beta
    word_bonus: float = Field(0.0, ge=-100, le=100)
    #: of what the beam search's language model, word bonus and hotwords say of the text
    lm_scale: float = Field(1.0, ge=0, le=10)


class Tuned(Stage):
    """The content of ``decoder.json``."""

    format_version: int = FORMAT_VERSION
    config: BeamConfig
    #: the language model's file: relative to the model folder, into which tuning writes it; or absolute; null: none
    lm: str | None = None
    #: its size when the weights were tuned: another one is another model
    lm_bytes: int | None = None
    #: a file with the only words of the language model that count as known, one per line: relative to the model folder,
    #: or absolute; null: all do
    lm_words: str | None = None
    rescore: Rescore | None = None
    #: what is known of the tuning: manifest, utterances, WER; nothing in it is needed to decode
    tuning: dict[str, Any] = Field(default_factory=dict)


def keep_lm(folder: Path, model: NgramModel, path: Path) -> tuple[str, int]:
    """Write a language model into a model folder, so that the folder is whole wherever it goes.

    Returns its place there and its size in bytes. A file that is in the folder already stays as it is.

    Raises:
        AsrError: it cannot be written.
    """
    from asr.lm.binary import save_binary
    from asr.lm.model import HashedModel

    place, own = path.resolve(), folder.resolve()
    if not place.is_relative_to(own):
        place = own / LM
        if isinstance(model, HashedModel):  # its n-grams cannot be listed
            _copy(path, place)
        else:
            save_binary(model, place)
    return str(place.relative_to(own)), place.stat().st_size


def _copy(source: Path, target: Path) -> None:
    from asr.lm.files import reading, writing

    with reading(source), open_regular(source) as file, writing(target) as copy:
        shutil.copyfileobj(file, copy)


def write_tuned(folder: Path, tuned: Tuned) -> Path:
    """Write the settings into a model folder, and return the file's path.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = folder / FILE
    try:
        write_json(path, tuned.model_dump(mode="json"))
    except OSError as error:
        raise CheckpointError(f"cannot write: {os_reason(error)}", path) from error

    return path


def read_tuned(folder: Path) -> Tuned | None:
    """Return the settings in a model folder, or ``None`` if it was never tuned.

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    path = folder / FILE
    try:
        data = read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except ValueError as error:
        raise CheckpointError(f"not valid JSON ({error}); run asr tune again", path) from error
    if isinstance(data, dict) and data.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise CheckpointError(
            f"format_version {data['format_version']!r}, this version reads {FORMAT_VERSION}; run asr tune again", path
        )
    try:
        return parse(Tuned, data, FILE)
    except ConfigError as error:
        raise CheckpointError(f"{error}; run asr tune again", path) from error


def lm_path(folder: Path, tuned: Tuned) -> Path | None:
    """Return the path of the language model of tuned settings.

    Raises:
        CheckpointError: it is gone; a decoder without it would give other texts than were measured.
    """
    if tuned.lm is None:
        return None
    path = folder / tuned.lm
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:  # a name that no file system takes
        size = None
    if size is None:
        raise CheckpointError(
            f"the settings were tuned with the language model {path}, which is not there; "
            "give its new place with --lm, or use --decoder greedy",
            folder / FILE,
        )

    if size != tuned.lm_bytes:
        log.warning(
            "%s: %s had %s bytes when the weights were tuned and has %d now: tune again",
            folder / FILE,
            path,
            tuned.lm_bytes,
            size,
        )

    return path
