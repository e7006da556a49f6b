"""Downloads from a corpus's host: resumed after a broken connection, checked, and whole or not there.

A download grows under ``<name>.part`` and takes its name when its size and checksum are right. ``<name>.part.json``
records what the part is of (URL, ETag, date, size), so that a later run resumes it only with the same file.
"""

from __future__ import annotations

import hashlib
import logging
import os
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
from asr.download.mirror import find_in_folder, mirror_folder, mirrored
from asr.download.remote import (
    BLOCK,
    Remote,
    byte_bar,
    check_gzip,
    check_space,
    digest_file,
    gigabytes,
    verify,
)
from asr.errors import DataError, os_reason
from asr.files import held, read_record, write_json

log = logging.getLogger(__name__)

#: answers that may be another a little later: RFC 9110 (408, 5xx), RFC 6585 (429)
_BUSY = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """Limits of waiting for a host.

    Units: seconds. A pause doubles from ``pause_s`` to ``longest_pause_s``.
    """

    timeout_s: float = 60.0
    #: tries in a row that bring no byte. Before the first byte only a busy host is asked again, so that a dead link is
    #: reported at once; after it more patience, so that a router's restart does not end a night's download
    tries_at_first: int = 3
    tries: int = 10
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


@dataclass(eq=False)
class _Broken(Exception):
    """A connection or an answer that failed."""

    reason: str
    #: another try cannot help
    final: bool = False
    #: there was no answer at all
    unreachable: bool = False
    #: how long the host asks to be left alone
    wait_s: float = 0.0


def fetch(remote: Remote, folder: Path, mirror: str = "", remedy: str = "", patience: Patience | None = None) -> Path:
    """Return the file, whole and checked: in ``folder``, or where it lies if the mirror is a folder.

    Args:
        mirror: URL that takes the place of the host; the path behind it stays.
        remedy: what a person can do if no host has it, for the error.

    Raises:
        DataError: no host has it or can be reached, it is not the published file, or the disk is full.
    """
    local = mirror_folder(mirror)
    if local is not None:
        return find_in_folder(remote, local)

    target = folder / remote.name
    with _disk_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
    urls = (mirrored(remote.url, mirror),) if mirror else (remote.url, *remote.copies)
    failures: list[_Broken] = []

    with held(folder, f"{folder}: another process is downloading there; wait for it, or stop it"):
        if target.is_file():
            try:
                verify(target, remote)
                return target
            except DataError as error:
                log.warning("%s: fetched again", error)
                target.unlink()

        for url in urls:
            try:
                _Download(url, remote, target).run(patience or Patience())
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
    if have := _Download(urls[0], remote, target).bytes_here():
        reason += f"; {gigabytes(have)} are kept: run again to go on"
    raise DataError(f"{reason}; {remedy or 'give --mirror URL or --archive FILE'}")


class _Download:
    """A file that comes from one URL, over as many connections as it takes."""

    def __init__(self, url: str, remote: Remote, target: Path) -> None:
        self.url = url
        self.remote = remote
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self.state = target.with_name(target.name + ".part.json")
        #: a part that was there has become part of the file
        self.is_resumed = False

    def bytes_here(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def run(self, patience: Patience) -> None:
        """Bring the file to its name.

        Raises:
            _Broken: this host cannot or does not give it.
        """
        digest = self._receive_all(patience)
        if self.is_resumed and digest not in ("", self.remote.md5):
            # the part may have been of another file: the second time everything comes anew
            log.warning("%s: wrong MD5 after it was resumed; starting again", self.url)
            self.forget()
            digest = self._receive_all(patience)

        problem = ""
        if digest not in ("", self.remote.md5):
            problem = f"MD5 {digest}, expected {self.remote.md5}: damaged, or not the published file"
        elif not self.remote.md5:
            try:
                check_gzip(self.part, self.target.name)
            except DataError as error:
                problem = str(error)

        if problem:
            self.forget()
            raise _Broken(f"{problem}; nothing of it is kept", final=True)

        self.part.replace(self.target)
        self.forget()

    def _receive_all(self, patience: Patience) -> str:
        """Receive the whole file, with pauses between connections; return its MD5 if one is expected."""
        has_received = False
        failures = 0
        while True:
            before = self.bytes_here()
            try:
                return self._receive_some(patience.timeout_s)
            except _Broken as error:
                is_progress = self.bytes_here() > before
                has_received = has_received or is_progress
                failures = 1 if is_progress else failures + 1
                tries = patience.tries if has_received else patience.tries_at_first
                if error.final or failures >= tries or (error.unreachable and not has_received):
                    raise
                pause_s = min(patience.longest_pause_s, patience.pause_s * 2 ** (failures - 1))
                pause_s = max(error.wait_s, pause_s)
                log.warning("%s: %s; next try in %.0f s", self.url, error.reason, pause_s)
                time.sleep(pause_s)

    def _receive_some(self, timeout_s: float) -> str:
        """Receive what one connection gives; return the MD5 if the file is whole and one is expected."""
        state = read_record(self.state)
        if state.get("url") != self.url:
            state = {}
        have = self.bytes_here()
        digest = hashlib.md5(usedforsecurity=False)
        if have and have == state.get("size"):  # killed after the last byte
            self.is_resumed = True
            return self._digest_of_part(digest, f"checking {self.remote.name}")

        validator = _validator(state)
        if have and not (self.remote.md5 or validator):
            log.warning(
                "%s: nothing says that it is the file of which %s are here; starting again", self.url, gigabytes(have)
            )
            have = 0

        headers = {"User-Agent": f"asr-ctc/{__version__}", "Accept-Encoding": "identity"}
        if have:
            log.info("%s: going on after %s", self.url, gigabytes(have))
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator

        with self._answer(headers, timeout_s) as answer:
            start, total = _extent(answer, have)
            if have and not start:
                log.warning(
                    "%s: the host sends the whole file (no ranges, or it has changed); starting again", self.url
                )
            self._check_answer(answer, start, total, state)
            if start:
                self.is_resumed = True
                self._digest_of_part(digest, f"checking what is here of {self.remote.name}")
            count = self._write_part(answer, start, total, digest)

        expected = total or self.remote.size
        if count < expected:
            raise _Broken(f"the connection ended after {count:,} of {expected:,} bytes")
        if expected and count > expected:
            self.forget()
            raise _Broken(f"{count:,} bytes, expected {expected:,}: not the published file", final=True)

        return digest.hexdigest() if self.remote.md5 else ""

    def _digest_of_part(self, digest: Any, what: str) -> str:
        if not self.remote.md5:
            return ""
        digest_file(self.part, digest, what)
        return str(digest.hexdigest())

    @contextmanager
    def _answer(self, headers: dict[str, str], timeout_s: float) -> Iterator[HTTPResponse]:
        """Yield the answer to a request, whose code is 200 or 206."""
        try:
            answer = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:  # range not satisfiable: what is here is no beginning of that file
                    self.forget()
                    reason = "the host has no more bytes than are here, of another file; starting again"
                    raise _Broken(reason) from error
                wait = error.headers.get("Retry-After", "")
                wait_s = min(60.0, float(wait)) if wait.isdigit() else 0.0
                raise _Broken(f"HTTP {error.code} {error.reason}", error.code not in _BUSY, wait_s=wait_s) from error
        except ValueError as error:
            raise _Broken(f"not a URL ({error})", final=True) from error
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _Broken(f"cannot be reached ({_why(cause)})", unreachable=True) from error

        with answer:
            if answer.status not in (200, 206):
                raise _Broken(f"HTTP {answer.status} {answer.reason}", final=True)
            yield answer

    def _check_answer(self, answer: HTTPResponse, start: int, total: int, state: dict[str, Any]) -> None:
        """Refuse an answer that is not the file, or that does not fit on the disk; record what the part is of."""
        etag = answer.headers.get("ETag", "")
        is_changed = bool(_validator(state) and etag and etag != state.get("etag"))
        if start and (is_changed or total not in (0, state.get("size") or total)):
            self.forget()
            raise _Broken("the file has changed since the download began; starting again")

        remote = self.remote
        is_page = answer.headers.get_content_type() == "text/html"
        if is_page and not remote.name.endswith((".html", ".htm")):
            reason = "the answer is a web page, not the file (a log-in, or a page that says it has moved?)"
            raise _Broken(reason, final=True)
        if remote.size and total and total != remote.size:
            raise _Broken(f"{total:,} bytes, expected {remote.size:,}: not the published file", final=True)

        check_space(self.target.parent, max(0, (total or remote.size) - start), f"{remote.name} needs another")
        with _disk_errors(self.target):
            date = answer.headers.get("Last-Modified", "")
            write_json(self.state, {"url": self.url, "size": total, "etag": etag, "date": date})

    def _write_part(self, answer: HTTPResponse, start: int, total: int, digest: Any) -> int:
        """Write an answer's bytes behind the first ``start`` of the part; return how many the part has then."""
        count = start
        mode = "ab" if start else "wb"
        with _disk_errors(self.target), self.part.open(mode) as file, byte_bar(self.part.stem, total, start) as show:
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
                show(count)
            file.flush()
            os.fsync(file.fileno())

        return count


def _extent(answer: HTTPResponse, have: int) -> tuple[int, int]:
    """Return where an answer's bytes begin in the file, and the file's size (0: the host does not say)."""
    if answer.status != 206:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else 0
    unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    span, _, size = rest.partition("/")
    if unit != "bytes" or span.partition("-")[0] != str(have):
        raise _Broken(f"the host answers with bytes {rest or '?'}, asked was for {have}-", final=True)
    return have, int(size) if size.isdigit() else 0


def _validator(state: dict[str, Any]) -> str:
    """Return what If-Range takes: a strong ETag, or else the date (RFC 9110, 13.1.5)."""
    etag = str(state.get("etag") or "")
    return etag if etag and not etag.startswith("W/") else str(state.get("date") or "")


def _why(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return os_reason(error)
    return str(error) or type(error).__name__


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot write the download: {os_reason(error)}; what is here is kept, run again to go on"
        raise DataError(problem, target) from error
