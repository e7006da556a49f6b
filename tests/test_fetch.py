"""Downloads, from real servers on localhost that break, lie, move and are slow."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asr.download.address
import asr.download.answer
import asr.download.fetch
import asr.download.remote
from asr.download.answer import Patience
from asr.download.fetch import fetch
from asr.download.mirror import mirror_folder, mirrored
from asr.download.remote import Remote, check_space, verify
from asr.errors import AsrError, ConfigError, DataError
from tests.servers import Host, serving

CONTENT = random.Random(0).randbytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
PATH = "/resources/12/a.tar.gz"
QUICK = Patience(timeout_s=5, pause_s=0.01)
IMPATIENT = Patience(timeout_s=5, tries=1, tries_at_first=1)


def remote(host: Host, md5: str = MD5, size: int = len(CONTENT), **more: object) -> Remote:
    return Remote(host.url + PATH, size, md5, **more)  # type: ignore[arg-type]


def only_the_file(folder: Path) -> bool:
    return [p.name for p in folder.iterdir()] == ["a.tar.gz"]


def message(host: Remote, folder: Path, mirror: str = "", remedy: str = "REMEDY") -> str:
    """The error of a download: one line, with nothing left that looks whole."""
    with pytest.raises(DataError) as caught:
        fetch(host, folder, mirror, remedy, QUICK)
    assert "\n" not in str(caught.value)
    assert not (folder / host.name).exists()
    return str(caught.value)


def test_a_file_arrives_whole_and_alone(tmp_path):
    with serving({PATH: CONTENT}) as host:
        path = fetch(remote(host), tmp_path / "deep", patience=QUICK)
    assert path == tmp_path / "deep" / "a.tar.gz"
    assert path.read_bytes() == CONTENT
    assert only_the_file(tmp_path / "deep")


def test_a_file_that_is_there_is_checked_and_not_fetched_again(tmp_path):
    with serving({PATH: CONTENT}) as host:
        for _ in range(2):
            fetch(remote(host), tmp_path, patience=QUICK)
        assert len(host.asked) == 1
        (tmp_path / "a.tar.gz").write_bytes(CONTENT[:-1] + b"x")  # damaged on the disk
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT
        assert len(host.asked) == 2


def test_a_broken_connection_is_resumed_where_it_broke(tmp_path):
    with serving({PATH: CONTENT}, cuts=[300_000, 1, 0, 400_000]) as host:
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT
    starts = [asked[1] for asked in host.asked]
    assert starts == [None, "bytes=300000-", "bytes=300001-", "bytes=300001-", "bytes=700001-"]
    assert only_the_file(tmp_path)


def leave_a_part(host: Host, wanted: Remote, folder: Path, count: int = 300_000) -> None:
    """A run that ends with the first bytes of a file."""
    host.cuts = [count]
    with pytest.raises(DataError, match=f"ended after {count:,} of .*; 0.3 MB are kept: run again to go on"):
        fetch(wanted, folder, "", "", IMPATIENT)
    assert sorted(p.name for p in folder.iterdir()) == ["a.tar.gz.part", "a.tar.gz.part.json"]
    host.asked.clear()


@pytest.mark.parametrize("validator", [{"etag": '"one"'}, {"etag": "", "date": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_a_later_run_goes_on_with_the_part_of_an_earlier_one(tmp_path, validator):
    with serving({PATH: CONTENT}, **validator) as host:
        wanted = remote(host, md5="", size=0)
        leave_a_part(host, wanted, tmp_path)
        assert fetch(wanted, tmp_path, patience=QUICK).read_bytes() == CONTENT
        assert [asked[1:] for asked in host.asked] == [("bytes=300000-", next(filter(None, validator.values())))]


def test_a_part_of_a_file_that_has_changed_is_thrown_away(tmp_path):
    with serving({PATH: CONTENT}) as host:
        wanted = remote(host, md5="", size=0)
        leave_a_part(host, wanted, tmp_path)
        host.files, host.etag = {PATH: CONTENT[::-1]}, '"two"'
        assert fetch(wanted, tmp_path, patience=QUICK).read_bytes() == CONTENT[::-1]


def test_a_part_is_thrown_away_where_the_host_sends_ranges_of_a_changed_file_all_the_same(tmp_path):
    with serving({PATH: CONTENT}, etag="") as host:
        wanted = remote(host, md5="", size=0)
        host.date = "Mon, 01 Jan 2024 00:00:00 GMT"
        leave_a_part(host, wanted, tmp_path)
        host.files = {PATH: CONTENT[::-1] + b"longer"}
        assert fetch(wanted, tmp_path, patience=QUICK).read_bytes() == CONTENT[::-1] + b"longer"


def test_a_part_that_nothing_identifies_is_thrown_away_and_said(tmp_path, caplog):
    with serving({PATH: CONTENT}, etag='W/"weak"') as host:
        wanted = remote(host, md5="", size=0)
        leave_a_part(host, wanted, tmp_path)
        assert fetch(wanted, tmp_path, patience=QUICK).read_bytes() == CONTENT
        assert host.asked[0][1] is None
    assert "nothing says that it is the file of which 0.3 MB are here; starting again" in caplog.text


def test_with_a_checksum_a_part_of_another_file_costs_a_second_download_and_no_more(tmp_path, caplog):
    (tmp_path / "a.tar.gz.part").write_bytes(b"x" * 1000)
    with serving({PATH: CONTENT}) as host:
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT
        assert [asked[1] for asked in host.asked] == ["bytes=1000-", None]
    assert "wrong MD5 after it was resumed; starting again" in caplog.text


def test_a_host_without_ranges_starts_again_and_says_so(tmp_path, caplog):
    with serving({PATH: CONTENT}, ranges=False, cuts=[300_000]) as host:
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT
    assert "the host sends the whole file (no ranges, or it has changed); starting again" in caplog.text


def test_killed_between_the_last_byte_and_the_name_it_is_finished_without_the_host(tmp_path):
    with serving({PATH: CONTENT}) as host:
        leave_a_part(host, remote(host), tmp_path)
        (tmp_path / "a.tar.gz.part").write_bytes(CONTENT)
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT
        assert host.asked == []


def test_a_part_that_is_longer_than_the_file_is_thrown_away(tmp_path):
    (tmp_path / "a.tar.gz.part").write_bytes(CONTENT + b"x")
    with serving({PATH: CONTENT}) as host:
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 60_000), max_size=6), ranges=st.booleans(), known=st.booleans())
def test_however_the_connection_breaks_the_file_is_the_same(tmp_path_factory, cuts, ranges, known):
    content = CONTENT[:100_000]
    folder = tmp_path_factory.mktemp("cuts")
    with serving({PATH: content}, cuts=cuts, ranges=ranges) as host:
        wanted = remote(host, hashlib.md5(content).hexdigest() if known else "", len(content) if known else 0)
        eager = Patience(timeout_s=5, tries=20, tries_at_first=20, pause_s=0.0)
        assert fetch(wanted, folder, patience=eager).read_bytes() == content
    assert only_the_file(folder)


def test_wrong_bytes_are_refused_and_nothing_of_them_is_kept(tmp_path):
    with serving({PATH: CONTENT[::-1]}) as host:
        text = message(remote(host), tmp_path)
        wrong = hashlib.md5(CONTENT[::-1]).hexdigest()
        assert text == (
            f"{host.url}{PATH}: MD5 {wrong}, expected {MD5}: damaged, or not the published file; nothing of it is "
            "kept; REMEDY"
        )
        assert len(host.asked) == 1
    assert not list(tmp_path.iterdir())


def test_another_size_is_refused_before_the_download(tmp_path):
    with serving({PATH: CONTENT[:-1]}) as host:
        assert message(remote(host), tmp_path).endswith(
            "999,999 bytes, expected 1,000,000: not the published file; REMEDY"
        )
    assert not list(tmp_path.iterdir())


def test_an_answer_of_unknown_length_is_complete_when_size_or_checksum_say_so(tmp_path):
    with serving({PATH: CONTENT}, length=False, ranges=False) as host:
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT
    with serving({PATH: CONTENT}, length=False, ranges=False, cuts=[5000] * 2) as host:
        with pytest.raises(DataError, match="ended after 5,000 of 1,000,000 bytes"):
            fetch(remote(host, md5=""), tmp_path / "by size", patience=IMPATIENT)
        with pytest.raises(DataError, match=f"expected {MD5}"):
            fetch(remote(host, size=0), tmp_path / "by checksum", patience=IMPATIENT)


def test_a_gzip_file_without_a_published_checksum_is_read_to_its_end(tmp_path):
    content = gzip.compress(CONTENT)
    with serving({"/lm.arpa.gz": content[:-9]}) as host:
        assert "not a whole gzip file" in message(Remote(host.url + "/lm.arpa.gz"), tmp_path)
        assert not list(tmp_path.iterdir())
        host.files = {"/lm.arpa.gz": content}
        assert fetch(Remote(host.url + "/lm.arpa.gz"), tmp_path, patience=QUICK).read_bytes() == content


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_dead_link_is_told_at_once_with_what_to_do(tmp_path, code):
    with serving({PATH: CONTENT}, codes=[code] * 2) as host:
        text = message(remote(host), tmp_path, "", "see https://example.org")
        assert text.startswith(f"{host.url}{PATH}: HTTP {code} ")
        assert text.endswith("; see https://example.org")
        assert len(host.asked) == 1


def test_a_busy_host_is_asked_again_a_few_times(tmp_path):
    with serving({PATH: CONTENT}, codes=[503, 429]) as host:
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT
        assert len(host.asked) == 3
    with serving({PATH: CONTENT}, codes=[503] * 9) as host:
        assert "HTTP 503" in message(remote(host), tmp_path / "busy")
        assert len(host.asked) == 3


def test_a_redirect_is_followed_also_on_resuming(tmp_path):
    with serving({PATH: CONTENT}, cuts=[300_000], redirects={"/old": PATH}) as host:
        path = fetch(Remote(host.url + "/old", md5=MD5), tmp_path, patience=QUICK)
    assert path.read_bytes() == CONTENT
    assert ("/old", "bytes=300000-", '"one"') in host.asked


def test_a_redirect_in_a_circle_is_one_line(tmp_path):
    with serving({}, redirects={"/a": "/b", "/b": "/a"}) as host:
        assert "HTTP 302" in message(Remote(host.url + "/a"), tmp_path)


def test_a_web_page_in_place_of_the_file_is_refused(tmp_path):
    with serving({PATH: b"<html>log in</html>"}, headers={"Content-Type": "text/html; charset=utf-8"}) as host:
        assert "a web page, not the file" in message(remote(host, md5="", size=0), tmp_path)


def closed_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def test_without_a_network_there_is_one_line_at_once(tmp_path, caplog):
    dead, copy = closed_port(), closed_port()
    began = time.monotonic()
    text = message(Remote(dead + PATH, copies=(copy + PATH,)), tmp_path)
    assert text == (
        f"{dead}{PATH}: cannot be reached (connection refused), nor can {copy.removeprefix('http://')}; "
        "check the network; REMEDY"
    )
    assert time.monotonic() - began < 1
    assert not caplog.records


def test_another_host_goes_on_where_the_first_one_stopped(tmp_path):
    with serving({PATH: CONTENT}, cuts=[300_000, 0, 0]) as first, serving({PATH: CONTENT}, etag="") as second:
        wanted = Remote(first.url + PATH, md5=MD5, copies=(second.url + PATH,))
        assert fetch(wanted, tmp_path, patience=Patience(timeout_s=5, tries=2, pause_s=0.01)).read_bytes() == CONTENT
        assert second.asked == [(PATH, "bytes=300000-", None)]


def test_hosts_with_https_are_tried_first():
    assert Remote("http://a/f", copies=("http://b/f", "https://c/f")).urls == (
        "https://c/f",
        "http://a/f",
        "http://b/f",
    )


def test_a_host_that_falls_silent_is_a_broken_connection(tmp_path):
    with serving({PATH: CONTENT}, pause_s=2.0) as host:
        brief = Patience(timeout_s=0.2, tries=1)
        with pytest.raises(DataError, match=r"broke after 65,536 bytes \(no answer in time\)"):
            fetch(remote(host), tmp_path, patience=brief)


def test_a_full_disk_is_one_line_before_the_download_and_during_it(tmp_path, monkeypatch):
    with serving({PATH: CONTENT}) as host:
        free = type("Usage", (), {"free": 999_999})
        monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: free)
        assert message(remote(host), tmp_path) == (
            f"{tmp_path}: a.tar.gz needs another 1.0 MB, but 1.0 MB are free; make room, or give --out on another disk"
        )
        monkeypatch.undo()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        assert message(remote(host), tmp_path) == (
            f"{tmp_path / 'a.tar.gz'}: cannot write the download: no space left on device; what is here is kept, run "
            "again to go on"
        )


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the download: "):
        fetch(Remote("http://127.0.0.1:1/a.gz"), tmp_path / "file" / "deep", patience=QUICK)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_processes_do_not_write_one_part(tmp_path):
    import fcntl

    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(AsrError, match="another process is downloading there"):
            fetch(Remote("http://127.0.0.1:1/a.gz"), tmp_path, patience=QUICK)
    finally:
        os.close(descriptor)


SCRIPT = """
import sys
from pathlib import Path
from asr.download.fetch import fetch
from asr.download.remote import Remote
fetch(Remote(sys.argv[1], md5=sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("known", [True, False])
def test_killed_half_way_and_restarted_it_ends_with_the_same_bytes(tmp_path, known):
    with serving({PATH: CONTENT}, pause_s=0.1) as host:  # on a busy machine the one who looks is late
        call = [sys.executable, "-c", SCRIPT, host.url + PATH, MD5 if known else "", str(tmp_path)]
        process = subprocess.Popen(call)
        part = tmp_path / "a.tar.gz.part"
        while not part.is_file() or part.stat().st_size < 200_000:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "a.tar.gz").exists()
        have = part.stat().st_size
        assert 0 < have < len(CONTENT)
        host.pause_s = 0.0
        subprocess.run(call, check=True)
        assert host.asked[-1][1] == f"bytes={have}-"
    assert (tmp_path / "a.tar.gz").read_bytes() == CONTENT
    assert only_the_file(tmp_path)


# sizes and speed


def test_no_byte_is_written_behind_the_expected_size(tmp_path, monkeypatch):
    written = []
    open_part = asr.download.fetch._Download._open_part

    class Watched:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, block):
            written.append(len(block))
            return self.file.write(block)

    monkeypatch.setattr(asr.download.fetch._Download, "_open_part", lambda self, start: Watched(open_part(self, start)))
    with serving({PATH: CONTENT + b"x" * 500_000}, length=False, ranges=False) as host:
        assert "more than the 1,000,000 bytes expected: not the published file" in message(remote(host), tmp_path)
        assert len(host.asked) == 1
    assert 0 < sum(written) <= len(CONTENT)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_size_nobody_states_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(asr.download.fetch, "DOWNLOAD", 500_000)
    with serving({PATH: CONTENT}, length=False, ranges=False) as host:
        assert "more than the 500,000 bytes expected" in message(remote(host, md5="", size=0), tmp_path)
        monkeypatch.setattr(asr.download.fetch, "DOWNLOAD", len(CONTENT))
        assert fetch(remote(host, md5="", size=0), tmp_path, patience=QUICK).read_bytes() == CONTENT


def test_a_file_whose_size_nobody_states_leaves_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(asr.download.fetch, "_SPACE_EVERY", 100_000)
    monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9}))
    with serving({PATH: CONTENT}, length=False, ranges=False) as host:
        text = message(remote(host, md5="", size=0), tmp_path)
    assert "a.tar.gz, whose size is not known, leaves 1.07 GB, but 1.00 GB are free" in text
    assert 0 < (tmp_path / "a.tar.gz.part").stat().st_size < len(CONTENT)


def test_a_host_that_drips_is_given_up_after_a_few_tries_and_what_came_is_kept(tmp_path, caplog):
    dripping = Patience(timeout_s=5, tries=3, pause_s=0.01, window_s=0.1, least_bytes_per_s=1e7)
    with serving({PATH: CONTENT}, pause_s=0.06) as host:
        with pytest.raises(DataError, match=r"too slow: [\d,]+ bytes in 0 s; 0\.\d MB are kept: run again to go on"):
            fetch(remote(host), tmp_path, patience=dripping)
        assert len(host.asked) == 3
        assert fetch(remote(host), tmp_path, patience=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize("number", ["9" * 5000, "²", "-1", "1e3", ""])
def test_a_header_that_is_no_number_is_as_none(tmp_path, number):
    assert asr.download.answer.number(number) == 0


# names and links


@pytest.mark.parametrize(
    "url", ["https://h/", "https://h", "https://h/a/..", "https://h/.", "https://h/a\\b", "https://h/a\x1bb"]
)
def test_a_url_that_ends_in_no_name_of_a_file_is_refused(url):
    with pytest.raises(ConfigError, match="ends in no name that a file can have"):
        Remote(url)


def test_a_part_that_is_a_link_is_not_written_through(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("stays")
    (tmp_path / "d").mkdir()
    part = tmp_path / "d" / "a.tar.gz.part"
    part.symlink_to(theirs)
    with serving({PATH: CONTENT}) as host:
        assert message(remote(host), tmp_path / "d").startswith(
            f"{part}: expected the file of a download, found a link"
        )
        with pytest.raises(OSError):  # put there in between
            asr.download.fetch._Download(host.url + PATH, remote(host), tmp_path / "d" / "a.tar.gz")._open_part(0)
    assert theirs.read_text() == "stays"


# passwords and redirects

LOGIN = "Basic dXNlcjpwQHNz"  # user:p@ss


def with_login(host: Host) -> str:
    return host.url.replace("http://", "http://user:p%40ss@")


def test_a_mirror_takes_a_password_and_nothing_shows_it(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with serving({PATH: CONTENT}, login=LOGIN, cuts=[300_000]) as host:
        wanted = Remote("https://www.openslr.org" + PATH)
        with pytest.raises(DataError) as caught:
            fetch(wanted, tmp_path, with_login(host), "", IMPATIENT)
        state = (tmp_path / "a.tar.gz.part.json").read_text()
        assert fetch(wanted, tmp_path, with_login(host), patience=QUICK).read_bytes() == CONTENT
        assert host.asked[-1][1] == "bytes=300000-"
        host.login = "Basic other"
        refused = message(wanted, tmp_path / "refused", with_login(host))
    assert "HTTP 401" in refused
    for text in (str(caught.value), state, caplog.text, refused):
        assert host.url in text and "ss@" not in text and "user" not in text


def test_a_password_is_not_sent_to_another_host_on_a_redirect(tmp_path):
    with serving({PATH: CONTENT}) as other, serving({PATH: CONTENT}, login=LOGIN) as host:
        host.redirects = {"/here": PATH, "/there": other.url + PATH}
        for name in ("here", "there"):
            fetch(Remote(f"https://h/{name}"), tmp_path, with_login(host), patience=QUICK)
    assert host.logins == [LOGIN] * 3
    assert other.logins == [None]


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/a", "file:///etc/hostname", "data:,a"])
def test_a_redirect_to_something_else_than_http_is_refused(tmp_path, place):
    with serving({}, redirects={"/a": place}) as host:
        assert "/a: HTTP 302 " in message(Remote(host.url + "/a"), tmp_path)


def test_a_redirect_from_https_to_http_is_refused():
    request = urllib.request.Request("https://user.example/a")
    redirects = asr.download.address._Redirects()
    with pytest.raises(urllib.error.HTTPError, match="sent on to http://host/a, which is not followed from https"):
        redirects.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), "http://x:secret@host/a")
    assert redirects.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), "https://host/a") is not None


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,a"])
def test_only_http_is_downloaded(tmp_path, url):
    assert "not a URL (expected http:// or https://)" in message(Remote(url), tmp_path)


@pytest.mark.parametrize("mirror", ["ftp://u:secret@h/x", "http://u:secret@[x", "http://u:secr/et@h/", "u:secret@h"])
def test_a_mirror_that_is_refused_does_not_show_its_password(mirror):
    with pytest.raises(DataError) as caught:
        mirror_folder(mirror)
    assert "secr" not in str(caught.value)


# mirrors


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "https://h/base/"])
def test_a_mirror_takes_the_place_of_the_host_and_the_path_stays(mirror):
    assert mirrored("https://www.openslr.org" + PATH, mirror) == mirror.rstrip("/") + PATH


def test_a_mirror_is_asked_and_nobody_else(tmp_path):
    with serving({PATH: CONTENT}) as host:
        wanted = Remote(closed_port() + PATH, copies=(closed_port() + PATH,))
        assert fetch(wanted, tmp_path, host.url, patience=QUICK).read_bytes() == CONTENT


def test_a_mirror_that_is_a_folder_is_read_where_it_is(tmp_path):
    path = tmp_path / "mirror" / PATH.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    wanted = Remote("https://www.openslr.org" + PATH, md5=MD5)
    for mirror in ((tmp_path / "mirror").as_uri(), str(tmp_path / "mirror")):
        assert fetch(wanted, tmp_path / "out", mirror) == path
    assert not (tmp_path / "out").exists()
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match=f"^{path}: MD5 .*, expected {MD5}: damaged, or not the published file$"):
        fetch(wanted, tmp_path / "out", str(tmp_path / "mirror"))
    other = Remote("https://www.openslr.org/resources/12/b.tar.gz")
    with pytest.raises(
        DataError, match=r"not in the mirror; did you mean 'a\.tar\.gz'\? \(the mirror has a\.tar\.gz\)"
    ):
        fetch(other, tmp_path / "out", str(tmp_path / "mirror"))


@pytest.mark.parametrize(
    "mirror", ["ftp://host/x", "file://host/x", "file:///no/such/folder", "no-such-folder", "http://[x", "[x"]
)
def test_a_mirror_that_is_none_is_refused_with_what_is_expected(mirror):
    with pytest.raises(DataError, match=r"expected http://…, https://… or file:///FOLDER"):
        mirror_folder(mirror)


# checks


def test_a_file_of_the_wrong_size_is_not_read_for_its_checksum(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    verify(path, Remote("http://h/a", 3, hashlib.md5(b"abc").hexdigest()))
    with pytest.raises(DataError, match="3 bytes, expected 4"):
        verify(path, Remote("http://h/a", 4, MD5))
    with pytest.raises(DataError, match="cannot read the archive: no such file"):
        verify(tmp_path / "none", Remote("http://h/a"))


def test_space_is_asked_of_a_folder_that_is_not_there_yet(tmp_path):
    check_space(tmp_path / "a" / "b", 1, "this takes")
    with pytest.raises(DataError, match=r"b: this takes 1,000,000,000.00 GB, but .* are free"):
        check_space(tmp_path / "a" / "b", 10**18, "this takes")
