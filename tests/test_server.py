"""The server's guard: keys, origins, limits, hostile uploads, clients that go away, and its end."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from asr.cli import commands
from asr.errors import AsrError
from asr.transcribe import Recognizer
from tests.builders import tones, write_wav
from tests.fuzz import hostile
from tests.models import save_random_model
from tests.serving import serving, wait_until

pytest.importorskip("starlette", reason="needs the extra 'server'")

from asr.server.host import Host, Upload
from asr.server.metrics import Metrics
from asr.server.settings import Settings, read_keys

ROOT = Path(__file__).resolve().parent.parent
KEY = "a-key-of-our-own-0123"
PATH = "/v1/audio/transcriptions"
BOUNDARY = "0123456789abcdef"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("models") / "gru")


@pytest.fixture(scope="module")
def recognizer(folder) -> Recognizer:
    return Recognizer.load(folder, "cpu", no_speech_threshold=1)  # tones are no speech


@pytest.fixture(scope="module")
def wav(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("sounds") / "a.wav"
    return write_wav(path, tones("abcd dcba", np.random.default_rng(3))).read_bytes()


@pytest.fixture(scope="module")
def hosts(recognizer):
    return {"gru": Host("gru", recognizer)}


@contextmanager
def server(recognizer: Recognizer, **limits) -> Iterator[str]:
    settings = Settings(**limits)
    with serving({"gru": Host("gru", recognizer, settings)}, settings) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def plain(recognizer) -> Iterator[str]:
    """A server without keys that takes up to 1 MiB, and gives silent clients up soon."""
    with server(recognizer, max_upload=1 << 20, patience_s=0.5) as netloc:
        yield netloc


def form(content: bytes, name: str = "a.wav", **fields: str) -> bytes:
    parts = [f'form-data; name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
    shown = name.replace('"', "%22").replace("\r", "").replace("\n", "")
    parts.append(f'form-data; name="file"; filename="{shown}"\r\n\r\n'.encode("utf-8", "replace") + content)
    opened = b"".join(b"--%b\r\nContent-Disposition: %b\r\n" % (BOUNDARY.encode(), part) for part in parts)
    return opened + f"--{BOUNDARY}--\r\n".encode()


def send(netloc: str, body=b"", method: str = "POST", path: str = PATH, **headers: str):
    """The status, headers and document of an answer."""
    connection = http.client.HTTPConnection(netloc, timeout=30)
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"} if method == "POST" else {}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, kind | given)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, json.loads(content) if content[:1] == b"{" else content.decode()


def head(length: str = "", netloc: str = "127.0.0.1") -> bytes:
    """The head of an upload whose body is not sent with it."""
    kind = f"content-type: multipart/form-data; boundary={BOUNDARY}"
    return f"POST {PATH} HTTP/1.1\r\nhost: {netloc}\r\n{kind}\r\n{length}\r\n\r\n".encode()


def connect(netloc: str) -> socket.socket:
    host, _, port = netloc.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """A folder of temporary files that no other process writes to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# --- keys and origins ---


def test_a_key_is_asked_for_everywhere_but_at_the_page_and_for_health(recognizer, wav):
    with server(recognizer, keys=("another-key-0123456", KEY)) as netloc:
        for header in (f"Bearer {KEY}", f"Token {KEY}", f"bearer {KEY}", "Bearer another-key-0123456"):
            assert send(netloc, form(wav), authorization=header)[0] == 200
        for header in ("", "Bearer", f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY} {KEY}", "Bearer \udcff"):
            given = {"authorization": header.encode("utf-8", "surrogateescape").decode("latin-1")} if header else {}
            status, headers, answer = send(netloc, form(wav), **given)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/v1/models", "/docs", "//health", "/health/"):
            assert send(netloc, method="GET", path=path)[0] == 401
        assert send(netloc, method="GET", path="/health")[0] == 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("# none\n\n", "holds no key"),
        ("short\n", ":1: the key has 5 characters; expected at least 16"),
        ("# ours\n" + "ü" * 20, ":2: a key is of letters"),
        ("two words in a row\n", ":1: a key is of letters"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused_without_showing_a_key(tmp_path, content, reason):
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(AsrError, match=re.escape(reason)) as caught:
        read_keys(path)
    assert "short\n" not in str(caught.value) and "two words" not in str(caught.value)


def test_keys_are_read_one_per_line(tmp_path):
    (tmp_path / "keys").write_text(f"# ours\n\n  {KEY}  \r\nanother-key-0123456")
    assert read_keys(tmp_path / "keys") == (KEY, "another-key-0123456")
    assert KEY not in repr(Settings(keys=(KEY,)))


def test_pages_of_other_sites_may_not_use_the_server(recognizer, wav):
    with server(recognizer, origins=("https://good.example",)) as netloc:
        port = netloc.rpartition(":")[2]
        for origin, host in [(f"http://{netloc}", netloc), ("https://good.example", netloc),
                             (f"http://localhost:{port}", f"localhost:{port}"),
                             ("https://good.example", "good.example")]:  # fmt: skip
            status, headers, _ = send(netloc, form(wav), origin=origin, host=host)
            assert status == 200 and "access-control-allow-origin" not in headers
        for origin in ("http://evil.example", "null", "https://good.example.evil.example", "http://127.0.0.1:1"):
            status, _, answer = send(netloc, form(wav), origin=origin)
            assert (status, answer["error"]["code"]) == (403, "origin")


def test_a_foreign_name_that_was_turned_to_this_address_is_refused(plain):
    status, _, answer = send(plain, method="GET", path="/v1/models", host="evil.example")
    assert (status, answer["error"]["code"]) == (403, "host")
    assert "--origin https://evil.example" in answer["error"]["message"]


# --- limits ---


def test_a_stated_length_over_the_limit_is_refused_before_the_body_comes(plain):
    with connect(plain) as client:
        client.sendall(head("content-length: 2000000000\r\nexpect: 100-continue"))
        assert client.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_chunked_upload_is_refused_at_the_limit_while_it_comes(plain):
    sent = 0
    with connect(plain) as client:
        opened = form(b"").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        client.sendall(head("transfer-encoding: chunked") + b"%x\r\n%b\r\n" % (len(opened), opened))
        block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            while sent < 200 << 20:
                client.sendall(block)
                sent += 0x10000
        except OSError:
            pass
        assert b"413" in client.recv(65536).partition(b"\r\n")[0]
    assert 1 << 20 < sent < 64 << 20  # what lies in the buffers of the sockets was sent, too


def test_an_upload_a_little_over_the_limit_gets_its_answer(plain, wav):
    for body in (form(bytes(1 << 20)), iter([form(bytes(1 << 20))])):
        status, headers, answer = send(plain, body)
        assert (status, answer["error"]["code"]) == (413, "file_too_large")
        assert headers["connection"] == "close" and "1,048,576" in answer["error"]["message"]
    assert send(plain, form(wav))[0] == 200


def test_a_client_that_falls_silent_in_the_middle_is_given_up(plain):
    with connect(plain) as client:
        client.sendall(head("content-length: 1000") + b"--")
        assert client.recv(65536).startswith(b"HTTP/1.1 408")


def test_audio_longer_than_the_limit_is_refused_whatever_its_bytes(recognizer, wav):
    with server(recognizer, max_audio_s=1.0) as netloc:
        status, _, answer = send(netloc, form(wav))
    assert (status, answer["error"]["code"]) == (400, "invalid_audio")
    assert answer["error"]["message"].startswith("a.wav: ") and "longer" in answer["error"]["message"]


class Slow:
    """A recognizer that does nothing until it is let go."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.decoder, self.model = recognizer.decoder, recognizer.model
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        self._recognizer = recognizer
        self.batches: list[int] = []

    def transcribe_all(self, sources, **options):
        self.batches.append(len(sources))
        self.begun.release()
        assert self.go.wait(30)
        return self._recognizer.transcribe_all(sources, **options)


def test_a_full_queue_and_too_many_clients_are_told_to_come_again(recognizer, wav):
    slow = Slow(recognizer)
    for limits, refused in ((Settings(max_waiting=1), "wait for the model"), (Settings(max_clients=2), "under way")):
        slow.go.clear()
        with serving({"gru": Host("gru", slow, limits)}, limits) as url, ThreadPoolExecutor(2) as pool:
            netloc = url.removeprefix("http://")
            first = pool.submit(send, netloc, form(wav))
            assert slow.begun.acquire(timeout=30)
            second = pool.submit(send, netloc, form(wav))
            wait_until(partial(is_full, netloc))
            status, headers, answer = send(netloc, form(wav))
            assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(headers["retry-after"]) >= 1 and refused in answer["error"]["message"]
            assert send(netloc, method="GET", path="/health")[0] == 200
            slow.go.set()
            assert first.result()[0] == second.result()[0] == 200


def is_full(netloc: str) -> bool:
    """Two requests are there: one waits, or there is no room to ask."""
    told = metrics_of(netloc)
    return 'asr_waiting{model="gru"} 1' in told or "rate_limit_exceeded" in told


def metrics_of(netloc: str) -> str:
    return str(send(netloc, method="GET", path="/metrics")[2])


def test_requests_that_wait_are_taken_together(recognizer, wav):
    slow = Slow(recognizer)
    with serving({"gru": Host("gru", slow)}) as url, ThreadPoolExecutor(5) as pool:
        netloc = url.removeprefix("http://")
        answers = [pool.submit(send, netloc, form(wav))]
        assert slow.begun.acquire(timeout=30)
        answers += [pool.submit(send, netloc, form(wav)) for _ in range(4)]
        wait_until(lambda: 'asr_waiting{model="gru"} 4' in metrics_of(netloc))
        slow.go.set()
        assert len({answer.result()[2]["text"] for answer in answers}) == 1
    assert slow.batches == [1, 4]


def test_one_request_that_meets_a_mistake_of_ours_harms_none_beside_it(recognizer, wav, caplog):
    slow = Slow(recognizer)
    honest = slow.transcribe_all

    def transcribe_all(sources, **options):
        if any(source.name == "bad.wav" for source in sources) and len(sources) > 0:
            assert slow.go.wait(30)
            raise RuntimeError("a mistake of ours")
        return honest(sources, **options)

    slow.transcribe_all = transcribe_all
    with serving({"gru": Host("gru", slow)}) as url, ThreadPoolExecutor(3) as pool:
        netloc = url.removeprefix("http://")
        answers = [pool.submit(send, netloc, form(wav))]
        assert slow.begun.acquire(timeout=30)
        answers += [pool.submit(send, netloc, form(wav, name)) for name in ("bad.wav", "good.wav")]
        wait_until(lambda: 'asr_waiting{model="gru"} 2' in metrics_of(netloc))
        slow.go.set()
        statuses = [answer.result()[0] for answer in answers]
        assert statuses == [200, 500, 200]
        error = answers[1].result()[2]["error"]
        assert error["type"] == "server_error" and "a mistake of ours" not in error["message"]


# --- what comes in ---


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {"content_type": "application/json"}),
        (b'{"model": "gru"}', {"content_type": "application/json"}),
        (b"x", {"content_type": "multipart/form-data"}),
        (b"garbage", {}),
        (f"--{BOUNDARY}\r\n\r\n".encode(), {}),
        (form(b"")[:-20], {}),
        (f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(), {}),
        (b"x" * 100, {"content_type": "application/x-www-form-urlencoded"}),
        (f"--{BOUNDARY}\r\nX: {'y' * 500_000}".encode(), {}),
        (form(b"", **{f"field{i}": "x" for i in range(2000)}), {}),
        (form(b"x", model="m" * 100_000), {}),
        (form(b"x").replace(b"; filename", b"; nofilename"), {}),
        (form(b"x") + form(b"x"), {}),
        (form(b"x").replace(f"--{BOUNDARY}--".encode(), b"") + form(b"x"), {}),
        (form(b"x"), {"content_type": "multipart/form-data; boundary=" + "b" * 5000}),
        (form(b"x"), {"content_type": f"multipart/form-data; boundary={BOUNDARY}; charset=rot13"}),
        (form(b"x"), {"content_type": f"multipart/form-data; boundary={BOUNDARY}; charset=base64"}),
    ],
)
def test_a_form_that_is_none_is_refused_in_one_line(plain, body, headers):
    status, _, answer = send(plain, body, **headers)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error" and "\n" not in answer["error"]["message"]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "a/b\\c.wav", "a.tar#b.wav", "\u202e.wav", "x" * 1000, "", "a.raw", ".wav"],
)
def test_a_clients_name_is_for_messages_only(plain, wav, recognizer, name, tmp_path, temporary):
    status, _, answer = send(plain, form(wav, name))
    assert status == 200, answer
    (tmp_path / "a.wav").write_bytes(wav)
    assert answer["text"] == recognizer.transcribe(tmp_path / "a.wav").text
    assert list(temporary.iterdir()) == []


def test_hostile_files_are_refused_without_a_mistake_of_ours(recognizer, tmp_path):
    folder = hostile.build(tmp_path / "hostile")
    paths = [folder.path / os.fsdecode(name) for name in folder.hostile]
    files = [path for path in paths if path.is_file() and os.access(path, os.R_OK)]
    assert len(files) > 100
    with server(recognizer) as netloc:
        sent = [send(netloc, form(path.read_bytes(), path.name)) for path in files if path.stat().st_size < 1 << 24]
        good = [send(netloc, form((folder.path / name).read_bytes(), name))[0] for name in folder.good]
    assert {status for status, _, _ in sent} <= {200, 400}
    refused = [answer["error"]["message"] for status, _, answer in sent if status == 400]
    assert refused and not [line for line in refused if "Traceback" in line or "upload-" in line or "\n" in line]
    assert set(good) == {200}


def test_unknown_addresses_and_methods_get_the_same_kind_of_error(plain):
    for method, path, wanted in (("GET", "/v1/nothing", 404), ("GET", PATH, 405), ("POST", "/health", 405),
                                 ("GET", "/v1/models/%00%ff", 404), ("OPTIONS", PATH, 405)):  # fmt: skip
        status, headers, answer = send(plain, method=method, path=path)
        assert status == wanted and answer["error"]["type"] == "invalid_request_error"
        assert headers["x-request-id"].startswith("req_")


# --- clients that go away ---


def test_clients_that_go_away_leave_nothing_behind(recognizer, wav, caplog, temporary):
    slow = Slow(recognizer)
    with serving({"gru": Host("gru", slow)}) as url:
        netloc = url.removeprefix("http://")
        body = form(wav)
        descriptors = open_files()
        for number in range(100):
            client = connect(netloc)
            whole = number % 2
            client.sendall(
                head(f"content-length: {len(body)}") + (body if whole else body[: len(body) * number // 100])
            )
            if number % 3 == 0:  # a reset, not an orderly end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        slow.go.set()
        wait_until(lambda: open_files() <= descriptors + 2)
        wait_until(lambda: 'asr_waiting{model="gru"} 0' in metrics_of(netloc))
        assert send(netloc, body)[0] == 200
        assert 'status="499"' in metrics_of(netloc)
    gc.collect()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert list(temporary.iterdir()) == []


def test_a_long_recording_is_given_up_when_its_client_has_gone(recognizer, wav):
    slow = Slow(recognizer)
    honest = recognizer.transcribe_all

    def transcribe_all(sources, advance, **options):
        slow.begun.release()
        while sources[0].name == "long.wav":  # for ever, unless it is given up
            advance(1.0)
            time.sleep(0.01)
        return honest(sources, **options)

    slow.transcribe_all = transcribe_all
    with serving({"gru": Host("gru", slow)}) as url:
        netloc = url.removeprefix("http://")
        with connect(netloc) as client:
            body = form(wav, "long.wav")
            client.sendall(head(f"content-length: {len(body)}") + body)
            assert slow.begun.acquire(timeout=30)
        assert send(netloc, form(wav))[0] == 200


def test_a_client_of_events_that_goes_away_gives_its_place_up(recognizer, wav, tmp_path, temporary):
    slow = Slow(recognizer)
    (tmp_path / "a.wav").write_bytes(wav)
    passage = recognizer.transcribe(tmp_path / "a.wav")

    def transcribe_all(sources, advance, tell, **options):
        if sources[0].name == "long.wav":
            tell(0, passage)
        while sources[0].name == "long.wav":
            advance(1.0)
            time.sleep(0.01)
        return recognizer.transcribe_all(sources, **options)

    slow.transcribe_all = transcribe_all
    with serving({"gru": Host("gru", slow)}) as url:
        netloc = url.removeprefix("http://")
        with connect(netloc) as client:
            body = form(wav, "long.wav", stream="true")
            client.sendall(head(f"content-length: {len(body)}") + body)
            told = b""
            while b"\n\n" not in told.partition(b"\r\n\r\n")[2]:
                told += client.recv(65536)
            assert b"text/event-stream" in told and b'"transcript.text.delta"' in told
        assert send(netloc, form(wav))[0] == 200
        wait_until(lambda: list(temporary.iterdir()) == [])


def test_a_request_that_is_given_up_leaves_its_place_in_the_queue(recognizer, tmp_path):
    host = Host("gru", recognizer, Settings(max_waiting=2))  # its thread is busy, as it never starts

    async def come_and_go() -> None:
        for _ in range(3):
            work = asyncio.ensure_future(host.transcribe(Upload(tmp_path / "a.wav", "a.wav")))
            await asyncio.sleep(0)
            assert host.waiting == 1
            work.cancel()
            await asyncio.wait([work])

    asyncio.run(come_and_go())
    assert host.waiting == 0


def test_a_mistake_in_making_a_decoder_fails_its_request_and_no_other(recognizer, wav, caplog):
    def broken(hotwords):
        raise RuntimeError("a mistake of ours")

    decoder = replace(recognizer.decoder, with_hotwords=broken)
    with serving({"gru": Host("gru", Recognizer(recognizer.model, decoder))}) as url:
        netloc = url.removeprefix("http://")
        assert send(netloc, form(wav, hotwords="ab"))[0] == 500
        assert send(netloc, form(wav))[0] == 200
    assert "a mistake of ours" in caplog.text


# --- the log and the counters ---


def test_the_log_has_a_line_per_request_without_contents_queries_or_keys(recognizer, wav, capfd):
    with server(recognizer, keys=(KEY,)) as netloc:
        send(netloc, form(wav), authorization=f"Bearer {KEY}", path=f"{PATH}?secret=1")
        headers = send(netloc, form(wav, "\n{"), authorization="Bearer wrong-key-wrong-key")[1]
    rows = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(row["method"], row["path"], row["status"]) for row in rows] == [("POST", PATH, 200), ("POST", PATH, 401)]
    assert rows[0]["bytes"] == len(form(wav)) and rows[0]["seconds"] > 0 and rows[0]["client"] == "127.0.0.1"
    assert rows[1]["id"] == headers["x-request-id"]
    assert not [word for word in ("secret", KEY, "wrong-key", "a.wav") if word in json.dumps(rows)]


def test_paths_and_methods_that_are_unknown_make_no_labels():
    metrics = Metrics(["/health"])
    for i in range(1000):
        metrics.count_request(f"METHOD{i}", f"/path{i}", 405, 0, 0.0)
    metrics.count_request("GET", "/health", 200, 0, 0.0)
    rows = [line for line in metrics.text().splitlines() if line.startswith("asr_requests_total")]
    assert len(rows) == 2


def test_metrics_count_requests_and_audio_in_prometheus_format(recognizer, wav):
    with server(recognizer) as netloc:
        for _ in range(2):
            send(netloc, form(wav))
        for path in ("/scan/1", "/scan/2"):
            send(netloc, method="GET", path=path)
        text = metrics_of(netloc)
    assert f'asr_requests_total{{method="POST",path="{PATH}",status="200"}} 2\n' in text
    assert 'asr_requests_total{method="GET",path="other",status="404"} 2\n' in text
    assert f'asr_request_seconds_bucket{{path="{PATH}",le="+Inf"}} 2\n' in text
    assert re.search(r'asr_audio_seconds_total\{model="gru"\} 2\.4', text)
    sample = re.compile(r'[a-z_]+(\{([a-z]+="[^"\n]*",?)+\})? [0-9.e+-]+')
    assert not [line for line in text.splitlines() if not line.startswith("# ") and not sample.fullmatch(line)]


# --- the command ---

#: why a model of two directions does not stream
WHY_NOT = "model.bidirectional: true needs whole recordings"


@contextmanager
def command(*words: object, **options) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``asr serve`` in a process of its own, and where it listens."""
    started = [sys.executable, "-m", "asr", "serve", "--port", "0", *map(str, words)]
    process = subprocess.Popen(started, cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)
    try:
        line = ""
        while "http://" not in line:
            line = process.stderr.readline()
            assert line, f"it ended with {process.wait()}"
        yield process, re.search(r"http://(\S+)", line)[1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_asked_to_stop_it_finishes_what_is_under_way_and_takes_its_folder_away(folder, tmp_path):
    rng = np.random.default_rng(0)
    long = write_wav(tmp_path / "long.wav", np.concatenate([tones("abcd dcba", rng) for _ in range(200)])).read_bytes()
    place = tmp_path / "tmp"
    place.mkdir()
    with command(folder, "--no-speech-threshold", 1, env=os.environ | {"TMPDIR": str(place)}) as (process, netloc):
        assert [path.name[:10] for path in place.iterdir()] == ["asr-serve-"]
        assert place.joinpath(next(place.iterdir())).stat().st_mode & 0o777 == 0o700
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(send, netloc, form(long)) for _ in range(4)]
            wait_until(lambda: list(place.glob("*/upload-*")))
            process.send_signal(signal.SIGTERM)
            results = [answer.result() for answer in answers]
        assert [(status, headers["connection"]) for status, headers, _ in results] == [(200, "close")] * 4
        assert len({answer["text"] for _, _, answer in results}) == 1 and results[0][2]["text"]
        assert process.wait(30) == 0
        assert list(place.iterdir()) == []
        with pytest.raises(OSError):
            connect(netloc)


def test_live_streams_and_requests_share_the_time_that_is_left_when_it_stops(recognizer, wav, monkeypatch):
    slow = Slow(recognizer)

    def transcribe_all(sources, advance, **options):
        slow.begun.release()
        while True:
            advance(1.0)
            time.sleep(0.01)

    slow.transcribe_all = transcribe_all
    monkeypatch.setattr("asr.server.live.Live.__len__", lambda self: 1)  # a client that does not leave
    with ThreadPoolExecutor(1) as pool:
        with serving({"gru": Host("gru", slow)}, Settings(grace_s=1.0)) as url:
            answer = pool.submit(send, url.removeprefix("http://"), form(wav))
            assert slow.begun.acquire(timeout=30)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 1.8
        answer.exception()


def test_a_request_that_outlasts_the_grace_is_told_so_and_leaves_no_traceback(folder, tmp_path):
    rng = np.random.default_rng(0)
    long = write_wav(tmp_path / "long.wav", np.concatenate([tones("abcd dcba", rng) for _ in range(600)])).read_bytes()
    place = tmp_path / "tmp"
    place.mkdir()
    environment = os.environ | {"TMPDIR": str(place)}
    with command(folder, "--no-speech-threshold", 1, "--grace", 0, env=environment) as (process, netloc):
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(send, netloc, form(long)) for _ in range(8)]
            wait_until(lambda: len(list(place.glob("*/upload-*"))) == 8)
            process.send_signal(signal.SIGTERM)
            results = [answer.result() for answer in answers]
        said = process.stderr.read()
        assert process.wait(30) == 0
    cut_off = [(headers["retry-after"], document) for status, headers, document in results if status == 503]
    assert cut_off and {document["error"]["code"] for _, document in cut_off} == {"stopping"}
    assert {status for status, _, _ in results} <= {200, 503}
    assert "Traceback" not in said


def test_a_second_ctrl_c_ends_it_at_once_without_a_traceback(folder):
    with command(folder) as (process, netloc), connect(netloc) as client:
        client.sendall(head("content-length: 1000") + b"begun")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(10) == 130
    assert said.splitlines()[-1] == "asr: interrupted" and "Traceback" not in said


def test_what_an_operator_may_not_know_is_said_at_the_start(folder, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(KEY)
    for mode, is_said in ((0o644, True), (0o600, False)):
        keys.chmod(mode)
        with command(f"a={folder}", "--api-key-file", keys) as (process, _):
            process.send_signal(signal.SIGTERM)
            lines = process.stderr.read().splitlines()
        assert lines[-1] == "asr: a does not stream, so live text comes after each pause: " + WHY_NOT
        assert (f"asr: all users of this machine can read the keys: chmod 600 {keys}" in lines) == is_said


def test_an_address_that_is_taken_is_one_line_before_anything_is_loaded(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command(folder, "--port", port)
    assert done.returncode == 2
    assert done.stderr.startswith(f"asr: cannot listen at 127.0.0.1 port {port}: ") and done.stderr.count("\n") == 1


def run_command(*words: object, code: str = "") -> subprocess.CompletedProcess[str]:
    program = ["-c", f"{code}\nfrom asr.__main__ import main\nmain()"] if code else ["-m", "asr"]
    started = [sys.executable, *program, "serve", *map(str, words)]
    return subprocess.run(started, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a=m", "a=n"], "two models are called 'a'"),
        (["x/m", "y/m"], "two models are called 'm'"),
        (["=m"], "'=m': expected MODEL or NAME=MODEL"),
        (["no-such-model"], "no-such-model"),
        (["m", "--origin", "example.org"], "--origin example.org: expected a page's address"),
        (["m", "--api-key-file", "no-such-file"], "no-such-file"),
        (["m", "--host", "256.1.1.1"], "--host 256.1.1.1"),
        (["m", "--host", "192.0.2.1"], "cannot assign requested address; choose another --host"),
    ],
)
def test_mistakes_are_one_line(words, line):
    error = CliRunner().invoke(commands(), ["serve", "--port", "0", *words]).exception
    assert isinstance(error, AsrError)
    assert line in str(error) and "\n" not in str(error)


def test_without_the_extra_one_line_says_how_to_get_it(folder):
    absent = "import sys\nsys.modules['starlette'] = sys.modules['uvicorn'] = None"
    done = run_command(folder, code=absent)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install 'asr-ctc[server]'" in done.stderr

    # in an installation without PyTorch the extra would bring it
    done = run_command(folder, code=absent + "\nsys.modules['torch'] = None")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install starlette uvicorn python-multipart" in done.stderr
