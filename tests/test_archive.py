from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asr.corpora.archive
import asr.download.remote
from asr.corpora.archive import MARK, DamagedArchive, extract, is_unpacked, unpack
from asr.errors import ConfigError, DataError
from asr.files import held

CONTENTS = {f"corpus/{i:02d}.bin": random.Random(i).randbytes(20_000 + i) for i in range(8)}


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def _archive(path: Path, contents: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in contents.items():
            _add(tar, name, content)
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _message(archive: Path, out: Path) -> str:
    """The error of an extraction, without the archive's name in front; nothing half-written may be left."""
    with pytest.raises(DataError) as caught:
        extract(archive, out)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{archive}: ")
    assert message.count(str(archive)) == 1
    assert not list(out.rglob("*.part"))
    return message.removeprefix(f"{archive}: ")


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_every_kind_of_tar_is_extracted_whole(tmp_path, compression):
    archive = _archive(tmp_path / "a.tar", CONTENTS, f"w:{compression}")
    written = extract(archive, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == list(CONTENTS)
    assert _files(tmp_path / "out") == CONTENTS


def test_only_wanted_files_are_written(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    extract(archive, tmp_path / "out", lambda name: name.endswith("03.bin"))
    assert list(_files(tmp_path / "out")) == ["corpus/03.bin"]


def test_a_broken_extraction_is_resumed_to_the_same_result(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    out = tmp_path / "out"
    (out / "corpus").mkdir(parents=True)
    whole, half = out / "corpus" / "00.bin", out / "corpus" / "01.bin"
    whole.write_bytes(CONTENTS["corpus/00.bin"])
    before = whole.stat().st_mtime_ns, whole.stat().st_ino
    half.write_bytes(CONTENTS["corpus/01.bin"][:100])
    (out / "corpus" / "02.bin.part").write_bytes(b"rest of a killed run")
    assert len(extract(archive, out)) == len(CONTENTS)
    assert _files(out) == CONTENTS
    assert (whole.stat().st_mtime_ns, whole.stat().st_ino) == before  # kept, not written again


def test_no_link_at_a_temporary_name_is_followed(tmp_path):
    archive, out = _archive(tmp_path / "a.tar.gz", CONTENTS), tmp_path / "out"
    (out / "corpus").mkdir(parents=True)
    (tmp_path / "other").write_bytes(b"keep")
    (out / "corpus" / "02.bin.part").symlink_to(tmp_path / "other")
    extract(archive, out)
    assert _files(out) == CONTENTS
    assert (tmp_path / "other").read_bytes() == b"keep"


def test_two_processes_do_not_extract_into_one_folder_at_once(tmp_path):
    archive, out = _archive(tmp_path / "a.tar.gz", CONTENTS), tmp_path / "out"
    (out / "corpus").mkdir(parents=True)
    with held(out / "corpus", "busy"), pytest.raises(ConfigError, match="another process is extracting there; wait"):
        unpack(archive, out, "corpus")
    assert list(_files(out)) == [f"corpus/{MARK}"]
    unpack(archive, out, "corpus")
    assert is_unpacked(out / "corpus")


def test_a_cut_archive_costs_nothing_that_a_whole_one_gave_before(tmp_path):
    archive, out = tmp_path / "a.tar.gz", tmp_path / "out"
    extract(_archive(archive, CONTENTS), out)
    archive.write_bytes(archive.read_bytes()[:-200])
    _message(archive, out)
    assert _files(out) == CONTENTS


def test_a_cut_archive_can_be_fetched_again_and_completed(tmp_path):
    archive, out = tmp_path / "a.tar.gz", tmp_path / "out"
    whole = _archive(archive, CONTENTS).read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "fetch it again" in _message(archive, out)
    archive.write_bytes(whole)
    extract(archive, out)
    assert _files(out) == CONTENTS


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("../evil", {}, "refused: member '../evil' would be written outside the target folder"),
        ("a/../../evil", {}, "refused: member 'a/../../evil' would be written outside the target folder"),
        ("/tmp/evil", {}, "refused: member '/tmp/evil' would be written outside the target folder"),
        ("C:/evil", {}, "refused: member 'C:/evil' would be written outside the target folder"),
        ("..\\evil", {}, "refused: member '..\\evil' would be written outside the target folder"),
        (
            "link",
            {"type": tarfile.SYMTYPE, "linkname": "../../etc"},
            "refused: member 'link' links outside the archive ('../../etc')",
        ),
        (
            "link",
            {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
            "refused: member 'link' links outside the archive ('/etc/passwd')",
        ),
        (
            "link",
            {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
            "refused: member 'link' links outside the archive ('/etc/passwd')",
        ),
        (
            "link",
            {"type": tarfile.LNKTYPE, "linkname": "../secret"},
            "refused: member 'link' links outside the archive ('../secret')",
        ),
    ],
)
def test_a_member_that_leaves_the_target_is_refused_and_named(tmp_path, name, fields, message):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        _add(tar, name, b"" if fields else b"evil", **fields)
    out = tmp_path / "deep" / "out"
    assert _message(archive, out) == message
    assert not list(tmp_path.rglob("*evil*"))
    assert not (out / "link").is_symlink()


def test_a_folder_that_is_a_symlink_out_of_the_target_is_refused(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", {"corpus/x": b"x"})
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "corpus").symlink_to(elsewhere)
    assert _message(archive, out).startswith("refused: member 'corpus/x' would be written outside")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_a_hard_link_is_the_file_that_it_leads_to(tmp_path, mode, caplog):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, mode) as tar:
        for name in ("a", "unwanted"):
            _add(tar, name, name.encode() * 400)
        _add(tar, "b", type=tarfile.LNKTYPE, linkname="a")
        _add(tar, "c", type=tarfile.LNKTYPE, linkname="./b")
        _add(tar, "d", type=tarfile.LNKTYPE, linkname="unwanted")
        _add(tar, "last", b"x")
    for _ in range(2):
        extract(archive, tmp_path / "out", lambda name: name != "unwanted")
        a, d = b"a" * 400, b"unwanted" * 400
        assert _files(tmp_path / "out") == {"a": a, "b": a, "c": a, "d": d, "last": b"x"}
    assert not caplog.records


def test_of_two_members_with_one_name_the_later_counts_whatever_their_sizes(tmp_path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for content in (b"one", b"two"):
            _add(tar, "a", content)
    for _ in range(2):
        assert extract(archive, tmp_path / "out") == [tmp_path / "out" / "a"]
        assert _files(tmp_path / "out") == {"a": b"two"}


def test_links_inside_the_archive_are_left_out_and_said(tmp_path, caplog):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        _add(tar, "a", b"content")
        _add(tar, "b", type=tarfile.SYMTYPE, linkname="a")
        _add(tar, "c", type=tarfile.LNKTYPE, linkname="nowhere")
        _add(tar, "unwanted", type=tarfile.SYMTYPE, linkname="a")
    written = extract(archive, tmp_path / "out", lambda name: name != "unwanted")
    assert [p.name for p in written] == ["a"]
    assert [r.getMessage() for r in caplog.records] == [
        f"{archive}: left out 'b', a link to 'a'",
        f"{archive}: left out 'c', a link to 'nowhere'",
    ]


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_a_cut_archive_is_an_error_wherever_it_is_cut(tmp_path, compression, share):
    archive = _archive(tmp_path / "a.tar", CONTENTS, f"w:{compression}")
    whole = archive.read_bytes()
    end = len(whole) if compression else whole.rindex(CONTENTS["corpus/07.bin"]) + 20_007  # not in the padding
    archive.write_bytes(whole[: int(end * share)])
    assert "fetch it again" in _message(archive, tmp_path / "out")


@pytest.mark.parametrize("rest", [0, 100, 512])
def test_a_plain_tar_that_is_cut_between_two_members_is_an_error(tmp_path, rest):
    # The header of the next member is gone, in part or whole: tarfile by itself takes that for the end.
    archive = _archive(tmp_path / "a.tar", CONTENTS, "w:")
    whole = archive.read_bytes()
    start = whole.index(b"corpus/05.bin")
    assert start % 512 == 0
    archive.write_bytes(whole[: start + (rest if rest != 512 else 0)] + (b"\xff" * 512 if rest == 512 else b""))
    assert _message(archive, tmp_path / "out").startswith("not a whole tar archive (")


def test_damage_in_the_middle_of_a_compressed_archive_is_an_error(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    assert "fetch it again" in _message(archive, tmp_path / "out")


def test_damage_that_only_the_checksum_shows_is_an_error(tmp_path):
    # Stored, not compressed: a flipped bit is still a valid deflate stream, so only gzip's CRC can tell.
    archive = tmp_path / "a.tar.gz"
    plain = _archive(tmp_path / "a.tar", CONTENTS, "w:").read_bytes()
    content = bytearray(gzip.compress(plain, compresslevel=0))
    position = content.index(CONTENTS["corpus/03.bin"][5000:5100])
    content[position] ^= 1
    archive.write_bytes(content)
    out = tmp_path / "out"
    assert "fetch it again" in _message(archive, out)
    # and what came out of it is not taken for whole by the next run
    archive.write_bytes(gzip.compress(plain))
    extract(archive, out)
    assert _files(out) == CONTENTS


SMALL = {f"corpus/{i}.txt": f"{i}".encode() * 700 for i in range(3)}


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:xz"])
@given(data=st.data())
def test_a_damaged_archive_never_fails_otherwise_than_in_one_line(tmp_path_factory, mode, data):
    folder = tmp_path_factory.mktemp("damaged")
    archive = _archive(folder / "a.tar", SMALL, mode)
    content = bytearray(archive.read_bytes())
    position = data.draw(st.integers(0, min(len(content), 6144) - 1))
    count = data.draw(st.integers(1, 8))
    content[position : position + count] = data.draw(st.binary(min_size=count, max_size=count))
    archive.write_bytes(content)
    try:
        extract(archive, folder / "out")
    except DataError as error:
        assert str(error).startswith(f"{archive}: ")
        assert "\n" not in str(error)
    else:
        # a plain tar has no checksum of its contents, but xz and gzip have one
        assert mode == "w:" or _files(folder / "out") == SMALL


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", b"x" * 5000, b"\x1f\x8b" + b"x" * 5000, b"PK\x03\x04" + b"0" * 2000]
)
def test_a_file_that_is_no_tar_archive_is_an_error(tmp_path, content):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    assert _message(archive, tmp_path / "out").startswith("not a whole tar archive (")


def test_a_missing_archive_and_a_folder_are_named(tmp_path):
    assert _message(tmp_path / "none.tar", tmp_path / "out") == "cannot read the archive: no such file or directory"
    (tmp_path / "folder").mkdir()
    assert _message(tmp_path / "folder", tmp_path / "out") == "cannot read the archive: is a directory"


def test_a_target_that_cannot_be_written_is_an_error_with_the_reason(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    (tmp_path / "file").write_text("")
    message = _message(archive, tmp_path / "file" / "out")
    assert message.startswith(f"cannot extract to {tmp_path / 'file' / 'out'}: ")
    assert message.endswith(("not a directory", "file exists"))


# unpack: an archive that fills a folder, once


def test_an_unpacked_archive_is_not_extracted_twice(tmp_path, monkeypatch):
    archive, out = _archive(tmp_path / "a.tar.gz", CONTENTS), tmp_path / "out"
    unpack(archive, out, "corpus")
    assert is_unpacked(out / "corpus")
    before = _files(out)
    monkeypatch.setattr(asr.corpora.archive, "extract", None)
    unpack(archive, out, "corpus")
    assert _files(out) == before
    assert before.keys() - CONTENTS.keys() == {f"corpus/{MARK}"}


@pytest.mark.parametrize("damage", ["missing file", "no mark", "mark that is no JSON", "mark of something else"])
def test_what_is_not_whole_is_extracted_again(tmp_path, damage):
    archive, out = _archive(tmp_path / "a.tar.gz", CONTENTS), tmp_path / "out"
    unpack(archive, out, "corpus")
    if damage == "missing file":
        (out / "corpus" / "03.bin").unlink()
    elif damage == "no mark":
        (out / "corpus" / MARK).unlink()
    else:
        (out / "corpus" / MARK).write_text("{" if damage == "mark that is no JSON" else '["files"]')
    assert not is_unpacked(out / "corpus")
    unpack(archive, out, "corpus")
    assert is_unpacked(out / "corpus")
    assert _files(out).items() >= CONTENTS.items()


def test_a_damaged_archive_leaves_no_mark(tmp_path):
    archive, out = _archive(tmp_path / "a.tar.gz", CONTENTS), tmp_path / "out"
    archive.write_bytes(archive.read_bytes()[:-300])
    with pytest.raises(DamagedArchive, match="not a whole tar archive"):
        unpack(archive, out, "corpus")
    assert not is_unpacked(out / "corpus")
    assert _files(out) == {}


def test_another_archive_is_not_mixed_into_a_folder_that_is_filled(tmp_path):
    out = tmp_path / "out"
    unpack(_archive(tmp_path / "a.tar.gz", CONTENTS), out, "corpus")
    other = _archive(tmp_path / "b.tar.gz", {"corpus/x": b"x"})
    with pytest.raises(
        DataError, match=rf"{out / 'corpus'}: was extracted from another archive .*; delete that folder"
    ):
        unpack(other, out, "corpus")
    assert not (out / "corpus" / "x").exists()


@pytest.mark.parametrize("how", ["killed", "a file removed"])
def test_two_versions_of_an_archive_are_not_mixed(tmp_path, monkeypatch, how):
    out = tmp_path / "out"
    first = _archive(tmp_path / "a.tar.gz", CONTENTS)
    other = _archive(tmp_path / "b.tar.gz", {name: bytes(len(content)) for name, content in CONTENTS.items()})
    assert first.stat().st_size != other.stat().st_size
    if how == "killed":
        _kill_after(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt):
            unpack(first, out, "corpus")
        monkeypatch.undo()
    else:
        unpack(first, out, "corpus")
        (out / "corpus" / "03.bin").unlink()
    with pytest.raises(DataError, match=r"corpus: was extracted from another archive .*; delete that folder"):
        unpack(other, out, "corpus")
    kept = (out / "corpus" / "00.bin").stat().st_ino
    unpack(first, out, "corpus")
    assert _files(out).items() >= CONTENTS.items()
    assert (out / "corpus" / "00.bin").stat().st_ino == kept


def test_files_of_an_archive_that_nobody_knows_are_written_again(tmp_path):
    out = tmp_path / "out"
    extract(_archive(tmp_path / "a.tar.gz", {name: bytes(len(content)) for name, content in CONTENTS.items()}), out)
    unpack(_archive(tmp_path / "b.tar.gz", CONTENTS), out, "corpus")
    assert _files(out).items() >= CONTENTS.items()


def _kill_after(monkeypatch, files):
    count = 0

    def killed(*args: object) -> None:
        nonlocal count
        count += 1
        if count > files:
            raise KeyboardInterrupt
        shutil.copyfileobj(*args)

    monkeypatch.setattr(asr.corpora.archive, "shutil", SimpleNamespace(copyfileobj=killed))


def test_an_archive_of_something_else_is_refused_with_what_it_holds(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", {"LibriSpeech/dev-clean/1/x": b"x"})
    with pytest.raises(DataError) as caught:
        unpack(archive, tmp_path / "out", "LibriSpeech/train-clean-100")
    assert str(caught.value) == (
        f"{archive}: holds no LibriSpeech/train-clean-100/: is this the right archive? (it has LibriSpeech/dev-clean)"
    )
    assert not (tmp_path / "out" / "LibriSpeech" / "train-clean-100").exists()


def test_an_archive_without_what_is_needed_does_not_deny_its_folder(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", {"corpus/x.mp3": b"x"})
    with pytest.raises(DataError, match=r"holds no file that is needed in corpus/: .* \(it has corpus/x\.mp3\)"):
        unpack(archive, tmp_path / "out", "corpus", lambda name: name.endswith(".wav"))


def test_an_extraction_that_was_interrupted_needs_room_for_its_rest_only(tmp_path, monkeypatch):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    extract(archive, tmp_path / "out")
    free = archive.stat().st_size // 5
    monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    unpack(archive, tmp_path / "out", "corpus")
    assert is_unpacked(tmp_path / "out" / "corpus")


def test_a_file_that_will_not_fit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        _add(tar, "corpus/small", b"s" * 900)
        _add(tar, "corpus/large", b"l" * 1001)
    monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r"'corpus/large' in a\.tar\.gz takes 0\.0 MB, but 0\.0 MB are free; make room"):
        extract(archive, tmp_path / "out")
    assert list(_files(tmp_path / "out")) == ["corpus/small"]


def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.limits._UNPACKED_FREE", 20_000)
    monkeypatch.setattr("asr.limits.UNPACKED_RATIO", 2)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("is_wanted", [True, False])
def test_what_unpacks_to_far_more_than_its_size_is_refused_before_it_is_read(
    tmp_path, monkeypatch, compression, is_wanted
):
    _small_limits(monkeypatch)
    archive = _archive(tmp_path / "a.tar", {"corpus/zeros": bytes(100_000)}, f"w:{compression}")
    with pytest.raises(DataError, match="unpacks to more than 2 times its size") as caught:
        extract(archive, tmp_path / "out", lambda name: is_wanted)
    assert not isinstance(caught.value, DamagedArchive)  # it is kept: another copy would be no better
    assert _files(tmp_path / "out") == {}


def test_zeros_after_the_end_of_an_archive_are_not_unpacked_for_ever(tmp_path, monkeypatch):
    _small_limits(monkeypatch)
    whole = _archive(tmp_path / "a.tar", {"corpus/x": b"x"}, "w").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole + bytes(50_000)))
    assert "unpacks to more than 2 times its size" in _message(tmp_path / "a.tar.gz", tmp_path / "out")


def test_copies_that_hard_links_make_count_as_unpacked(tmp_path, monkeypatch):
    _small_limits(monkeypatch)
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        _add(tar, "corpus/x", bytes(10_000))
        for i in range(20):
            _add(tar, f"corpus/{i}", type=tarfile.LNKTYPE, linkname="corpus/x")
    assert "unpacks to more than 2 times its size" in _message(archive, tmp_path / "out")
    assert sum(map(len, _files(tmp_path / "out").values())) < 3 * archive.stat().st_size


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_sparse_member_is_refused_in_both_forms(tmp_path, compression):
    with tarfile.open(tmp_path / "gnu.tar", f"w:{compression}", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "corpus/hole", type=tarfile.GNUTYPE_SPARSE)
    with tarfile.open(tmp_path / "pax.tar", f"w:{compression}", format=tarfile.PAX_FORMAT) as tar:
        about = {"GNU.sparse.map": "0,5", "GNU.sparse.size": "5000000000", "GNU.sparse.name": "corpus/hole"}
        _add(tar, "corpus/hole", b"12345", pax_headers=about)
    for name in ("gnu.tar", "pax.tar"):
        assert _message(tmp_path / name, tmp_path / "out").startswith("refused: member 'corpus/hole' is a sparse file")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_header_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, form, compression):
    monkeypatch.setattr("asr.data.tar.TAR_HEADER", 2048)
    with tarfile.open(tmp_path / "a.tar", f"w:{compression}", format=form) as tar:
        _add(tar, "corpus/" + 5000 * "x")
    assert "has a header of 5,0" in _message(tmp_path / "a.tar", tmp_path / "out")
    monkeypatch.undo()
    assert "cannot extract to" in _message(tmp_path / "a.tar", tmp_path / "out")  # the system's own limit of names


def test_a_size_that_no_memory_has_is_one_line(tmp_path):
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_LONGNAME
    for size in (1 << 60, -1024):
        header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
        header[148:156] = b" " * 8
        header[148:155] = b"%06o\0" % sum(header)
        (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(10240))
        assert f"has a header of {size:,} bytes" in _message(tmp_path / "a.tar", tmp_path / "out")


def test_names_before_names_without_end_are_damage(tmp_path):
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_LONGNAME
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    (tmp_path / "a.tar").write_bytes(2000 * bytes(header) + bytes(10240))
    assert _message(tmp_path / "a.tar", tmp_path / "out").startswith("not a whole tar archive (")


def test_more_members_than_any_corpus_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.data.tar.TAR_MEMBERS", len(CONTENTS) - 1)
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    assert _message(archive, tmp_path / "out") == "refused: has more than 7 members, which no corpus has"


def test_an_archive_that_asks_for_more_memory_than_there_is_is_one_line(tmp_path, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise MemoryError

    archive = _archive(tmp_path / "a.tar.xz", CONTENTS, "w:xz")
    monkeypatch.setattr("lzma.LZMAFile.read", refuse)
    assert "cannot be unpacked in the memory that is free" in _message(archive, tmp_path / "out")


def test_a_pipe_in_place_of_an_archive_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tar.gz")
    assert "is a pipe or device" in _message(tmp_path / "a.tar.gz", tmp_path / "out")


def test_an_archive_that_will_not_fit_is_refused_before_it_is_extracted(tmp_path, monkeypatch):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    monkeypatch.setattr(asr.download.remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r"extracting a\.tar\.gz takes 0\.2 MB, but 0\.0 MB are free; make room"):
        unpack(archive, tmp_path / "out", "corpus")
    assert not (tmp_path / "out").exists()


def test_a_sparse_member_is_refused_before_its_map_is_read(tmp_path):
    header = bytearray(tarfile.TarInfo("corpus/a").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1  # the map goes on in the next block, of which there is none
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header))
    with pytest.raises(DataError, match="'corpus/a' is a sparse file"):
        extract(path, tmp_path / "out")
