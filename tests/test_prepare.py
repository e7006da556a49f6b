from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import manifest
from asr.config import load as load_config
from asr.errors import ConfigError, DataError
from asr.manifest import Utterance
from asr.prepare import (
    Prepared,
    extract,
    find_config,
    find_recipe,
    held_out_speakers,
    recipe_configs,
    recipe_names,
    recipes_folder,
    stable_hash,
    write_splits,
)
from tests.builders import noise, sphere_bytes

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


def test_links_inside_the_archive_are_left_out_and_said(tmp_path, caplog):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        _add(tar, "a", b"content")
        _add(tar, "b", type=tarfile.SYMTYPE, linkname="a")
        _add(tar, "c", type=tarfile.LNKTYPE, linkname="a")
        _add(tar, "unwanted", type=tarfile.SYMTYPE, linkname="a")
    written = extract(archive, tmp_path / "out", lambda name: name != "unwanted")
    assert [p.name for p in written] == ["a"]
    assert [r.getMessage() for r in caplog.records] == [
        f"{archive}: left out 'b', a link to 'a'",
        f"{archive}: left out 'c', a link to 'a'",
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


def test_stable_hash_is_the_same_on_every_machine():
    assert stable_hash("fash") == pytest.approx(0.653517, abs=1e-6)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_stable_hash_is_in_the_unit_interval(text):
    assert 0 <= stable_hash(text) < 1


NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=40, unique=True)


@given(NAMES, st.randoms())
def test_held_out_speakers_depend_on_the_names_alone(names, rng):
    held_out = held_out_speakers(names, 0.1, "corpus")
    assert held_out <= set(names)
    assert len(held_out) == max(1, round(0.1 * len(names)))
    shuffled = names * 2
    rng.shuffle(shuffled)
    assert held_out_speakers(shuffled, 0.1, "corpus") == held_out


@given(NAMES, st.text("xyz", min_size=1, max_size=4))
def test_one_more_speaker_moves_at_most_one_other(names, extra):
    before, after = held_out_speakers(names, 0.2, "s"), held_out_speakers([*names, extra], 0.2, "s")
    assert len(before - after) <= 1
    assert len(after - before - {extra}) <= 1


def test_write_splits_sorts_and_names_empty_splits(tmp_path):
    rows = [Utterance(id_, f"{id_}.wav", 30.0, "a", "s") for id_ in ("b", "a")]
    prepared = write_splits(tmp_path, {"train": rows}, {"c": "no transcript"})
    assert [u.id for u in manifest.read(tmp_path / "train.jsonl")] == ["a", "b"]
    assert prepared.manifests == {"train": tmp_path / "train.jsonl"}
    assert prepared.summary() == [
        "train: 2 utterances, 0.02 h, 1 speakers",
        "kept 2 of 3",
        "dropped c: no transcript",
    ]
    with pytest.raises(DataError) as caught:
        write_splits(tmp_path / "other", {"train": rows, "dev": [], "test": []}, {})
    assert str(caught.value) == f"{tmp_path / 'other'}: nothing left for dev, test: is this the right archive?"
    assert not (tmp_path / "other").exists()


def test_a_summary_of_many_dropped_rows_says_how_many_more():
    lines = Prepared({}, {}, {f"u{i}": "why" for i in range(12)}).summary()
    assert lines[0] == "kept 0 of 12"
    assert len(lines) == 12
    assert lines[-1] == "… and 2 more"


# an4, on an archive made here


def _an4_archive(path: Path, *, without: tuple[str, ...] = (), extra: dict[str, bytes] | None = None) -> Path:
    """The AN4 layout in small: 5 training speakers and 2 test speakers of 3 utterances each."""
    contents: dict[str, bytes] = {"an4/LICENSE": b"free\n", "an4/README": b"not wanted\n"}
    rng = np.random.default_rng(0)
    for split, speakers in (("train", ["fash", "mblb", "fbbh", "mmxg", "ffmm"]), ("test", ["fcaw", "mjgm"])):
        names, lines = [], []
        for speaker in speakers:
            for i in range(3):
                id_ = f"an{i}-{speaker}-b"
                names.append(f"an4{split if split == 'test' else ''}_clstk/{speaker}/{id_}")
                text = f"GO {'ABC'[i]}"
                lines.append(f"<s> {text} </s> ({id_})" if split == "train" else f"{text} ({id_})")
                wave = noise(float(rng.uniform(0.1, 0.3)), seed=i)
                contents[f"an4/wav/{names[-1]}.sph"] = sphere_bytes(wave)
        contents[f"an4/etc/an4_{split}.fileids"] = ("\n".join(names) + "\n").encode()
        contents[f"an4/etc/an4_{split}.transcription"] = ("\n".join(lines) + "\n").encode()
    contents = {k: v for k, v in contents.items() if k not in without} | (extra or {})
    return _archive(path, contents)


def _an4():
    return find_recipe("an4")[0]


def test_an4_gives_three_splits_with_no_speaker_in_two(tmp_path):
    out = tmp_path / "an4"
    prepared = _an4().prepare(out, _an4_archive(tmp_path / "a.tar.gz"))
    splits = {name: manifest.read(path) for name, path in prepared.manifests.items()}
    assert {name: len(m) for name, m in splits.items()} == {"train": 12, "dev": 3, "test": 6}
    speakers = [m.speakers for m in splits.values()]
    assert len(set.union(*speakers)) == sum(map(len, speakers)) == 7
    assert splits["test"].speakers == {"fcaw", "mjgm"}
    assert prepared.dropped == {}
    for split in splits.values():
        for utterance in split:
            assert utterance.text == f"GO {'ABC'[int(utterance.id[2])]}"
            assert split.audio_path(utterance).is_file()
            assert 0.1 <= utterance.duration_s <= 0.3
    assert not (out / "an4" / "README").exists()
    assert (out / "an4" / "LICENSE").exists()
    assert not list(out.rglob("*.part"))


def test_an4_prepared_twice_gives_the_same_bytes(tmp_path):
    archive = _an4_archive(tmp_path / "a.tar.gz")
    _an4().prepare(tmp_path / "out", archive)
    before = _files(tmp_path / "out")
    _an4().prepare(tmp_path / "out", archive)
    assert _files(tmp_path / "out") == before


def test_an4_drops_and_names_what_has_no_transcript_no_audio_or_no_entry(tmp_path):
    whole = _an4_archive(tmp_path / "whole.tar.gz")
    with tarfile.open(whole) as tar:
        text = tar.extractfile("an4/etc/an4_train.transcription").read().decode()
    text = text.replace("<s> GO A </s> (an0-fash-b)\n", "").replace("GO B </s> (an1-fash-b)", "</s> (an1-fash-b)")
    text += "<s> LOST </s> (an9-none-b)\n"
    archive = _an4_archive(
        tmp_path / "a.tar.gz",
        without=("an4/wav/an4_clstk/mblb/an0-mblb-b.sph",),
        extra={
            "an4/etc/an4_train.transcription": text.encode(),
            "an4/wav/an4_clstk/mblb/an1-mblb-b.sph": b"not audio",
            "an4/wav/an4_clstk/mblb/an2-mblb-b.sph": sphere_bytes(np.zeros(0)),
        },
    )
    out = tmp_path / "out"
    prepared = _an4().prepare(out, archive)
    folder = out / "an4" / "wav" / "an4_clstk" / "mblb"
    bad = prepared.dropped.pop("an1-mblb-b")
    assert bad.startswith(f"{folder / 'an1-mblb-b.sph'}: not audio that can be read")
    assert prepared.dropped == {
        "an0-fash-b": "no transcript",
        "an1-fash-b": "no transcript",
        "an9-none-b": "not listed in an4_train.fileids",
        "an0-mblb-b": f"{folder / 'an0-mblb-b.sph'}: cannot read the audio: no such file or directory",
        "an2-mblb-b": "no samples",
    }
    kept = {u.id for rows in prepared.utterances.values() for u in rows}
    assert len(kept) == 21 - 5
    assert "kept 16 of 21" in prepared.summary()


def test_an4_says_where_a_transcript_is_malformed(tmp_path):
    archive = _an4_archive(
        tmp_path / "a.tar.gz",
        extra={"an4/etc/an4_train.transcription": b"<s> GO A </s> (an0-fash-b)\nNO ID HERE\n"},
    )
    with pytest.raises(DataError) as caught:
        _an4().prepare(tmp_path / "out", archive)
    path = tmp_path / "out" / "an4" / "etc" / "an4_train.transcription"
    assert str(caught.value) == f"{path}:2: expected 'TEXT (utterance-id)'"


def test_an4_says_which_file_is_not_utf8_and_which_is_missing(tmp_path):
    name = "an4/etc/an4_train.fileids"
    with pytest.raises(DataError) as caught:
        _an4().prepare(tmp_path / "1", _an4_archive(tmp_path / "a.tar.gz", extra={name: b"caf\xe9\n"}))
    assert str(caught.value) == f"{tmp_path / '1' / name}: not UTF-8 text (invalid continuation byte at byte 3)"
    with pytest.raises(DataError) as caught:
        _an4().prepare(tmp_path / "2", _an4_archive(tmp_path / "b.tar.gz", without=(name,)))
    assert str(caught.value) == f"{tmp_path / '2' / name}: cannot read: no such file or directory"


def test_an4_refuses_another_archive_and_asks_for_one(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    with pytest.raises(DataError) as caught:
        _an4().prepare(tmp_path / "out", archive)
    assert str(caught.value) == (
        f"{archive}: holds no an4/etc/an4_train.transcription: is this the AN4 SPHERE archive?"
    )
    with pytest.raises(DataError, match=r"^an4 needs --archive FILE: an4_sphere"):
        _an4().prepare(tmp_path / "out", None)


def test_an4_real_archive_has_948_and_130_utterances(shared_data, tmp_path):
    archive = shared_data / "an4_sphere.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    prepared = _an4().prepare(tmp_path, archive)
    counts = {name: len(rows) for name, rows in prepared.utterances.items()}
    assert counts["train"] + counts["dev"] == 948
    assert counts["test"] == 130
    assert prepared.dropped == {}
    speakers = {name: {u.speaker for u in rows} for name, rows in prepared.utterances.items()}
    assert len(speakers["train"] | speakers["dev"]) == 74
    assert len(speakers["dev"]) == 7
    assert not speakers["train"] & speakers["dev"]
    assert len(speakers["test"]) == 10
    assert sum(u.duration_s for u in prepared.utterances["test"]) / 60 == pytest.approx(6.0, abs=0.1)


# finding recipes and configs


def test_every_recipe_here_is_found_by_name_with_its_facts():
    assert "an4" in recipe_names()
    for name in recipe_names():
        recipe, folder = find_recipe(name)
        assert recipe.name == name
        assert folder == recipes_folder() / name
        assert recipe.title
        assert recipe.licence
        assert recipe.sample_rate_hz >= 8000
        for config in recipe_configs(folder):
            assert find_config(f"{name}/{config}") == folder / "conf" / f"{config}.yaml"


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        find_recipe("an5")
    assert str(caught.value) == f"no recipe 'an5' (known: {', '.join(recipe_names())}); did you mean 'an4'?"


RECIPE = """
from pathlib import Path
from asr.prepare import Prepared, Recipe
{more}
def prepare(out: Path, archive: Path | None) -> Prepared:
    return Prepared({{}}, {{}}, {{"u": WHY}})

RECIPE = Recipe("mine", "My corpus", 1.0, 16000, "mine", "", prepare)
"""


def test_a_recipe_folder_of_ones_own_is_found_by_path_and_may_import_beside_itself(tmp_path):
    folder = tmp_path / "my-corpus 2"
    folder.mkdir()
    (folder / "facts.py").write_text("WHY = 'from beside'\n")
    (folder / "recipe.py").write_text(RECIPE.format(more="from .facts import WHY"))
    recipe, found = find_recipe(str(folder))
    assert found == folder
    assert recipe.title == "My corpus"
    assert recipe.prepare(tmp_path, None).dropped == {"u": "from beside"}


def test_a_recipe_folder_without_a_recipe_in_it_is_named(tmp_path):
    (tmp_path / "recipe.py").write_text("RECIPE = 'an4'\n")
    with pytest.raises(DataError) as caught:
        find_recipe(str(tmp_path))
    assert str(caught.value) == f"{tmp_path / 'recipe.py'}: defines no RECIPE (an asr.prepare.Recipe)"


def test_a_config_is_found_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim:\n  lr: 0.5\n")
    assert find_config(str(path)) == path
    assert load_config(find_config(str(path))).optim.lr == 0.5


def test_an_unknown_config_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"^no config file 'an4/nothing' and no such recipe config \(known: "):
        find_config("an4/nothing")
