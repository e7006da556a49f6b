"""``nemo:FILE`` as a MODEL: the file that it names, and where what was tuned for it is kept."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from asr.errors import AsrError, ConfigError
from asr.files import cache_folder

PREFIX = "nemo:"
#: characters of a file's name in the name of its folder of settings
_LONGEST = 96


def is_nemo(model: str | Path) -> bool:
    """Check whether a MODEL names a file of NeMo, there or not."""
    return str(model).startswith(PREFIX)


def parse(model: str | Path) -> Path:
    """Return the file that ``nemo:FILE`` names; it need not exist.

    >>> parse("nemo:models/a.nemo")
    PosixPath('models/a.nemo')

    Raises:
        ConfigError: none is named.
    """
    place = str(model).removeprefix(PREFIX)
    if not place:
        raise ConfigError(f"{model}: no file is named; expected {PREFIX}FILE, a .nemo file on this machine")
    try:
        return Path(place).expanduser()
    except RuntimeError:  # nobody of that name has a home folder
        return Path(place)


def settings_folder(model: str | Path) -> Path:
    """Return the folder of a model's ``decoder.json`` in this person's cache; it need not exist.

    It is named for the file and its place: two files of one name are two models.

    Raises:
        ConfigError: as ``parse``.
        AsrError: this person has no home folder.
    """
    place = parse(model).resolve()
    digest = hashlib.sha256(str(place).encode(errors="surrogateescape")).hexdigest()[:12]
    own = f"{re.sub(r'[^A-Za-z0-9._-]', '_', place.name)[:_LONGEST]}--at-{digest}"
    try:
        return cache_folder() / "nemo" / own
    except RuntimeError as error:
        raise AsrError("there is no home folder to keep a tuned decoder in; set XDG_CACHE_HOME") from error
