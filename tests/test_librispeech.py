"""The LibriSpeech recipes, on archives made here, served over HTTP and from folders; and on the real mirror."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import asr.download.remote
from asr.cli import commands
from asr.corpora import librispeech
from asr.corpora.catalogue import find_recipe
from asr.corpora.librispeech import roles
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.corpora.sources import check_room, chosen_files
from asr.data import manifest
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.download.fetch import fetch
from asr.errors import ConfigError, DataError
from tests.builders import extract, noise, write_wav
from tests.servers import serving

SPEAKERS = """\
;ID  |SEX| SUBSET           |MINUTES| NAME
11   | F | a-train          |  3.22 | Somebody
12   | M | a-dev            |  3.27 | |CBW|Simon
"""


def flac(folder: Path, duration_s: float) -> bytes:
    return write_wav(folder / "x.flac", noise(duration_s)).read_bytes()


def archive_of(folder: Path, subset: str, **changes: bytes | None) -> bytes:
    """A subset of three utterances of two speakers, in the published layout; ``None`` leaves a file out."""
    files: dict[str, bytes | None] = {"SPEAKERS.TXT": SPEAKERS.encode(), "LICENSE.TXT": b"free\n"}
    for speaker, chapter, count in (("11", "5", 2), ("12", "6", 1)):
        ids = [f"{speaker}-{chapter}-{subset}{i:04d}" for i in range(count)]
        base = f"{subset}/{speaker}/{chapter}"
        for i, id_ in enumerate(ids):
            files[f"{base}/{id_}.flac"] = flac(folder, 0.1 + 0.1 * i)
        lines = (f"{id_} IT  WASN'T {'ME' if i else 'YOU'}\n" for i, id_ in enumerate(ids))
        files[f"{base}/{speaker}-{chapter}.trans.txt"] = "".join(lines).encode()
    files |= {name.format(subset): content for name, content in changes.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            if content is not None:
                member = tarfile.TarInfo(f"LibriSpeech/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("flac")
    return {f"/resources/12/{name}.tar.gz": archive_of(folder, name) for name in ("a-train", "b-train", "a-dev", "x")}


@pytest.fixture(scope="module")
def folder(archives: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror that is a folder."""
    mirror = tmp_path_factory.mktemp("mirror")
    (mirror / "resources" / "12").mkdir(parents=True)
    for path, content in archives.items():
        (mirror / path.lstrip("/")).write_bytes(content)
    return mirror


def recipe(name: str = "librispeech") -> Recipe:
    return find_recipe(name)[0]


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def failure(request: Request, name: str = "librispeech") -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        prepare(recipe(name), request)
    assert "\n" not in str(caught.value)
    assert not (request.out / "prepared.json").exists()
    return str(caught.value)


# the way of a preparation


def test_a_mirror_with_other_subsets_gives_their_manifests_and_train_and_dev(archives, tmp_path):
    with serving(dict(archives)) as host:
        prepared = prepare(recipe(), Request(tmp_path, mirror=host.url, subsets=("a-train", "b-train", "a-dev")))
        assert [path for path, _, _ in host.asked] == [
            f"/resources/12/{name}.tar.gz" for name in ("a-train", "b-train", "a-dev")
        ]
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {
        "a-train": 3,
        "b-train": 3,
        "a-dev": 3,
        "train": 6,
        "dev": 3,
    }
    assert prepared.dropped == {}
    assert "kept 9 of 9" in prepared.summary()
    train = manifest.read(tmp_path / "train.jsonl")
    first = next(iter(train))
    assert first == Utterance(
        "11-5-a-train0000",
        "LibriSpeech/a-train/11/5/11-5-a-train0000.flac",
        0.1,
        "IT WASN'T YOU",
        "11",
        meta={"subset": "a-train", "sex": "F"},
    )
    assert {u.meta["sex"] for u in train if u.meta and u.speaker == "12"} == {"M"}
    assert all(train.audio_path(u).is_file() for u in train)


def test_a_second_run_asks_the_mirror_nothing_and_gives_the_same_bytes(archives, tmp_path):
    request = Request(tmp_path, subsets=("a-train", "a-dev"))
    with serving(dict(archives)) as host:
        prepare(recipe(), replace(request, mirror=host.url))
        before = files(tmp_path)
        host.asked.clear()
        prepare(recipe(), replace(request, mirror=host.url))
        assert host.asked == []
    assert files(tmp_path) == before


def test_a_folder_as_mirror_is_read_in_place_and_gives_the_same(folder, archives, tmp_path):
    subsets = ("a-train", "a-dev")
    prepare(recipe(), Request(tmp_path / "1", mirror=folder.as_uri(), subsets=subsets))
    assert not (tmp_path / "1" / "downloads").exists()
    with serving(dict(archives)) as host:
        prepare(recipe(), Request(tmp_path / "2", mirror=host.url, subsets=subsets))
    downloaded = {k: v for k, v in files(tmp_path / "2").items() if not k.startswith("downloads/")}
    assert files(tmp_path / "1") == downloaded


def test_archives_by_name_need_no_subsets_and_no_host(folder, tmp_path):
    there = folder / "resources" / "12"
    archives = (there / "a-dev.tar.gz", there / "x.tar.gz")
    prepared = prepare(recipe(), Request(tmp_path, archive=archives))
    assert list(prepared.manifests) == ["a-dev", "x", "dev"]  # x has no role


@pytest.mark.parametrize("level", [".", "LibriSpeech", "LibriSpeech/a-train"])
def test_a_corpus_that_is_extracted_already_is_used_where_it_is(folder, tmp_path, level):
    with tarfile.open(folder / "resources" / "12" / "a-train.tar.gz") as tar:
        extract(tar, tmp_path / "corpus")
    before = files(tmp_path / "corpus")
    out = tmp_path / "out"
    request = Request(out, archive=(tmp_path / "corpus" / level,), subsets=("a-train",))
    prepared = prepare(recipe(), request)
    assert files(tmp_path / "corpus") == before
    assert sorted(p.name for p in out.iterdir()) == ["a-train.jsonl", headers.FILE, "train.jsonl"]
    train = manifest.read(prepared.manifests["train"])
    assert len(train) == 3 and all(train.audio_path(u).is_file() for u in train)


def test_the_first_dev_and_test_subsets_are_dev_and_test_and_all_training_subsets_are_train():
    names = ("train-clean-100", "train-other-500", "dev-clean", "dev-other", "lj-test", "test-other", "extra")
    rows = {name: [Utterance(name, "x.flac", 1.0, "A")] for name in names}
    assert {name: [u.id for u in split] for name, split in roles(rows).items()} == {
        "train": ["train-clean-100", "train-other-500"],
        "dev": ["dev-clean"],
        "test": ["lj-test"],
    }


def test_subsets_come_in_the_published_order_whatever_order_is_asked():
    asked = Request(Path(), subsets=("dev-other", "dev-clean", "train-clean-100"))
    assert [file.subset for file in chosen_files(recipe(), asked)] == ["train-clean-100", "dev-clean", "dev-other"]
    assert len(chosen_files(recipe(), Request(Path(), subsets=("all",)))) == 7
    assert [file.subset for file in chosen_files(recipe(), Request(Path()))] == list(recipe().default_subsets)


def test_what_cannot_be_used_is_dropped_with_the_reason(tmp_path):
    content = archive_of(
        tmp_path,
        "a-dev",
        **{
            "{}/11/5/11-5-a-dev0001.flac": None,
            "{}/12/6/12-6-a-dev0000.flac": b"not audio",
            "{}/12/6/12-6-alone.flac": flac(tmp_path, 0.1),
            "{}/11/7/11-7-0000.flac": flac(tmp_path, 0.1),
            "{}/11/7/11-7.trans.txt": b"11-7-0000\n",
        },
    )
    with serving({"/resources/12/a-dev.tar.gz": content}) as host:
        prepared = prepare(recipe(), Request(tmp_path / "out", mirror=host.url, subsets=("a-dev",)))
    assert "kept 1 of 5" in prepared.summary()
    assert ".flac: not audio that can be read" in prepared.dropped.pop("12-6-a-dev0000")
    assert prepared.dropped == {
        "11-5-a-dev0001": "no audio",
        "12-6-alone": "no transcript",
        "11-7-0000": "no transcript",
    }
    assert [u.id for u in prepared.utterances["dev"]] == ["11-5-a-dev0000"]


def test_a_text_that_goes_on_in_the_next_line_is_not_half_a_text(tmp_path):
    lines = b"11-7-0000 ONE\n11-7-0001 HALF OF IT\nAND THE REST\n11-7-0002 TWO\n"
    audio = {f"{{}}/11/7/11-7-{i:04d}.flac": flac(tmp_path, 0.1) for i in range(3)}
    content = archive_of(tmp_path, "a-dev", **{"{}/11/7/11-7.trans.txt": lines, **audio})
    with serving({"/resources/12/a-dev.tar.gz": content}) as host:
        prepared = prepare(recipe(), Request(tmp_path / "out", mirror=host.url, subsets=("a-dev",)))
    assert [(u.id, u.text) for u in prepared.utterances["dev"]][2:4] == [("11-7-0000", "ONE"), ("11-7-0002", "TWO")]
    assert prepared.dropped == {
        "11-7.trans.txt:3": "'AND' is no id of chapter 11-7",
        "11-7-0001": "its text may be cut: line 3 of 11-7.trans.txt is no row",
    }


def test_a_tree_that_a_mac_has_copied_is_read_as_it_was(tmp_path):
    chapter = tmp_path / "L" / "LibriSpeech" / "dev-clean" / "84" / "121123"
    chapter.mkdir(parents=True)
    for i in range(3):
        (chapter / f"84-121123-{i:04d}.flac").write_bytes(flac(tmp_path, 0.1))
    (chapter / "84-121123.trans.txt").write_text("".join(f"84-121123-{i:04d} ONE\n" for i in range(3)))
    for path in list(chapter.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xff")
    for folder in (chapter, chapter.parent, chapter.parent.parent):
        (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1\xff")
    double = tmp_path / "L" / "__MACOSX" / "dev-clean" / "84"
    double.mkdir(parents=True)
    (double / "84.trans.txt").write_bytes(b"\xff")
    prepared = prepare(recipe(), Request(tmp_path / "out", archive=(tmp_path / "L",), subsets=("dev-clean",)))
    assert [u.id for u in prepared.utterances["dev"]] == [f"84-121123-{i:04d}" for i in range(3)]
    assert prepared.dropped == {}


def test_another_number_of_utterances_than_was_published_is_said(tmp_path):
    content = archive_of(tmp_path, "dev-clean")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        extract(tar, tmp_path / "part")
    command = ["prepare", "librispeech", "--archive", str(tmp_path / "part"), "--subsets", "dev-clean"]
    done = CliRunner().invoke(commands(), [*command, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "dev-clean: 3 utterances, 2,703 are published: is all of the corpus there?" in done.stdout.splitlines()


def test_as_many_utterances_as_were_published_are_worth_no_word(tmp_path):
    def write(request: Request) -> Corpus:
        return Corpus({"a": [Utterance("x", "x.wav", 1.0, "ONE")]}, {})

    toy = Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", write, utterances={"a": 1, "not-asked-for": 5})
    assert prepare(toy, Request(tmp_path / "1")).notes == ["text normalization: none"]
    said = "a: 1 utterances, 2 are published: is all of the corpus there?"
    assert said in prepare(replace(toy, utterances={"a": 2}), Request(tmp_path / "2")).notes


def test_the_published_numbers_are_those_of_the_corpus():
    # 281,241 is how many utterances others count in the 960 hours for training
    known = recipe().utterances
    assert set(known) == set(recipe().subsets)
    totals = {role: sum(n for name, n in known.items() if name.startswith(role)) for role in ("train", "dev", "test")}
    assert totals == {"train": 281_241, "dev": 5_567, "test": 5_559}


def test_without_speakers_txt_the_sex_is_not_known_and_that_is_said(tmp_path, caplog):
    content = archive_of(tmp_path, "a-dev", **{"SPEAKERS.TXT": None})
    with serving({"/resources/12/a-dev.tar.gz": content}) as host:
        prepared = prepare(recipe(), Request(tmp_path / "out", mirror=host.url, subsets=("a-dev",)))
    assert {tuple(u.meta or ()) for u in prepared.utterances["dev"]} == {("subset",)}
    assert "SPEAKERS.TXT: not there" in caplog.text


# what goes wrong


def test_official_archives_are_checked_against_the_published_md5(tmp_path, monkeypatch):
    content = archive_of(tmp_path, "dev-clean")
    official = next(file for file in recipe().files if file.subset == "dev-clean")
    with serving({"/resources/12/dev-clean.tar.gz": content}) as host:
        text = failure(Request(tmp_path / "1", mirror=host.url, subsets=("dev-clean",)))
        assert f"{len(content):,} bytes, expected 337,926,286: not the published file" in text
        # of the right size, with other bytes
        same_size = tuple(replace(f, size=len(content)) if f == official else f for f in recipe().files)
        with pytest.raises(DataError, match=f"expected {official.md5}: damaged, or not the published file"):
            fetch(next(f for f in same_size if f.subset == "dev-clean"), tmp_path / "2", host.url)
    assert not list((tmp_path / "2").iterdir())


def test_all_goes_alone(tmp_path):
    assert len(chosen_files(recipe(), Request(tmp_path, subsets=("all",)))) == 7
    for mirror in ("", "http://127.0.0.1:1"):
        text = failure(Request(tmp_path, subsets=("all", "lj-dev"), mirror=mirror))
        assert text == "--subsets all is every subset; other names beside it add nothing"


def test_room_for_a_language_model_that_is_here_is_not_asked_for_again(tmp_path, monkeypatch):
    contents = {"3-gram.pruned.1e-7.arpa.gz": gzip.compress(b"\\data\\\n" * 100), "librispeech-vocab.txt": b"A\nB\n"}
    with serving({f"/resources/11/{name}": content for name, content in contents.items()}) as host:
        request = Request(tmp_path, mirror=host.url)
        first = prepare(lm_recipe(contents), request)
        monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
        assert prepare(lm_recipe(contents), request) == first


def test_an_extraction_that_was_interrupted_does_not_need_all_its_room_again(tmp_path, monkeypatch):
    own = tmp_path / "LibriSpeech" / "train-clean-100" / "1"
    own.mkdir(parents=True)
    with (own / "a.flac").open("wb") as file:
        file.truncate(7_000_000_000)  # sparse: of nearly all that is in the archive
    archive = tmp_path / "downloads" / "train-clean-100.tar.gz"
    archive.parent.mkdir()
    with archive.open("wb") as file:
        file.truncate(6_387_309_499)
    monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 50_000_000}))
    request = Request(tmp_path, subsets=("train-clean-100",))
    monkeypatch.setattr(librispeech, "unpack_file", lambda *given: None)
    with pytest.raises(DataError, match="nothing left for train-clean-100"):
        prepare(recipe(), request)


def test_an_unknown_subset_names_the_nearest_and_what_other_names_need(tmp_path):
    assert failure(Request(tmp_path, subsets=("dev-claen",))) == (
        "librispeech has no subset 'dev-claen'; did you mean 'dev-clean'?; other names need --mirror URL or --archive "
        "FILE (known: train-clean-100, train-clean-360, train-other-500, dev-clean, dev-other, test-clean, test-other, "
        "all)"
    )
    assert "no subset '../x'" in failure(Request(tmp_path, mirror="http://127.0.0.1:1", subsets=("../x",)))
    assert failure(Request(tmp_path, subsets=("dev-clean", "dev-clean"))).startswith("--subsets names one twice")


def test_a_subset_that_the_mirror_has_not_is_one_line_with_the_next_step(archives, folder, tmp_path):
    with serving(dict(archives)) as host:
        assert failure(Request(tmp_path, mirror=host.url, subsets=("a-tarin",))) == (
            f"{host.url}/resources/12/a-tarin.tar.gz: HTTP 404 Not Found; see https://www.openslr.org/12, or leave out "
            "--mirror, or fetch it in another way and give --archive a-tarin.tar.gz"
        )
    text = failure(Request(tmp_path, mirror=str(folder), subsets=("a-tarin",)))
    assert "not in the mirror; did you mean 'a-train.tar.gz'? (the mirror has " in text


def test_an_archive_that_is_not_asked_for_is_an_error_not_ignored(folder, tmp_path):
    archive = folder / "resources" / "12" / "a-dev.tar.gz"
    text = failure(Request(tmp_path, archive=(archive,), subsets=("dev-clean",)))
    assert text == f"--archive {archive}: none of dev-clean.tar.gz; name it as it is published, or give --subsets"
    assert "none of" in failure(Request(tmp_path / "out", archive=(tmp_path,)))
    missing = tmp_path / "none.tar.gz"
    assert failure(Request(tmp_path, archive=(missing,))) == f"{missing}: no such file or folder"


def test_an_archive_of_another_corpus_leaves_nothing_behind(tmp_path):
    (tmp_path / "x").mkdir()
    content = archive_of(tmp_path / "x", "dev-clean")
    with serving({"/resources/12/a-dev.tar.gz": content}) as host:
        text = failure(Request(tmp_path / "out", mirror=host.url, subsets=("a-dev",)))
    assert "holds no LibriSpeech/a-dev/: is this the right archive? (it has LibriSpeech/LICENSE.TXT" in text
    assert not (tmp_path / "out" / "LibriSpeech" / "dev-clean").exists()


def test_a_damaged_download_is_removed_so_that_the_next_run_can_succeed(archives, tmp_path):
    path = "/resources/12/a-dev.tar.gz"
    request = Request(tmp_path, subsets=("a-dev",))
    with serving({path: archives[path][:-500]}) as host:
        text = failure(replace(request, mirror=host.url))
        assert "not a whole tar archive" in text and text.endswith("the download is removed, run again")
        assert not (tmp_path / "downloads" / "a-dev.tar.gz").exists()
        assert not (tmp_path / "a-dev.jsonl").exists()
        host.files = {path: archives[path]}
        assert len(prepare(recipe(), replace(request, mirror=host.url)).utterances["dev"]) == 3


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil"])
def test_an_archive_that_reaches_out_of_the_folder_is_refused(tmp_path, name):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with serving({"/resources/12/a-dev.tar.gz": gzip.compress(plain.getvalue())}) as host:
        text = failure(Request(tmp_path / "deep" / "out", mirror=host.url, subsets=("a-dev",)))
    assert f"refused: member '{name}' would be written outside the target folder" in text
    assert not list(tmp_path.rglob("*evil*"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_asked(tmp_path, monkeypatch):
    free = 13_000_000_000
    monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    text = failure(Request(tmp_path, subsets=("train-clean-100",), mirror="http://127.0.0.1:1"))
    # 6.39 GB to download, and 1.1 times that to extract it
    assert text == f"{tmp_path}: this takes 13.41 GB, but 13.00 GB are free; make room, or give --out on another disk"
    free = 13_500_000_000
    check_room(Request(tmp_path), chosen_files(recipe(), Request(tmp_path, subsets=("train-clean-100",))))


# the other two recipes


def test_mini_librispeech_has_its_splits_and_librispeechs_test_set(tmp_path):
    mini = recipe("mini_librispeech")
    assert [file.subset for file in chosen_files(mini, Request(tmp_path))] == [
        "train-clean-5",
        "dev-clean-2",
        "test-clean",
    ]
    shared = {file.subset: file for file in recipe().files}["test-clean"]
    assert {file.subset: file for file in mini.files}["test-clean"] == shared
    names = ("train-clean-5", "dev-clean-2")
    contents = {f"/resources/31/{name}.tar.gz": archive_of(tmp_path, name) for name in names}
    md5 = {path.rpartition("/")[2]: hashlib.md5(content).hexdigest() for path, content in contents.items()}
    own = replace(mini, files=tuple(replace(f, size=0, md5=md5.get(f.name, "")) for f in mini.files))
    with serving(contents) as host:
        prepared = librispeech.prepare(own, Request(tmp_path / "out", mirror=host.url, subsets=names), "")
    assert list(prepared.splits) == [*names, "train", "dev"]


def lm_recipe(contents: dict[str, bytes]) -> Recipe:
    found = recipe("librispeech-lm")
    module = sys.modules[found.prepare.__module__]
    small = tuple(replace(f, size=len(contents.get(f.name, b"")), md5="") for f in found.files)
    module.RECIPE = replace(found, files=small)
    return module.RECIPE  # type: ignore[no-any-return]


def test_the_language_model_and_vocabulary_come_as_they_are(tmp_path):
    contents = {"3-gram.pruned.1e-7.arpa.gz": gzip.compress(b"\\data\\\n" * 100), "librispeech-vocab.txt": b"A\nB\n"}
    with serving({f"/resources/11/{name}": content for name, content in contents.items()}) as host:
        prepared = prepare(lm_recipe(contents), Request(tmp_path / "1", mirror=host.url))
    assert prepared.manifests == {} and prepared.summary() == []
    assert prepared.files == {
        "3-gram.pruned.1e-7": tmp_path / "1" / "3-gram.pruned.1e-7.arpa.gz",
        "vocabulary": tmp_path / "1" / "librispeech-vocab.txt",
    }
    assert files(tmp_path / "1") == contents
    copies = tuple(prepared.files.values())
    prepare(lm_recipe(contents), Request(tmp_path / "2", archive=copies))
    assert files(tmp_path / "2") == contents


# the real thing


@pytest.fixture
def mirror(shared_data: Path) -> Path:
    found = shared_data / "openslr-mirror"
    if not found.is_dir():
        pytest.skip(f"needs {found}")
    return found


@pytest.fixture
def python_server(mirror: Path) -> Iterator[str]:
    """The mirror as ``python -m http.server`` serves it: without ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(mirror)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


LJ = ("lj-train", "lj-dev", "lj-test")


def test_the_lj_subsets_come_from_a_mirror_as_published(python_server, tmp_path):
    prepared = prepare(recipe(), Request(tmp_path, mirror=python_server, subsets=LJ))
    counts = {name: len(rows) for name, rows in prepared.utterances.items()}
    assert counts == {"lj-train": 325, "lj-dev": 30, "lj-test": 30, "train": 325, "dev": 30, "test": 30}
    assert prepared.dropped == {}
    minutes = {name: sum(u.duration_s for u in rows) / 60 for name, rows in prepared.utterances.items()}
    assert minutes["train"] == pytest.approx(35.16, abs=0.01)  # SPEAKERS.TXT says so
    assert {u.meta["sex"] for u in prepared.utterances["train"] if u.meta} == {"F"}


def command(out: Path, url: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "asr",
        "prepare",
        "librispeech",
        "--mirror",
        url,
        "--subsets",
        ",".join(LJ),
        "--out",
        str(out),
        "--json",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("phase", ["download", "extraction"])
def test_killed_half_way_and_restarted_a_preparation_ends_with_the_same_bytes(mirror, tmp_path, phase):
    contents = {f"/resources/12/{name}.tar.gz": (mirror / f"resources/12/{name}.tar.gz").read_bytes() for name in LJ}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with serving(contents) as host:
        subprocess.run(command(whole, host.url), check=True, capture_output=True)
        host.pause_s = 0.002 if phase == "download" else 0.0
        process = subprocess.Popen(command(cut, host.url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watched = cut / "downloads" / "lj-train.tar.gz.part"
        flacs = cut / "LibriSpeech" / "lj-train" / "11049" / "2"
        while process.poll() is None:
            if phase == "download" and watched.is_file() and watched.stat().st_size > 5_000_000:
                break
            if phase == "extraction" and flacs.is_dir() and len([*flacs.iterdir()]) > 20:
                break
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        assert not (cut / "prepared.json").exists() and not (cut / "train.jsonl").exists()
        host.pause_s = 0.0
        before = len(host.asked)
        done = subprocess.run(command(cut, host.url), check=True, capture_output=True, text=True)
        again = [asked for asked in host.asked[before:] if "lj-train" in asked[0]]
        assert (len(again) == 1 and again[0][1]) if phase == "download" else not again
    assert json.loads(done.stdout)["utterances"]["train"] == 325
    assert files(cut) == files(whole)
