"""Mirrors: another host with the same paths, or a folder."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from asr.download.address import without_login
from asr.download.remote import Remote, verify
from asr.errors import DataError, nearest


def mirrored(url: str, mirror: str) -> str:
    """Return the URL under a mirror: the host's name is replaced, its path stays.

    >>> mirrored("https://www.openslr.org/resources/12/dev-clean.tar.gz", "http://127.0.0.1:8000/")
    'http://127.0.0.1:8000/resources/12/dev-clean.tar.gz'
    """
    return mirror.rstrip("/") + urlsplit(url).path


def mirror_folder(mirror: str) -> Path | None:
    """Return the folder of a ``file:`` mirror, or None for a host.

    Raises:
        DataError: neither http, https nor file, or the folder is not there.
    """
    expected = "expected http://…, https://… or file:///FOLDER"
    try:
        parts = urlsplit(mirror)
    except ValueError as error:
        raise DataError(f"--mirror '{without_login(mirror)}': no URL; {expected}") from error

    is_url = parts.scheme not in ("", "file") and not Path(mirror).is_dir()
    if is_url and "@" in parts.path + parts.query + parts.fragment:  # perhaps of a password, which is not shown
        raise DataError(f"--mirror: {expected}; '/', '?', '#', '@' in a password or path are %2F, %3F, %23, %40")
    if not mirror or parts.scheme in ("http", "https"):
        return None

    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        folder = Path(urllib.request.url2pathname(parts.path))
    elif not parts.scheme or Path(mirror).is_dir():
        folder = Path(mirror)
    else:
        raise DataError(f"--mirror '{without_login(mirror)}': {expected}")
    if not folder.is_dir():
        raise DataError(f"--mirror '{mirror}': no folder {folder}; {expected}")
    return folder


def find_in_folder(remote: Remote, mirror: Path) -> tuple[Path, str]:
    """Return the file in a mirror that is a folder, checked, and its SHA-256; nothing is copied.

    Raises:
        DataError: it is not there, or not the published file.
    """
    path = mirror / urllib.request.url2pathname(urlsplit(remote.url).path).lstrip("/")
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*") if p.is_file()) if path.parent.is_dir() else []
        listing = f"{nearest(path.name, there)} (the mirror has {', '.join(there[:10])})" if there else ""
        raise DataError(f"not in the mirror{listing}", path)
    return path, verify(path, remote)
