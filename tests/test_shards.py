from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import asr.data.sharding
from asr.data import audio, shards
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.sharding import write_shards
from asr.doctor import examine
from asr.errors import ConfigError, DataError
from asr.train import train
from tests.builders import build_corpus, noise, tiny_config, write_wav


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_corpus(tmp_path / "data", 8, seed=1, longest=6)
    build_corpus(tmp_path / "data", 3, seed=2, name="dev", longest=6)
    return tmp_path / "data"


def _shard(folder: Path, out: Path, shard_mib: int = 512, name: str = "train") -> manifests.Manifest:
    return manifests.read(write_shards(manifests.read(folder / f"{name}.jsonl"), out, shard_mib).manifest)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg"])
def test_a_member_is_read_as_the_file_it_was(tmp_path, suffix):
    import soundfile

    files = [tmp_path / f"{n}{suffix}" for n in "ab"]
    for seed, path in enumerate(files):
        soundfile.write(path, noise(1.5, seed=seed), 16000)
    rows = [Utterance(p.stem, p.name, 1.5, "x") for p in files]
    manifests.write(tmp_path / "all.jsonl", rows)
    out = _shard(tmp_path, tmp_path / "out", name="all")
    for row, path in zip(out, files, strict=True):
        member = out.audio_path(row)
        assert row.audio_path == f"shards/all-000000.tar#{path.name}"
        assert audio.info(member) == audio.info(path)
        for part in ({}, {"offset_s": 0.4, "duration_s": 0.5}):
            (one, rate), (other, other_rate) = audio.load(member, **part), audio.load(path, **part)
            assert rate == other_rate and np.array_equal(one, other)


def test_a_tar_file_made_by_tar_itself_is_read(tmp_path):
    # names of more than 100 letters, other kinds of members, "./" in front
    name = "n" * 120
    write_wav(tmp_path / "clips" / f"{name}.wav")
    (tmp_path / "clips" / "link.wav").symlink_to(f"{name}.wav")
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            tar.add(tmp_path / "clips", "./clips")
        member = f"{path}#clips/{name}.wav"
        assert np.array_equal(audio.load(member)[0], audio.load(tmp_path / "clips" / f"{name}.wav")[0])
        with pytest.raises(DataError, match=rf"{form}\.tar: holds no member 'clips/link\.wav'"):
            audio.load(f"{path}#clips/link.wav")


def test_training_on_shards_is_training_on_files_bit_for_bit(folder, tmp_path):
    for name in ("train", "dev"):
        assert [u.id for u in _shard(folder, tmp_path / "out", 1, name)]
    cfg = tiny_config("train.epochs=1", "augment.speeds=[0.9, 1.0, 1.1]", "batch.feature_cache_mib=0")
    train(cfg, folder, tmp_path / "files")
    train(cfg, tmp_path / "out", tmp_path / "shards")
    name = Path("best") / "model.safetensors"
    assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "shards" / name).read_bytes()


def test_the_doctor_finds_in_shards_what_it_finds_in_files(folder, tmp_path):
    rows = list(manifests.read(folder / "train.jsonl"))
    shutil.copyfile(folder / rows[0].audio_path, folder / rows[1].audio_path)  # the same audio twice
    content = (folder / rows[2].audio_path).read_bytes()
    (folder / rows[2].audio_path).write_bytes(content[: len(content) // 2])  # cut
    _shard(folder, tmp_path / "out")

    def found(path: Path) -> list[tuple[str, int]]:
        return [(f.code, f.count) for f in examine([path], deep=True).findings]

    expected = found(folder / "train.jsonl")
    assert {"duplicate-audio", "audio-truncated"} <= {code for code, _ in expected}
    assert found(tmp_path / "out" / "train.jsonl") == expected


# The index


def test_the_index_is_made_once_and_anew_when_the_tar_file_changes(folder, tmp_path, monkeypatch):
    out = _shard(folder, tmp_path / "out")
    member = out.audio_path(next(iter(out)))
    tar, _ = shards.split(member)
    scanned: list[Path] = []
    real = shards.find_members
    monkeypatch.setattr(shards, "find_members", lambda path: scanned.append(path) or real(path))
    for _ in range(3):
        audio.info(member)
    assert not scanned, "the writer leaves an index"
    before = audio.load(member)[0]
    with tarfile.open(tar, "w") as file:  # another tar file under the name: members elsewhere
        for name in ("junk.bin", member.name.partition("#")[2]):
            content = b"x" * 5000 if name == "junk.bin" else (folder / "wav" / name).read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    assert np.array_equal(audio.load(member)[0], before) and scanned == [tar]
    index = json.loads(shards.index_path(tar).read_text())
    assert index["bytes"] == tar.stat().st_size and set(index["members"]) == {"junk.bin", member.name.partition("#")[2]}


def test_an_index_of_another_tar_file_of_the_same_size_is_not_believed(tmp_path):
    members = {"a": b"1" * 100, "b": b"2" * 100}
    tar = tmp_path / "x.tar"

    def write(names: str, seconds: int) -> None:
        with tarfile.open(tar, "w") as file:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(members[name])
                file.addfile(info, io.BytesIO(members[name]))
        os.utime(tar, (seconds, seconds))

    for names, seconds in (("ab", 1000), ("ba", 2000)):
        write(names, seconds)
        for name, content in members.items():
            with shards.open_bytes(f"{tar}#{name}") as file:
                assert file.read() == content


def test_a_member_ends_where_it_ends_on_both_sides(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name in "abc":
            info = tarfile.TarInfo(name)
            info.size = 3
            file.addfile(info, io.BytesIO(name.encode() * 3))
    with shards.open_bytes(f"{tmp_path / 'x.tar'}#b") as file:
        assert file.raw.seek(-2, os.SEEK_END) == 1 and file.raw.read(9) == b"bb"
        assert file.raw.seek(-700, os.SEEK_END) == 0 and file.raw.read(9) == b"bbb"
        assert file.raw.seek(5) == 5 and file.raw.read(9) == b""


def test_a_sparse_member_whose_bytes_are_not_in_one_place_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as file:
        for name, kind in (("whole", tarfile.REGTYPE), ("hole", tarfile.GNUTYPE_SPARSE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            file.addfile(info)
    with pytest.raises(DataError, match=r"x\.tar: refused: member 'hole' is a sparse file"):
        shards.find_members(tmp_path / "x.tar")


def test_a_header_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.data.tar.TAR_HEADER", 2048)
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("a.wav")
        info.pax_headers = {"comment": "x" * 3000}
        file.addfile(info)
    with pytest.raises(DataError, match=r"x\.tar: refused: member '.*' has a header of 3,0\d\d bytes"):
        audio.load(tmp_path / "x.tar#a.wav")


def test_a_pipe_in_place_of_a_tar_file_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"x\.tar: cannot read the tar file: is a pipe or device"):
        audio.load(tmp_path / "x.tar#a.wav")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"format_version": 1, "bytes": 1, "mtime_ns": 2, "members": 3}',
        '{"format_version": 2, "bytes": %d, "mtime_ns": %d, "members": {"a.wav": [0.5, 1]}}',
        '{"format_version": 2, "bytes": %d, "mtime_ns": %d, "members": {"a.wav": [512, 9000000000]}}',
        '{"format_version": 2, "bytes": %d, "mtime_ns": %d, "members": {"a.wav": [512]}}',
    ],
)
def test_a_damaged_index_is_made_anew(folder, tmp_path, content):
    out = _shard(folder, tmp_path / "out")
    member = out.audio_path(next(iter(out)))
    tar, _ = shards.split(member)
    if "%d" in content:
        content %= (tar.stat().st_size, tar.stat().st_mtime_ns)
    shards.index_path(tar).write_text(content)
    assert audio.info(member).num_samples and json.loads(shards.index_path(tar).read_text())["members"]


def test_what_is_wrong_with_a_tar_file_is_one_line_that_names_it(folder, tmp_path):
    out = _shard(folder, tmp_path / "out")
    member = out.audio_path(next(iter(out)))
    tar, name = shards.split(member)
    whole = tar.read_bytes()
    shards.index_path(tar).unlink()
    zipped = tmp_path / "z.tar"
    zipped.write_bytes(gzip.compress(whole))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[:3000])
    empty = tmp_path / "empty.tar"
    empty.write_bytes(b"")
    for path, what in (
        (tmp_path / "no.tar", "cannot read the tar file: no such file"),
        (zipped, "compressed one must be unpacked"),
        (cut, "cut"),
        (empty, "holds no member|not a whole tar file"),
        (tmp_path / "x" / "a\0.tar", "impossible"),
    ):
        with pytest.raises(DataError, match=what) as caught:
            audio.load(f"{path}#{name}")
        assert "\n" not in str(caught.value) and path.stem.split("\0")[0] in str(caught.value)
    with tarfile.open(tmp_path / "zero.tar", "w") as file:
        file.addfile(tarfile.TarInfo("a.wav"))
    with pytest.raises(DataError, match=r"zero\.tar#a\.wav: the file is empty"):
        audio.load(tmp_path / "zero.tar#a.wav")


def test_a_folder_that_cannot_be_written_to_costs_only_time(folder, tmp_path, monkeypatch):
    out = _shard(folder, tmp_path / "out")
    member = out.audio_path(next(iter(out)))
    shards.index_path(shards.split(member)[0]).unlink()
    shards._opened.cache_clear()

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(shards, "write_index", refuse)
    assert audio.info(member).num_samples


def test_members_are_fetched_forwards_whatever_order_they_are_read_in(folder, tmp_path, monkeypatch):
    out = _shard(folder, tmp_path / "out")
    asked: list[int] = []
    monkeypatch.setattr(shards.Tar, "fetch", lambda self, count, offset: asked.append(offset))
    paths = [out.audio_path(u) for u in out]
    shards.read_ahead([*paths[::-1], tmp_path / "plain.wav", Path(f"{tmp_path}/no.tar#a")])
    assert len(asked) == len(paths) and asked == sorted(asked)


# Writing


def test_shards_hold_every_file_once_in_order_and_keep_their_size(folder, tmp_path):
    source = manifests.read(folder / "train.jsonl")
    rows = [replace(u, id=f"{u.id}.{i}/x") for u in source for i in range(2)]  # two rows a file, odd ids
    rows[3] = replace(rows[3], offset_s=0.1, duration_s=0.2, meta={"room": 4})
    manifests.write(folder / "odd.jsonl", rows)
    for seed in range(3):  # more than a MiB in all
        write_wav(folder / "wav" / f"long-{seed}.wav", noise(20, seed=seed))
        rows.append(Utterance(f"long-{seed}", f"wav/long-{seed}.wav", 20.0, "a"))
    manifests.write(folder / "odd.jsonl", rows)
    out = write_shards(manifests.read(folder / "odd.jsonl"), tmp_path / "out", 1)
    written = manifests.read(out.manifest)
    assert [replace(u, audio_path="") for u in written] == [replace(u, audio_path="") for u in rows]
    assert out.files == len(source) + 3 and len(out.shards) > 1 and not out.kept
    names = []
    for path in out.shards:
        assert path.stat().st_size <= 2**20 + 10240
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len(set(names)) == len(names) == 2 * out.files
    assert all(name.count(".") == 1 for name in names), "a key ends at the first dot"
    assert names[0].endswith(".wav") and names[1] == names[0].replace(".wav", ".json")
    for row in rows:
        new = next(u for u in written if u.id == row.id)
        assert np.array_equal(audio.load(written.audio_path(new))[0], audio.load(folder / row.audio_path)[0])


def test_ids_that_become_one_key_stay_apart(folder, tmp_path):
    rows = list(manifests.read(folder / "train.jsonl"))[:3]
    manifests.write(
        folder / "same.jsonl", [replace(u, id=id_) for u, id_ in zip(rows, ("a b", "a.b", "a/b"), strict=True)]
    )
    out = _shard(folder, tmp_path / "out", name="same")
    assert [u.audio_path.partition("#")[2] for u in out] == ["a_b.wav", "a_b-2.wav", "a_b-3.wav"]


def test_a_hard_link_in_a_tar_file_is_the_file_that_it_leads_to(tmp_path):
    write_wav(tmp_path / "a.wav")
    (tmp_path / "b.wav").hardlink_to(tmp_path / "a.wav")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.wav", "b.wav"):
            tar.add(tmp_path / name, name)
        assert tar.getmembers()[1].islnk()
    assert len(audio.load(tmp_path / "a.tar#b.wav")[0]) == 16000


def test_a_member_without_a_suffix_is_sharded_again(tmp_path):
    (tmp_path / "noext").write_bytes(write_wav(tmp_path / "a.wav").read_bytes())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "noext", "noext")
    manifests.write(tmp_path / "train.jsonl", [Utterance("u", "a.tar#noext", 1.0, "a")])
    (row,) = (out := _shard(tmp_path, tmp_path / "out"))
    assert row.audio_path == "shards/train-000000.tar#u"
    assert len(audio.load(out.audio_path(row))[0]) == 16000


def test_many_ids_of_one_key_take_no_time(tmp_path):
    write_wav(tmp_path / "a.wav", noise(0.01))
    rows = []
    for i in range(20_000):  # one by one from the start that is 200 million tries
        (tmp_path / f"{i}.wav").hardlink_to(tmp_path / "a.wav")
        rows.append(Utterance(chr(0x4E00 + i % 100) + chr(0x4E00 + i // 100), f"{i}.wav", 0.01, "a"))
    started = time.monotonic()
    items = asr.data.sharding._items(manifests.Manifest(tmp_path / "train.jsonl", rows))
    assert len({item.key for item in items}) == 20_000
    assert time.monotonic() - started < 10


def test_a_call_that_was_cut_goes_on_and_leaves_the_same_bytes(folder, tmp_path, monkeypatch):
    for seed in range(4):
        write_wav(folder / "wav" / f"long-{seed}.wav", noise(20, seed=seed))
    rows = [Utterance(f"long-{seed}", f"wav/long-{seed}.wav", 20.0, "a") for seed in range(4)]
    manifests.write(folder / "long.jsonl", rows)
    source = manifests.read(folder / "long.jsonl")
    whole = write_shards(source, tmp_path / "whole", 1)
    assert len(whole.shards) == 4

    class Cut(BaseException):
        pass

    calls = 0

    def advance() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Cut

    with pytest.raises(Cut):
        write_shards(source, tmp_path / "out", 1, advance)
    assert not (tmp_path / "out" / "long.jsonl").exists()
    again = write_shards(source, tmp_path / "out", 1)
    assert again.kept == 2
    for left, right in zip(again.shards, whole.shards, strict=True):
        assert left.read_bytes() == right.read_bytes()
    assert write_shards(source, tmp_path / "out", 1).kept == 4
    os.utime(folder / "wav" / "long-2.wav", ns=(1, 1))  # another file, for all that is known
    assert write_shards(source, tmp_path / "out", 1).kept == 3
    fewer = write_shards(source, tmp_path / "out", 512)
    assert sorted((tmp_path / "out" / "shards").glob("*.tar")) == fewer.shards


def test_a_full_disk_keeps_the_shards_that_are_whole(folder, tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(asr.data.sharding, "_add", full)
    with pytest.raises(DataError, match=r"train-000000\.tar: cannot write: no space left on device; run the same"):
        _shard(folder, tmp_path / "out")
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_what_cannot_be_sharded_is_one_line(folder):
    source = manifests.read(folder / "train.jsonl")
    with pytest.raises(ConfigError, match="is the manifest's own folder"):
        write_shards(source, folder)
    (folder / source.utterances[2].audio_path).unlink()
    with pytest.raises(DataError, match=rf"utt '{source.utterances[2].id}': cannot read the audio: no such file"):
        write_shards(source, folder.parent / "out")


HEADER = headers.Header(
    recipe="r",
    title="t",
    licence="l",
    homepage="h",
    normalization="lower",
    tokenizer="subwords.json",
    splits={},
    dropped=0,
    flagged_numbers=0,
    asr_version="0",
)


def test_the_header_and_its_tokenizer_come_along(folder, tmp_path):
    (folder / "subwords.json").write_text("{}")
    headers.write(folder, HEADER)
    _shard(folder, tmp_path / "out")
    assert headers.read(tmp_path / "out") == HEADER and (tmp_path / "out" / "subwords.json").exists()
    (folder / "prepared.json").unlink()
    (folder / "subwords.json").rename(folder / "tokenizer.json")  # as training takes it without a header
    _shard(folder, tmp_path / "without")
    assert (tmp_path / "without" / "tokenizer.json").read_text() == "{}"
    again = _shard(tmp_path / "out", tmp_path / "again")  # shards of shards
    assert audio.info(again.audio_path(next(iter(again)))).num_samples


def test_split_by_split_the_header_describes_all_that_is_sharded(folder, tmp_path):
    facts = {name: {"utterances": 1, "hours": 1.0, "speakers": 1} for name in ("train", "dev")}
    headers.write(folder, replace(HEADER, tokenizer="", splits=facts))
    _shard(folder, tmp_path / "out")
    assert headers.read(tmp_path / "out").splits == {"train": facts["train"]}
    _shard(folder, tmp_path / "out", name="dev")
    assert headers.read(tmp_path / "out").splits == facts


@pytest.mark.parametrize("other", ["ids", "recipe"])
def test_another_corpus_is_not_sharded_over_the_first(folder, tmp_path, other):
    headers.write(folder, replace(HEADER, tokenizer=""))
    before = _shard(folder, tmp_path / "out").path.read_bytes()
    rows = list(manifests.read(folder / "train.jsonl"))
    headers.write(folder, replace(HEADER, tokenizer="", recipe="other" if other == "recipe" else "r"))
    manifests.write(folder / "train.jsonl", rows if other == "recipe" else [replace(u, id=f"x{u.id}") for u in rows])
    with pytest.raises(ConfigError) as caught:
        _shard(folder, tmp_path / "out")
    said = f"is of other utterances than {folder / 'train.jsonl'}; choose another --out, or remove it"
    assert str(caught.value) == f"{tmp_path / 'out' / 'train.jsonl'} {said}"
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == before


def test_shards_of_other_texts_or_another_tokenizer_do_not_share_a_header(folder, tmp_path):
    (folder / "subwords.json").write_text("{}")
    headers.write(folder, HEADER)
    _shard(folder, tmp_path / "out")
    _shard(folder, tmp_path / "out")  # again is allowed
    headers.write(folder, replace(HEADER, normalization="upper"))
    with pytest.raises(ConfigError, match="prepared with text normalization lower, these have upper; choose another"):
        _shard(folder, tmp_path / "out")
    headers.write(folder, HEADER)
    (folder / "subwords.json").write_text("[]")
    with pytest.raises(ConfigError, match="another tokenizer than these; choose another"):
        _shard(folder, tmp_path / "out")
    (folder / "subwords.json").unlink()
    with pytest.raises(DataError, match="the tokenizer that the data speak of cannot be read: no such file"):
        _shard(folder, tmp_path / "out")
    (folder / "prepared.json").unlink()
    with pytest.raises(ConfigError, match="normalization lower, these have none"):
        _shard(folder, tmp_path / "out")
    assert (tmp_path / "out" / "subwords.json").read_text() == "{}" and headers.read(tmp_path / "out") == HEADER
