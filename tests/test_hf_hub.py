"""The hub's own library against a hub on this machine: what it fetches, what it raises, what it hands out offline."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra hf) is not installed")

ROOT = Path(__file__).parent.parent
COMMIT = "c" * 40
FILES = {
    "config.json": b'{"architectures": ["Wav2Vec2ForCTC"]}',
    "vocab.json": b"{}",
    "README.md": b"# a model\n",
    "model.safetensors": b"weights" * 100,
    "pytorch_model.bin": b"a pickle",
    "language_model/attrs.json": b"{}",
    "run.py": b"raise SystemExit",
    "adapter.deu.safetensors": b"deu",
    "adapter.eng.safetensors": b"eng",
}
CALL = "from asr.model.hf.folder import locate; from asr.model.hf.names import parse; print(locate(parse({!r})))"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download asks for: one model, a/b; c/gated asks for an agreement."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        if "c/gated" in path:
            return self.answer(b"{}", 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "agree first"})
        if "a/b" not in path:
            return self.answer(b"{}", 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such repository"})
        if path.startswith("/api/models/a/b/tree/"):
            rows = [{"type": "file", "path": p, "size": len(c), "oid": self.oid(c)} for p, c in FILES.items()]
            return self.answer(json.dumps(rows).encode())
        if path.startswith("/api/models/a/b"):
            info = {"id": "a/b", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.answer(json.dumps(info).encode())
        content = FILES[path.partition(f"/resolve/{COMMIT}/")[2]]
        return self.answer(content, 200, {"ETag": f'"{self.oid(content)}"', "X-Repo-Commit": COMMIT})

    @staticmethod
    def oid(content: bytes) -> str:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """What a hub on this machine was asked for; HF_ENDPOINT names it."""
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = dict(os.environ)
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    yield Hub.asked
    os.environ.clear()
    os.environ.update(before)
    server.shutdown()
    server.server_close()


def run(model: str, home: Path, **settings: str) -> tuple[str, str]:
    """Look for a model in a process of its own, as the library reads its settings once: the folder, or the error."""
    environment = os.environ | {"HF_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_TOKEN": "hf_secret"} | settings
    code = CALL.format(model)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=home, env=environment, timeout=60
    )
    return done.stdout.strip(), done.stderr.strip().rpartition("\n")[2]


def names(folder: str) -> set[str]:
    return {str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()}


def test_a_name_is_fetched_once_and_found_without_a_network(asked, tmp_path):
    folder, _ = run("hf:a/b", tmp_path)
    wanted = {"config.json", "vocab.json", "README.md", "model.safetensors", "language_model/attrs.json"}
    assert names(folder) == wanted
    assert not any("run.py" in path or "pytorch_model" in path for path in asked)

    asked.clear()
    assert run("hf:a/b", tmp_path) == (folder, "") and asked == []
    assert run("hf:a/b", tmp_path, HF_HUB_OFFLINE="1") == (folder, "")


def test_an_adapter_is_fetched_when_its_language_is_asked_for(asked, tmp_path):
    run("hf:a/b", tmp_path)
    folder, _ = run("hf:a/b#deu", tmp_path)
    assert "adapter.deu.safetensors" in names(folder) and "adapter.eng.safetensors" not in names(folder)


def test_a_file_that_is_lost_from_the_cache_is_fetched_again(asked, tmp_path):
    folder, _ = run("hf:a/b", tmp_path)
    (Path(folder) / "model.safetensors").unlink()
    assert "model.safetensors" in names(run("hf:a/b", tmp_path)[0])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("hf:a/none", "neither a folder here nor a model on the hub"),
        ("hf:c/gated", "its owner asks for an agreement: accept it at https://huggingface.co/c/gated"),
    ],
)
def test_what_the_hub_refuses_is_one_line(asked, tmp_path, model, reason):
    _, error = run(model, tmp_path)
    assert reason in error and "hf_secret" not in error


def test_without_a_network_there_is_one_line_that_says_what_to_do(tmp_path):
    _, error = run("hf:a/b", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "not in the cache, and the hub cannot be reached; without a network, fetch it where" in error
    _, error = run("hf:a/b", tmp_path, HF_HUB_OFFLINE="1")
    assert "not in the cache, and HF_HUB_OFFLINE is set" in error
