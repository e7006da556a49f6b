"""Hold the server's limits, keys and allowed origins. Plain values."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from asr.errors import ConfigError, DataError, os_reason
from asr.files import read_small

#: characters of an API key, at least: shorter ones can be guessed
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Settings:
    """Hold what an operator decides.

    Units: ``max_upload`` is in bytes.
    """

    #: the address that the server listens at
    host: str = "127.0.0.1"
    #: accepted API keys; none: whoever reaches the server may use it
    keys: tuple[str, ...] = field(default=(), repr=False)
    #: origins of pages elsewhere that may use the server, as browsers send them: https://example.org
    origins: tuple[str, ...] = ()
    #: the body of a request
    max_upload: int = 100 << 20
    #: the audio of a request, once it is decoded
    max_audio_s: float = 4 * 3600.0
    #: requests under way, live streams included
    max_clients: int = 128
    #: live streams
    max_streams: int = 64
    #: requests that wait for a model
    max_waiting: int = 64
    #: how long a client may send nothing in the middle of a request
    patience_s: float = 30.0
    #: how long requests under way may take once the server was asked to stop
    grace_s: float = 30.0

    @property
    def is_local(self) -> bool:
        """Return true if only programs on this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Check whether a name or address is this machine's own.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def origin(text: str) -> str:
    """Return an origin as browsers send it.

    >>> origin("HTTPS://Example.org/")
    'https://example.org'

    Raises:
        ConfigError: it is none.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query:
        raise ConfigError(f"--origin {text}: expected a page's address without a path, such as https://example.org")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def read_keys(path: Path) -> tuple[str, ...]:
    """Return the API keys in a file: one per line; blank lines and lines that begin with ``#`` are left out.

    Raises:
        DataError: the file cannot be read, or holds no key.
        ConfigError: a key is too short, or is not plain ASCII, which headers need. It is not shown.
    """
    try:
        content = read_small(path)
    except OSError as error:
        raise DataError(f"cannot read the keys: {os_reason(error)}", path) from error
    keys: list[str] = []
    for number, line in enumerate(content.splitlines(), start=1):
        key = line.decode("latin-1").strip()
        if not key or key.startswith("#"):
            continue
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(f"{path}:{number}: a key is of letters, digits and signs of ASCII, without spaces")
        if len(key) < _SHORTEST_KEY:
            raise ConfigError(
                f"{path}:{number}: the key has {len(key)} characters; expected at least {_SHORTEST_KEY} "
                "(python -c 'import secrets; print(secrets.token_urlsafe())' makes one)"
            )
        keys.append(key)
    if not keys:
        raise DataError("holds no key: write one per line", path)
    return tuple(dict.fromkeys(keys))
