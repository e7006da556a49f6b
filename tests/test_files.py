from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import files
from asr.data.manifest import Utterance, write
from asr.errors import UNSAFE, ConfigError, DataError

posix = pytest.mark.skipif(sys.platform == "win32", reason="locks and links of POSIX")


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_write_text_makes_missing_folders_and_leaves_only_the_file(tmp_path):
    files.write_text(tmp_path / "a" / "b.txt", "zwölf\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "zwölf\n".encode()
    assert _names(tmp_path / "a") == ["b.txt"]


def test_an_error_inside_the_block_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), files.open_atomic(path) as file:
        file.write("new")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["x.txt"]


def test_the_name_does_not_exist_until_the_block_ends(tmp_path):
    path = tmp_path / "x.txt"
    with files.open_atomic(path) as file:
        file.write("new")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "new"


def test_keyboard_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.open_atomic(tmp_path / "x.txt") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert _names(tmp_path) == []


@given(
    st.recursive(st.text(st.characters()) | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_json_holds_nothing_that_a_terminal_obeys_and_means_the_same(value):
    for text in (files.json_text(value), files.json_text(value, indent=2), files.json_text(value, ascii=True)):
        assert not UNSAFE.search(text)
        assert json.loads(text) == value
    assert files.json_text("é \u200c語") == '"é \u200c語"'


def test_write_json_round_trips_and_refuses_not_a_number(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"wer": 0.5, "text": "Füße"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"wer": 0.5, "text": "Füße"}
    assert "Füße" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError):
        files.write_json(path, {"wer": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["wer"] == 0.5


def test_a_write_over_the_file_size_limit_raises_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    script = (
        "import errno, resource, signal, sys\n"
        "from pathlib import Path\n"
        "from asr.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG)]
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["x.txt"]


def test_a_folder_that_cannot_exist_is_an_error_with_the_reason(tmp_path):
    # Below a regular file: unwritable for every user, root included.
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        files.write_text(tmp_path / "file" / "x.txt", "new")
    target = tmp_path / "file" / "train.jsonl"
    with pytest.raises(DataError) as caught:
        write(target, [Utterance("u", "u.wav", 1.0, "a")])
    assert str(caught.value) in (
        f"{target}: cannot write the manifest: file exists",
        f"{target}: cannot write the manifest: not a directory",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_an_error_with_the_reason(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            files.write_text(tmp_path / "x.txt", "new")
    finally:
        tmp_path.chmod(0o700)


def _fill(folder: Path, content: str) -> None:
    with files.replace_folder(folder) as part:
        (part / "weights").write_text(content)


def test_replace_folder_swaps_the_whole_content(tmp_path):
    model = tmp_path / "models" / "best"
    with files.replace_folder(model) as part:
        (part / "only-before").write_text("")
    _fill(model, "new")
    assert _names(model) == ["weights"]
    assert (model / "weights").read_text() == "new"
    assert _names(model.parent) == ["best"]


def test_replace_folder_keeps_the_old_content_on_error(tmp_path):
    model = tmp_path / "best"
    _fill(model, "old")
    with pytest.raises(RuntimeError, match="stop"), files.replace_folder(model) as part:
        (part / "weights").write_text("half")
        raise RuntimeError("stop")
    assert (model / "weights").read_text() == "old"
    assert _names(tmp_path) == ["best"]


def test_replace_folder_ignores_what_an_earlier_crash_left(tmp_path):
    model = tmp_path / "best"
    for rest in ("best.0a1b2c3d.part", "best.old"):
        (tmp_path / rest).mkdir()
        (tmp_path / rest / "rubbish").write_text("")
    _fill(model, "new")
    assert _names(model) == ["weights"]
    assert _names(tmp_path) == ["best"]


def test_a_crash_between_the_two_renames_is_recovered(tmp_path):
    model = tmp_path / "best"
    _fill(model, "old")
    model.rename(tmp_path / "best.old")
    files.recover_folder(model)
    assert (model / "weights").read_text() == "old"
    assert _names(tmp_path) == ["best"]


def test_recover_folder_never_touches_a_folder_that_is_there(tmp_path):
    model = tmp_path / "best"
    _fill(model, "new")
    (tmp_path / "best.old").mkdir()
    files.recover_folder(model)
    assert (model / "weights").read_text() == "new"


def test_a_failing_second_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    model = tmp_path / "best"
    _fill(model, "old")
    rename = Path.rename

    def fail_for_part(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_part)
    with pytest.raises(OSError, match="input/output"):
        _fill(model, "new")
    assert (model / "weights").read_text() == "old"
    assert _names(tmp_path) == ["best"]


#: two threads that write one file and one folder again and again
WRITERS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from asr import files

def write(name):
    for number in range(40):
        files.write_text(top / "x.txt", f"{name} {number} " * 1000)
        with files.replace_folder(top / "best") as part:
            for file in ("a", "b"):
                (part / file).write_text(f"{name} {number}")
        files.recover_folder(top / "best")

top = Path(sys.argv[1])
with ThreadPoolExecutor(2) as pool:
    list(pool.map(write, (sys.argv[2] + "0", sys.argv[2] + "1")))
"""


@posix
def test_processes_and_threads_that_write_one_place_leave_one_whole_version(tmp_path):
    at_once = [subprocess.Popen([sys.executable, "-c", WRITERS, tmp_path, name], stderr=-1, text=True) for name in "pq"]
    assert [(process.communicate()[1], process.returncode) for process in at_once] == [("", 0), ("", 0)]
    assert _names(tmp_path) == ["best", "x.txt"]
    assert _names(tmp_path / "best") == ["a", "b"]
    assert (tmp_path / "best" / "a").read_text() == (tmp_path / "best" / "b").read_text()
    words = (tmp_path / "x.txt").read_text().split()
    assert len(words) == 2000 and set(words[::2]) == {words[0]} and set(words[1::2]) == {"39"}


FILLER = """
import sys
from pathlib import Path
from asr import files
with files.replace_folder(Path(sys.argv[1])) as part:
    (part / "weights").write_text("half")
    print(part.name, flush=True)
    sys.stdin.read()
"""


@posix
def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    model = tmp_path / "best"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", FILLER, str(model)], **pipes) as process:
        part = process.stdout.readline().strip()
        _fill(model, "new")
        assert _names(tmp_path) == sorted(["best", part])
        process.kill()
        process.wait()
    (tmp_path / "best.mine").mkdir()
    _fill(model, "newer")
    assert _names(tmp_path) == ["best", "best.mine"]


@posix
def test_a_recovery_waits_for_a_replacement_that_is_between_its_renames(tmp_path, monkeypatch):
    model = tmp_path / "best"
    _fill(model, "old")
    rename = Path.rename
    started = threading.Event()

    def slow(self: Path, target: Path) -> Path:
        done = rename(self, target)
        if target.suffix == ".old":
            started.set()
            time.sleep(0.1)
        return done

    monkeypatch.setattr(Path, "rename", slow)
    with ThreadPoolExecutor(1) as pool:
        filled = pool.submit(_fill, model, "new")
        assert started.wait(10)
        files.recover_folder(model)
        filled.result()
    assert (model / "weights").read_text() == "new"
    assert _names(tmp_path) == ["best"]


@posix
def test_no_link_that_somebody_put_beside_a_name_is_followed(tmp_path, monkeypatch):
    other = tmp_path / "other"
    (other / "folder").mkdir(parents=True)
    (other / "file").write_text("keep")
    out = tmp_path / "out"
    out.mkdir()
    for name, target in (("x.part", "file"), ("best.part", "folder"), ("best.old", "folder")):
        (out / name).symlink_to(other / target)
    files.write_text(out / "x", "new")
    _fill(out / "best", "old")
    _fill(out / "best", "new")

    # even if it could be guessed
    monkeypatch.setattr("os.urandom", bytes)
    for name, target in (("x.00000000.part", "file"), ("best.00000000.part", "folder")):
        (out / name).symlink_to(other / target)
    with pytest.raises(FileExistsError):
        files.write_text(out / "x", "newer")
    with pytest.raises(FileExistsError):
        _fill(out / "best", "newer")
    assert (out / "x").read_text() == (out / "best" / "weights").read_text() == "new"
    assert _names(other) == ["file", "folder"] and _names(other / "folder") == []
    assert (other / "file").read_text() == "keep"


def test_what_cannot_be_held_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"none: cannot write: no such file"), files.held(tmp_path / "none", "busy"):
        pass
    (tmp_path / "f").touch()
    with (
        files.held(tmp_path / "f", "busy"),
        pytest.raises(ConfigError, match=r"^busy$"),
        files.held(tmp_path / "f", "busy"),
    ):
        pass
    with files.held(tmp_path / "f", "busy"):  # let go of
        pass
