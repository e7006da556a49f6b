"""Files from a corpus's host: resumed after a broken connection, checked, and whole or not there.

A download grows under ``<name>.part`` and takes its name when its size and checksum are right. What the part is of
(URL, ETag, date, size) stands in ``<name>.part.json``, so that a later run goes on only with the same file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asr import __version__
from asr.download.remote import (
    BLOCK,
    Remote,
    byte_bar,
    check_gzip,
    check_space,
    digest_file,
    gigabytes,
    mirrored,
    verify,
)
from asr.errors import AsrError, DataError, nearest, os_reason
from asr.files import write_json

if sys.platform != "win32":  # there, two processes that download one file are not prevented
    import fcntl

log = logging.getLogger(__name__)

#: answers that may be another a little later: RFC 9110 (408, 5xx), RFC 6585 (429)
_BUSY = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """How long a host is waited for.

    Units: seconds. A pause doubles from ``pause_s`` to ``longest_pause_s``.
    """

    timeout_s: float = 60.0
    #: tries in a row that bring no byte. Before the first byte only a busy host is asked again, so that a dead link is
    #: told at once; after it more patience, so that a router's restart does not end a night's download
    tries_at_first: int = 3
    tries: int = 10
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


class _Broken(Exception):
    """A connection or an answer that failed.

    Args:
        final: another try cannot help.
        unreachable: there was no answer at all.
        wait_s: how long the host asks to be left alone.
    """

    def __init__(self, reason: str, final: bool = False, unreachable: bool = False, wait_s: float = 0.0) -> None:
        self.reason, self.final, self.unreachable, self.wait_s = reason, final, unreachable, wait_s
        super().__init__(reason)


def fetch(remote: Remote, folder: Path, mirror: str = "", remedy: str = "", patience: Patience | None = None) -> Path:
    """The file, whole and checked: in ``folder``, or where it lies when the mirror is a folder (nothing is copied).

    Args:
        mirror: URL that takes the place of the host; the path behind it stays.
        remedy: what a person can do when no host has it, for the error.

    Raises:
        DataError: no host has it or can be reached, it is not the published file, or the disk is full.
    """
    local = mirror_folder(mirror)
    if local is not None:
        return _from_folder(remote, local)
    target = folder / remote.name
    with _disk_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
    urls = (mirrored(remote.url, mirror),) if mirror else (remote.url, *remote.copies)
    failures: list[_Broken] = []
    with _only_one(folder):
        if target.is_file():
            try:
                verify(target, remote)
                return target
            except DataError as error:
                log.warning("%s: fetched again", error)
                target.unlink()
        for url in urls:
            try:
                _download(url, remote, target, patience or Patience())
                return target
            except _Broken as error:
                failures.append(error)
                if url != urls[-1]:
                    level = logging.DEBUG if error.unreachable else logging.WARNING
                    log.log(level, "%s: %s; trying the next host", url, error.reason)
    if all(error.unreachable for error in failures):
        others = ", ".join(urlsplit(url).netloc for url in urls[1:])
        reason = f"{urls[0]}: {failures[0].reason}{f', nor can {others}' if others else ''}; check the network"
    else:
        reason = "; ".join(f"{url}: {error.reason}" for url, error in zip(urls, failures, strict=True))
    if have := _bytes_here(target):
        reason += f"; {gigabytes(have)} are kept: run again to go on"
    raise DataError(f"{reason}; {remedy or 'give --mirror URL or --archive FILE'}")


def mirror_folder(mirror: str) -> Path | None:
    """The folder of a ``file:`` mirror, None for a host.

    Raises:
        DataError: neither http, https nor file, or the folder is not there.
    """
    try:
        parts = urlsplit(mirror)
    except ValueError as error:
        raise DataError(
            f"--mirror '{mirror}': no URL ({error}); expected http://…, https://… or file:///FOLDER"
        ) from error
    if not mirror or parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        folder = Path(urllib.request.url2pathname(parts.path))
    elif not parts.scheme or Path(mirror).is_dir():
        folder = Path(mirror)
    else:
        raise DataError(f"--mirror '{mirror}': expected http://…, https://… or file:///FOLDER")
    if not folder.is_dir():
        raise DataError(f"--mirror '{mirror}': no folder {folder}; expected http://…, https://… or file:///FOLDER")
    return folder


def _download(url: str, remote: Remote, target: Path, patience: Patience) -> None:
    """Brings a file to ``target``, over as many connections as it takes.

    Raises:
        _Broken: this host cannot or does not give it.
    """
    received, failures, again = False, 0, False
    while True:
        before = _bytes_here(target)
        try:
            digest = _one_connection(url, remote, target, patience.timeout_s)
        except _Broken as error:
            came = _bytes_here(target) > before
            received = received or came
            failures = 1 if came else failures + 1
            if error.final or failures >= (patience.tries if received else patience.tries_at_first):
                raise
            if error.unreachable and not received:
                raise
            pause_s = max(error.wait_s, min(patience.longest_pause_s, patience.pause_s * 2 ** (failures - 1)))
            log.warning("%s: %s; next try in %.0f s", url, error.reason, pause_s)
            time.sleep(pause_s)
            continue
        if digest in ("", remote.md5):
            break
        _forget_part(target)
        if not before or again:
            raise _Broken(
                f"MD5 {digest}, expected {remote.md5}: damaged, or not the published file; nothing of it is kept",
                final=True,
            )
        # What was there before may have been of another file: the second time everything comes over one connection.
        log.warning("%s: wrong MD5 after it was resumed; starting again", url)
        again = True
    if not remote.md5 and target.name.endswith(".gz") and not target.name.endswith(".tar.gz"):
        try:
            check_gzip(_part(target))
        except DataError as error:
            _forget_part(target)
            raise _Broken(f"{error}; nothing of it is kept", final=True) from error
    _part(target).replace(target)
    _forget_part(target)


def _one_connection(url: str, remote: Remote, target: Path, timeout_s: float) -> str:
    """Receives what one connection gives; the MD5 when the file is whole and one is expected, else an empty string.

    Raises:
        _Broken: it ended early, or the answer is not the file.
    """
    part, state, have = _part(target), _read_state(target), _bytes_here(target)
    digest = hashlib.md5(usedforsecurity=False)
    if have and have == state.get("size") and state.get("url") == url:  # killed after the last byte
        if remote.md5:
            digest_file(part, digest, f"checking {remote.name}")
        return digest.hexdigest() if remote.md5 else ""
    same = _validator(state) if state.get("url") == url else ""
    if have and not (remote.md5 or same):
        log.warning("%s: nothing says that it is the file of which %s are here; starting again", url, gigabytes(have))
        have = 0
    headers = {"User-Agent": f"asr-ctc/{__version__}", "Accept-Encoding": "identity"}
    if have:
        log.info("%s: going on after %s", url, gigabytes(have))
        headers["Range"] = f"bytes={have}-"
        if same:
            headers["If-Range"] = same
    with _answer(url, headers, timeout_s, target) as answer:
        start, total = _extent(answer, have)
        if have and not start:
            log.warning("%s: the host sends the whole file (no ranges, or it has changed); starting again", url)
        etag = answer.headers.get("ETag", "")
        if start and ((same and etag and etag != state.get("etag")) or total not in (0, state.get("size") or total)):
            _forget_part(target)
            raise _Broken("the file has changed since the download began; starting again")
        _check_answer(answer, remote, total)
        check_space(target.parent, max(0, (total or remote.size) - start), f"{remote.name} needs another")
        with _disk_errors(target):
            date = answer.headers.get("Last-Modified", "")
            write_json(_state(target), {"url": url, "size": total, "etag": etag, "date": date})
        if start and remote.md5:
            digest_file(part, digest, f"checking what is here of {remote.name}")
        count = _receive(answer, part, start, total, digest, target)
    expected = total or remote.size
    if count < expected:
        raise _Broken(f"the connection ended after {count:,} of {expected:,} bytes")
    if expected and count > expected:
        _forget_part(target)
        raise _Broken(f"{count:,} bytes, expected {expected:,}: not the published file", final=True)
    return digest.hexdigest() if remote.md5 else ""


def _receive(answer: HTTPResponse, part: Path, start: int, total: int, digest: Any, target: Path) -> int:
    """Writes an answer's bytes behind the first ``start`` of the part; how many the part has then."""
    count = start
    with _disk_errors(target), part.open("ab" if start else "wb") as file, byte_bar(part.stem, total, start) as bar:
        while True:
            try:
                block = answer.read1(BLOCK)
            except (OSError, HTTPException) as error:
                raise _Broken(f"the connection broke after {count:,} bytes ({_why(error)})") from error
            if not block:
                break
            file.write(block)
            digest.update(block)
            count += len(block)
            bar(count)
        file.flush()
        os.fsync(file.fileno())
    return count


@contextmanager
def _answer(url: str, headers: dict[str, str], timeout_s: float, target: Path) -> Iterator[HTTPResponse]:
    """The answer to a request, whose code is 200 or 206.

    Raises:
        _Broken: there is none, or another code.
    """
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # range not satisfiable: what is here is no beginning of that file
                _forget_part(target)
                raise _Broken("the host has no more bytes than are here, of another file; starting again") from error
            wait = error.headers.get("Retry-After", "")
            wait_s = min(60.0, float(wait)) if wait.isdigit() else 0.0
            raise _Broken(f"HTTP {error.code} {error.reason}", error.code not in _BUSY, wait_s=wait_s) from error
    except ValueError as error:
        raise _Broken(f"not a URL ({error})", final=True) from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _Broken(f"cannot be reached ({_why(reason)})", unreachable=True) from error
    with answer:
        if answer.status not in (200, 206):
            raise _Broken(f"HTTP {answer.status} {answer.reason}", final=True)
        yield answer


def _extent(answer: HTTPResponse, have: int) -> tuple[int, int]:
    """Where an answer's bytes begin in the file, and the file's size (0: the host does not say)."""
    if answer.status == 206:
        unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
        span, _, size = rest.partition("/")
        start = span.partition("-")[0]
        if unit != "bytes" or start != str(have):
            raise _Broken(f"the host answers with bytes {rest or '?'}, asked was for {have}-", final=True)
        return have, int(size) if size.isdigit() else 0
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else 0


def _check_answer(answer: HTTPResponse, remote: Remote, total: int) -> None:
    kind = answer.headers.get_content_type()
    if kind == "text/html" and not remote.name.endswith((".html", ".htm")):
        raise _Broken(
            "the answer is a web page, not the file (a log-in, or a page that says it has moved?)", final=True
        )
    if remote.size and total and total != remote.size:
        raise _Broken(f"{total:,} bytes, expected {remote.size:,}: not the published file", final=True)


def _from_folder(remote: Remote, mirror: Path) -> Path:
    path = mirror / urllib.request.url2pathname(urlsplit(remote.url).path).lstrip("/")
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*") if p.is_file()) if path.parent.is_dir() else []
        listing = f"{nearest(path.name, there)} (the mirror has {', '.join(there[:10])})" if there else ""
        raise DataError(f"not in the mirror{listing}", path)
    verify(path, remote)
    return path


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Holds a download folder alone: two processes that append to one part would spoil it."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AsrError(f"{folder}: another process is downloading there; wait for it, or stop it") from error
        except OSError:
            log.debug("%s: a file system without locks", folder)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the download: {os_reason(error)}; what is here is kept, run again to go on", target
        ) from error


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _state(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _bytes_here(target: Path) -> int:
    return _part(target).stat().st_size if _part(target).is_file() else 0


def _forget_part(target: Path) -> None:
    _part(target).unlink(missing_ok=True)
    _state(target).unlink(missing_ok=True)


def _read_state(target: Path) -> dict[str, Any]:
    try:
        state = json.loads(_state(target).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _validator(state: dict[str, Any]) -> str:
    """What If-Range takes: a strong ETag, or else the date (RFC 9110, 13.1.5)."""
    etag = str(state.get("etag") or "")
    return etag if etag and not etag.startswith("W/") else str(state.get("date") or "")


def _why(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return os_reason(error)
    return str(error) or type(error).__name__
