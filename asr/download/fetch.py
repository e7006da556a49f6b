"""Downloads from a corpus's host: resumed after a broken connection, checked, and whole or not there.

A download grows under ``<name>.part`` and takes its name when its size and checksum are right. ``<name>.part.json``
records what the part is of (URL, ETag, date, size), so that a later run resumes it only with the same file.
"""

from __future__ import annotations

import logging
import os
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from asr.download.address import login_of, open_url, without_login
from asr.download.answer import Broken, Pace, Patience, extent, number, validator, why
from asr.download.mirror import find_in_folder, mirror_folder, mirrored
from asr.download.remote import Digests, Remote, byte_bar, check_gzip, check_space, gigabytes, verify
from asr.errors import DataError, os_reason
from asr.files import BLOCK, held, read_record, write_json
from asr.limits import DISK_SPARE, DOWNLOAD

log = logging.getLogger(__name__)

#: answers that may be another a little later: RFC 9110 (408, 5xx), RFC 6585 (429)
_BUSY = (408, 429, 500, 502, 503, 504)
#: bytes after which the free space is looked at again
_SPACE_EVERY = 64 << 20


def fetch(
    remote: Remote,
    folder: Path,
    mirror: str = "",
    remedy: str = "",
    patience: Patience | None = None,
    accept: Callable[[Path, str], None] = lambda path, sha256: None,
) -> Path:
    """Return the file, whole and checked: in ``folder``, or where it lies if the mirror is a folder.

    Args:
        mirror: URL that takes the place of the host; the path behind it stays.
        remedy: what a person can do if no host has it, for the error.
        accept: called with the file and its SHA-256; it raises an error if that is not the one that is wanted.

    Raises:
        DataError: no host has it or can be reached, it is not the published file, or the disk is full.
    """
    local = mirror_folder(mirror)
    if local is not None:
        path, sha256 = find_in_folder(remote, local)
        accept(path, sha256)
        return path

    target = folder / remote.name
    with _disk_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder, f"{folder}: another process is downloading there; wait for it, or stop it"):
        sha256 = _verified(target, remote)
        if not sha256:
            urls = (mirrored(remote.url, mirror),) if mirror else remote.urls
            sha256 = _download(urls, remote, target, remedy, patience or Patience())
        accept(target, sha256)
    return target


def _verified(target: Path, remote: Remote) -> str:
    """Return the SHA-256 of a file that is there and right; empty: there is none, or it was wrong and is removed."""
    if not target.is_file():
        return ""
    try:
        return verify(target, remote)
    except DataError as error:
        log.warning("%s: fetched again", error)
        target.unlink()
        return ""


def _download(urls: Sequence[str], remote: Remote, target: Path, remedy: str, patience: Patience) -> str:
    """Bring the file from the first host that has it; return its SHA-256."""
    downloads = [_Download(url, remote, target) for url in urls]
    failures: list[Broken] = []
    for one in downloads:
        try:
            return one.run(patience)
        except Broken as error:
            failures.append(error)
            if one is not downloads[-1]:
                level = logging.DEBUG if error.unreachable else logging.WARNING
                log.log(level, "%s: %s; trying the next host", one.url, error.reason)

    if all(error.unreachable for error in failures):
        others = ", ".join(urlsplit(one.url).netloc for one in downloads[1:])
        reason = f"{downloads[0].url}: {failures[0].reason}{f', nor can {others}' if others else ''}; check the network"
    else:
        reason = "; ".join(f"{one.url}: {error.reason}" for one, error in zip(downloads, failures, strict=True))
    if have := downloads[0].bytes_here():
        reason += f"; {gigabytes(have)} are kept: run again to go on"
    raise DataError(f"{reason}; {remedy or 'give --mirror URL or --archive FILE'}")


class _Download:
    """A file that comes from one URL, over as many connections as it takes."""

    def __init__(self, url: str, remote: Remote, target: Path) -> None:
        #: without the login, for messages and for the record
        self.url = without_login(url)
        self._login = login_of(url)
        self.remote = remote
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self.state = target.with_name(target.name + ".part.json")
        #: a part that was there has become part of the file
        self.is_resumed = False
        #: of what is here of the file
        self._digests = Digests()

    def bytes_here(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def run(self, patience: Patience) -> str:
        """Bring the file to its name; return its SHA-256.

        Raises:
            Broken: this host cannot or does not give it.
            DataError: the part is a link, a pipe or a device, or the disk is full.
        """
        if self.part.is_symlink() or (self.part.exists() and not self.part.is_file()):
            raise DataError("expected the file of a download, found a link or a device; remove it", self.part)
        self._receive_all(patience)
        is_wrong = self.remote.md5 not in ("", self._digests.md5)
        if is_wrong and self.is_resumed:
            # the part may have been of another file: the second time everything comes anew
            log.warning("%s: wrong MD5 after it was resumed; starting again", self.url)
            self.forget()
            self._receive_all(patience)
            is_wrong = self.remote.md5 != self._digests.md5

        problem = ""
        if is_wrong:
            problem = f"MD5 {self._digests.md5}, expected {self.remote.md5}: damaged, or not the published file"
        elif not self.remote.md5:
            try:
                check_gzip(self.part, self.target.name)
            except DataError as error:
                problem = str(error)

        if problem:
            self.forget()
            raise Broken(f"{problem}; nothing of it is kept", final=True)

        self.part.replace(self.target)
        self.forget()
        return self._digests.sha256

    def _receive_all(self, patience: Patience) -> None:
        """Receive the whole file, with pauses between connections."""
        has_received = False
        failures = 0
        while True:
            before = self.bytes_here()
            try:
                self._receive_some(patience)
                return
            except Broken as error:
                is_progress = self.bytes_here() > before and not error.slow
                has_received = has_received or is_progress
                failures = 1 if is_progress else failures + 1
                tries = patience.tries if has_received else patience.tries_at_first
                if error.final or failures >= tries or (error.unreachable and not has_received):
                    raise
                pause_s = min(patience.longest_pause_s, patience.pause_s * 2 ** (failures - 1))
                pause_s = max(error.wait_s, pause_s)
                log.warning("%s: %s; next try in %.0f s", self.url, error.reason, pause_s)
                time.sleep(pause_s)

    def _receive_some(self, patience: Patience) -> None:
        """Receive what one connection gives.

        Raises:
            Broken: it is not the rest of the file.
        """
        state = read_record(self.state)
        if state.get("url") != self.url:
            state = {}
        have = self.bytes_here()
        if have and have == state.get("size"):  # killed after the last byte
            self.is_resumed = True
            self._take_up(have)
            return

        condition = validator(state)
        if have and not (self.remote.md5 or condition):
            log.warning(
                "%s: nothing says that it is the file of which %s are here; starting again", self.url, gigabytes(have)
            )
            have = 0

        headers = {}
        if have:
            log.info("%s: going on after %s", self.url, gigabytes(have))
            headers["Range"] = f"bytes={have}-"
            if condition:
                headers["If-Range"] = condition

        with self._answer(headers, patience.timeout_s) as answer:
            start, total = extent(answer, have)
            if have and not start:
                log.warning(
                    "%s: the host sends the whole file (no ranges, or it has changed); starting again", self.url
                )
            self._check_answer(answer, start, total, state)
            if start:
                self.is_resumed = True
            self._take_up(start)
            expected = total or self.remote.size
            count = self._write_part(answer, start, expected, patience)

        if count < expected:
            raise Broken(f"the connection ended after {count:,} of {expected:,} bytes")

    def _take_up(self, count: int) -> None:
        """Make the digests those of the first ``count`` bytes: all that are here, or none."""
        if self._digests.count == count:
            return
        self._digests = Digests()
        if count:
            self._digests.add_file(self.part, f"checking what is here of {self.remote.name}")

    @contextmanager
    def _answer(self, headers: dict[str, str], timeout_s: float) -> Iterator[HTTPResponse]:
        """Yield the answer to a request, whose code is 200 or 206."""
        try:
            answer = open_url(self.url, self._login, headers, timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:  # range not satisfiable: what is here is no beginning of that file
                    self.forget()
                    reason = "the host has no more bytes than are here, of another file; starting again"
                    raise Broken(reason) from error
                wait = error.headers.get("Retry-After", "")
                wait_s = min(60.0, number(wait))
                raise Broken(f"HTTP {error.code} {error.reason}", error.code not in _BUSY, wait_s=wait_s) from error
        except ValueError as error:
            raise Broken(f"not a URL ({error})", final=True) from error
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Broken(f"cannot be reached ({why(cause)})", unreachable=True) from error

        with answer:
            if answer.status not in (200, 206):
                raise Broken(f"HTTP {answer.status} {answer.reason}", final=True)
            yield answer

    def _check_answer(self, answer: HTTPResponse, start: int, total: int, state: dict[str, Any]) -> None:
        """Refuse an answer that is not the file, or that does not fit on the disk; record what the part is of."""
        etag = answer.headers.get("ETag", "")
        is_changed = bool(validator(state) and etag and etag != state.get("etag"))
        if start and (is_changed or total not in (0, state.get("size") or total)):
            self.forget()
            raise Broken("the file has changed since the download began; starting again")

        remote = self.remote
        is_page = answer.headers.get_content_type() == "text/html"
        if is_page and not remote.name.endswith((".html", ".htm")):
            reason = "the answer is a web page, not the file (a log-in, or a page that says it has moved?)"
            raise Broken(reason, final=True)
        if remote.size and total and total != remote.size:
            raise Broken(f"{total:,} bytes, expected {remote.size:,}: not the published file", final=True)

        check_space(self.target.parent, max(0, (total or remote.size) - start), f"{remote.name} needs another")
        with _disk_errors(self.target):
            date = answer.headers.get("Last-Modified", "")
            write_json(self.state, {"url": self.url, "size": total, "etag": etag, "date": date})

    def _write_part(self, answer: HTTPResponse, start: int, expected: int, patience: Patience) -> int:
        """Write an answer's bytes behind the first ``start`` of the part; return how many the part has then.

        Args:
            expected: bytes of the whole file; 0: nobody says.
        """
        count = start
        pace = Pace(patience)
        with (
            _disk_errors(self.target),
            self._open_part(start) as file,
            byte_bar(self.part.stem, expected, start) as show,
        ):
            while True:
                try:
                    block = answer.read1(BLOCK)
                except (OSError, HTTPException) as error:
                    raise Broken(f"the connection broke after {count:,} bytes ({why(error)})") from error
                if not block:
                    break

                self._check_growth(count, count + len(block), expected)
                file.write(block)
                self._digests.update(block)
                count += len(block)
                show(count)
                pace.check(len(block))
            file.flush()
            os.fsync(file.fileno())

        return count

    def _check_growth(self, before: int, after: int, expected: int) -> None:
        """Refuse bytes behind the file's end, and those of a file without one that would fill the disk."""
        if after > (expected or DOWNLOAD):
            self.forget()
            raise Broken(f"more than the {expected or DOWNLOAD:,} bytes expected: not the published file", final=True)
        is_due = after // _SPACE_EVERY > before // _SPACE_EVERY
        if not expected and is_due:
            check_space(self.target.parent, DISK_SPARE, f"{self.remote.name}, whose size is not known, leaves")

    def _open_part(self, start: int) -> BinaryIO:
        """Open the part to write behind its first ``start`` bytes: a regular file, and not through a link.

        Raises:
            OSError: something else has that name, or as the operating system says.
        """
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if start else os.O_TRUNC)
        for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # the second: a pipe is an error, no wait
            flags |= getattr(os, name, 0)
        return os.fdopen(os.open(self.part, flags, 0o666), "ab" if start else "wb")


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot write the download: {os_reason(error)}; what is here is kept, run again to go on"
        raise DataError(problem, target) from error
