"""The recipes of corpora that come as one archive, on tiny archives in each corpus's exact layout."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shlex
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from asr.cli import commands
from asr.corpora.catalogue import find_recipe
from asr.corpora.prepare import Prepared, prepare
from asr.corpora.recipe import Request
from asr.data import audio, manifest
from asr.errors import AsrError, ConfigError, DataError
from tests.builders import sphere_bytes

TONE = np.sin(np.arange(8000) / 20).astype(np.float32) / 4


def encoded(format: str, rate_hz: int = 16000, wave_n: np.ndarray = TONE) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, wave_n, rate_hz, format=format)
    return content.getvalue()


def build(path: Path, contents: Mapping[str, bytes | str], links: Mapping[str, str] | None = None) -> Path:
    """A tar archive, compressed as its name says, with the folders as members of their own, as tar makes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = {".bz2": "w:bz2", ".gz": "w:gz", ".tgz": "w:gz"}[path.suffix]
    folders = {str(parent) for name in contents for parent in Path(name).parents} - {"."}
    with tarfile.open(path, mode) as tar:
        for name in sorted(folders):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        for name, content in contents.items():
            raw = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def run(recipe: str, out: Path, *archives: Path, **asked: str) -> Prepared:
    prepared = prepare(find_recipe(recipe)[0], Request(out, archive=archives, **asked))  # type: ignore[arg-type]
    for path in prepared.manifests.values():
        read = manifest.read(path)
        for utterance in read:  # what is written can be loaded as it says
            wave, _ = audio.load(
                read.audio_path(utterance), offset_s=utterance.offset_s, duration_s=utterance.duration_s
            )
            assert len(wave)
    return prepared


def ids(prepared: Prepared) -> dict[str, list[str]]:
    return {name: [u.id for u in rows] for name, rows in prepared.utterances.items()}


def one_line(error: pytest.ExceptionInfo[AsrError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ljspeech


def ljspeech(path: Path) -> Path:
    names = ["LJ001-0001", "LJ001-0002", "LJ049-0001", "LJ050-0001"]
    texts = {name: f"{name[2:5]} “quoted”|Two hundred, “quoted”" for name in names}
    table = "".join(f"{name}|{text}\n" for name, text in texts.items()) + "LJ050-0002|only here|gone\n"
    wave = encoded("WAV", 22050)
    files = {f"LJSpeech-1.1/wavs/{name}.wav": wave for name in names}
    return build(path, {"LJSpeech-1.1/README": "LJ", "LJSpeech-1.1/metadata.csv": table, **files})


def test_ljspeech_is_split_by_chapter_and_has_the_normalised_texts(tmp_path):
    prepared = run("ljspeech", tmp_path / "out", ljspeech(tmp_path / "lj.tar.bz2"))
    assert ids(prepared) == {"train": ["LJ001-0001", "LJ001-0002"], "dev": ["LJ049-0001"], "test": ["LJ050-0001"]}
    (row,) = prepared.utterances["test"]
    assert (row.text, row.speaker, row.audio_path) == (
        "TWO HUNDRED QUOTED",
        "LJ",
        "LJSpeech-1.1/wavs/LJ050-0001.wav",
    )
    assert list(prepared.dropped) == ["LJ050-0002"]
    assert "no such file" in prepared.dropped["LJ050-0002"]


def test_a_line_of_ljspeech_without_three_fields_is_one_line(tmp_path):
    contents = {
        "LJSpeech-1.1/metadata.csv": "LJ001-0001|a|a\nLJ001-0002|a\n",
        "LJSpeech-1.1/wavs/x.wav": TONE.tobytes(),
    }
    archive = build(tmp_path / "lj.tar.bz2", contents)
    with pytest.raises(DataError) as error:
        run("ljspeech", tmp_path / "out", archive)
    assert one_line(error).endswith("metadata.csv:2: expected 'id|text|normalised text', got 2 fields")


def test_an_archive_with_the_published_name_must_be_the_published_file(tmp_path):
    with pytest.raises(DataError, match="expected 2,748,572,632"):
        run("ljspeech", tmp_path / "out", ljspeech(tmp_path / "LJSpeech-1.1.tar.bz2"))


def test_an_archive_with_another_name_that_is_not_the_published_file_is_used_and_said(tmp_path, caplog):
    archive = ljspeech(tmp_path / "mine.tar.bz2")
    assert ids(run("ljspeech", tmp_path / "out", archive))["dev"] == ["LJ049-0001"]
    (said,) = [line for line in caplog.messages if "bytes, expected 2,748,572,632: not the published" in line]
    assert said.startswith(f"{archive}: ")
    assert said.endswith("; used all the same, as it has another name than LJSpeech-1.1.tar.bz2")


# fsdd


def fsdd(path: Path, top: str = "free-spoken-digit-dataset-1.0.10") -> Path:
    names = [
        f"{digit}_{who}_{index}" for digit in (0, 3) for who in ("theo", "lucas") for index in (0, 4, 5, 9, 10, 49)
    ]
    files = {f"{top}/recordings/{name}.wav": encoded("WAV", 8000) for name in names}
    readme = {f"{top}/README.md": "FSDD", f"{top}/recordings/odd.wav": encoded("WAV", 8000)}
    return build(path, readme | files)


@pytest.mark.parametrize("top", ["free-spoken-digit-dataset-1.0.10", "free-spoken-digit-dataset"])
def test_fsdd_is_split_by_the_number_of_the_recording(tmp_path, top):
    prepared = run("fsdd", tmp_path / "out", fsdd(tmp_path / "x.tar.gz", top))
    assert {name: {i.rpartition("_")[2] for i in found} for name, found in ids(prepared).items()} == {
        "train": {"10", "49"},
        "dev": {"5", "9"},
        "test": {"0", "4"},
    }
    assert {(u.id[0], u.text) for u in prepared.utterances["train"]} == {("0", "ZERO"), ("3", "THREE")}
    assert {u.speaker for u in prepared.utterances["test"]} == {"theo", "lucas"}
    assert prepared.dropped == {"odd": "its name is not digit_speaker_number"}


# yesno


def yesno(path: Path) -> Path:
    names = ["_".join(f"{number * 37 % 256:08b}") for number in range(60)]
    wave = encoded("WAV", 8000)
    return build(path, {"waves_yesno/README": "yes no"} | {f"waves_yesno/{name}.wav": wave for name in names})


def test_an_archive_that_was_packed_again_is_read_or_refused_in_one_line(tmp_path):
    wave = encoded("WAV", 8000)
    names = ["_".join(f"{i:08b}") for i in range(60)]
    flat = build(tmp_path / "flat.tgz", {"README": "yes no"} | {f"{name}.wav": wave for name in names})
    with pytest.raises(DataError, match=r"flat\.tgz: its files are in no folder: is this the archive as"):
        run("yesno", tmp_path / "flat", flat)
    assert not (tmp_path / "flat" / "README").exists()
    apple = tmp_path / "apple.tgz"
    with tarfile.open(apple, "w:gz") as tar:
        for name, content in {
            "._waves_yesno": b"x",
            "notes.txt": b"x",
            "waves_yesno/README": b"yes no",
            **{f"waves_yesno/{name}.wav": wave for name in names},
        }.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(run("yesno", tmp_path / "out", apple).utterances["train"]) > 20


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_damaged_before_its_folder_is_one_line(tmp_path, pack):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        note = tarfile.TarInfo("NOTE")
        note.size = 300_000
        tar.addfile(note, io.BytesIO(np.random.default_rng(0).bytes(300_000)))
        tar.addfile(tarfile.TarInfo("waves_yesno/README"))
    content = bytearray(pack(whole.getvalue()))
    for at in range(100_000, 200_000, 1000):
        content[at] ^= 255
    archive = tmp_path / "y.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(DataError) as error:
        run("yesno", tmp_path / "out", archive)
    assert "y.tar.gz: not a whole tar archive" in one_line(error)


def test_yesno_has_icefalls_splits(tmp_path):
    prepared = run("yesno", tmp_path / "out", yesno(tmp_path / "y.tar.gz"))
    found = ids(prepared)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 27, "dev": 3, "test": 30}
    every = sorted(found["train"] + found["dev"] + found["test"])
    assert every[1::2] == sorted(found["test"]), "so both parts have recordings that begin with either word"
    row = prepared.utterances["test"][0]
    assert row.text == " ".join("YES" if c == "1" else "NO" for c in row.id.split("_"))


# speechocean762


def speechocean(path: Path) -> Path:
    contents: dict[str, bytes | str] = {"speechocean762/README": "x", "speechocean762/resource/scores.json": "{}"}
    for split, first in (("train", 1), ("test", 5)):
        rows: dict[str, str] = dict.fromkeys(("wav.scp", "text", "utt2spk", "spk2gender", "spk2age"), "")
        for speaker in range(first, first + 4):
            name, wav = f"{speaker:04d}", f"WAVE/SPEAKER{speaker:04d}/{speaker:04d}0011.WAV"
            contents[f"speechocean762/{wav}"] = encoded("WAV")
            rows["wav.scp"] += f"{name}0011\t{wav}\n"
            rows["text"] += f"{name}0011\tWE CALL IT BEAR\n"
            rows["utt2spk"] += f"{name}0011\t{name}\n"
            rows["spk2gender"] += f"{name}\tm\n"
            rows["spk2age"] += f"{name}\t{15 if speaker % 2 else 19}\n"
        contents |= {f"speechocean762/{split}/{key}": text for key, text in rows.items()}
    return build(path, contents)


def test_speechocean762_tells_children_from_adults_and_holds_out_training_speakers(tmp_path):
    prepared = run("speechocean762", tmp_path / "out", speechocean(tmp_path / "s.tar.gz"))
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {"train": 3, "test": 4, "dev": 1}
    assert [(u.meta or {})["group"] for u in prepared.utterances["test"]] == ["child", "adult", "child", "adult"]
    assert prepared.utterances["test"][0].audio_path == "speechocean762/WAVE/SPEAKER0005/00050011.WAV"
    assert not (tmp_path / "out" / "speechocean762" / "resource").exists()


# commonvoice

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\n"


def commonvoice(path: Path, **tables: str | None) -> Path:
    root = "cv-corpus-17.0-2024-03-15/uk"
    contents: dict[str, bytes | str] = {}
    own: dict[str, str | None] = {"validated": HEADER}
    for number, split in enumerate(("train", "dev", "test")):
        clip = f"common_voice_uk_{number}.mp3"
        row = f'c{number}\t{clip}\ts1\tСлава {split}, "каже\t2\t0\ttwenties\tmale_masculine\t\tuk\n'
        own[split] = HEADER + row
        contents[f"{root}/clips/{clip}"] = encoded("MP3", 32000)
    contents |= {f"{root}/{name}.tsv": table for name, table in (own | tables).items() if table is not None}
    return build(path, contents)


def test_commonvoice_keeps_the_splits_of_the_release(tmp_path):
    prepared = run("commonvoice", tmp_path / "out", commonvoice(tmp_path / "cv-corpus-17.0-2024-03-15-uk.tar.gz"))
    assert ids(prepared) == {
        "train": ["common_voice_uk_0"],
        "dev": ["common_voice_uk_1"],
        "test": ["common_voice_uk_2"],
    }
    (row,) = prepared.utterances["train"]
    assert (row.text, row.speaker) == ("слава train каже", "c0")
    assert row.meta == {"language": "uk", "age": "twenties", "gender": "male_masculine"}
    assert row.duration_s == pytest.approx(0.25, abs=0.05)


def test_an_empty_split_of_commonvoice_says_what_to_do_and_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = "c{0}\tcommon_voice_uk_{0}.mp3\ts\tСлава, “{0}”\t2\t0\t\t\t\tuk\n"
    archive = commonvoice(tmp_path / "cv.tar.gz", dev=HEADER, validated=HEADER + "".join(map(clip.format, range(3))))
    with pytest.raises(DataError) as error:
        run("commonvoice", tmp_path / "an out", archive)
    said = one_line(error)
    assert "/uk/dev.tsv: has no rows, as the language is small; all its clips: asr prepare csv " in said
    command = shlex.split(said.partition(": asr ")[2])
    assert command[-2:] == ["--out", "DIR"]
    done = CliRunner().invoke(commands(), command)
    assert done.exit_code == 0, done.output
    rows = {
        name: [(u.text, u.speaker) for u in manifest.read(Path("DIR") / f"{name}.jsonl")] for name in ("train", "dev")
    }
    assert sorted(rows["train"] + rows["dev"]) == [(f"слава {i}", f"c{i}") for i in range(3)]
    assert len(rows["dev"]) == 1


def test_an_empty_split_of_commonvoice_without_the_table_of_all_clips_says_so(tmp_path):
    archive = commonvoice(tmp_path / "cv.tar.gz", dev=HEADER, validated=None)
    with pytest.raises(DataError, match=r"validated\.tsv, which has all clips, is not beside it"):
        run("commonvoice", tmp_path / "out", archive)


def test_a_split_of_commonvoice_of_which_no_clip_is_there_names_the_first(tmp_path):
    row = "c1\tcommon_voice_uk_9.mp3\ts\tСлава\t2\t0\t\t\t\tuk\n"
    with pytest.raises(
        DataError, match=r"no clip can be used \(1 left out; the first: common_voice_uk_9: .*no such file"
    ):
        run("commonvoice", tmp_path / "out", commonvoice(tmp_path / "cv.tar.gz", dev=HEADER + row))


def test_a_line_feed_in_a_sentence_of_commonvoice_makes_no_half_sentence(tmp_path):
    # as mozilla/common-voice issue 4429 found them in releases
    row = "c{0}\tcommon_voice_uk_{0}.mp3\ts\t{1}\t2\t0\ttwenties\t\t\tuk\n"
    table = HEADER + row.format(0, "ціле") + row.format(2, "половина\nречення") + row.format(1, "друге")
    prepared = run("commonvoice", tmp_path / "out", commonvoice(tmp_path / "cv.tar.gz", train=table))
    assert {u.text for u in prepared.utterances["train"]} == {"ціле", "друге"}
    assert prepared.dropped == {
        "train.tsv:3": "4 fields, the header names 10: is a line feed or a tab in a text?",
        "train.tsv:4": "7 fields, the header names 10: is a line feed or a tab in a text?",
    }


def test_another_table_than_commonvoices_is_one_line(tmp_path):
    with pytest.raises(DataError) as error:
        run("commonvoice", tmp_path / "out", commonvoice(tmp_path / "cv.tar.gz", train="client\tpath\tsentence\n"))
    assert "train.tsv: has no column 'client_id'; did you mean 'client'? (columns: client, path, sentence)" in one_line(
        error
    )


def test_commonvoice_without_an_archive_says_where_to_get_one(tmp_path):
    with pytest.raises(ConfigError, match="commonvoice needs --archive FILE: cv-corpus"):
        run("commonvoice", tmp_path / "out")


# tedlium3


def tedlium(path: Path) -> Path:
    root = "TEDLIUM_release-3"
    stm = {
        "data": "A_2010 1 A_2010 0.05 0.25 <o,f0,male> it 's {NOISE} the(2) first <sil> one (A_2010-1)\n"
        "A_2010 1 A_2010 0.25 0.45 <o,f0,male> an <unk> word\n",
        "legacy/dev": ";; a comment\nB_2011 1 B_2011 0.00 0.30 <o,f0,female> dev <unk> words\n"
        "B_2011 1 inter_segment_gap 0.30 0.40 <o,,unknown> ignore_time_segment_in_scoring\n",
        "legacy/test": "C_2012 1 C_2012 0.10 0.50 <o,f0,male> test words\nC_2012 1 C_2012 0.4 0.9 <o,f0,male> late\n"
        "C_2012 1 C_2012 0.4 0.45 <o,f0,male> {NOISE}\n",
    }
    contents: dict[str, bytes | str] = {f"{root}/README": "TED"}
    for part, text in stm.items():
        talk = text.replace(";; a comment\n", "").split()[0]
        contents[f"{root}/{part}/stm/{talk}.stm"] = text
        contents[f"{root}/{part}/sph/{talk}.sph"] = sphere_bytes(TONE)
    links = {f"{root}/legacy/train/stm/A_2010.stm": "../../../data/stm/A_2010.stm"}
    contents[f"{root}/speaker-adaptation/train.lst"] = "A_2010\n"
    return build(path, contents, links)


def test_tedlium3_reads_segments_of_the_legacy_distribution(tmp_path):
    prepared = run("tedlium3", tmp_path / "out", tedlium(tmp_path / "t.tgz"))
    rows = {u.id: u for found in prepared.utterances.values() for u in found}
    shown = {i: (u.text, u.speaker, u.offset_s, u.duration_s, (u.meta or {})["gender"]) for i, u in rows.items()}
    assert shown == {
        "A_2010-0000005-0000025": ("it's the first one", "A_2010", 0.05, 0.2, "m"),
        "B_2011-0000000-0000030": ("dev words", "B_2011", 0.0, 0.3, "f"),
        "C_2012-0000010-0000050": ("test words", "C_2012", 0.1, 0.4, "m"),
    }
    assert prepared.dropped == {"C_2012-0000040-0000090": "ends at 0.90 s, but the file at 0.50 s"}
    assert prepared.excluded == {
        "A_2010-0000025-0000045": "holds <unk>, a word that nobody wrote down",
        "B_2011-0000030-0000040": "marked ignore_time_segment_in_scoring",
        "C_2012-0000040-0000045": "holds no word",
    }
    assert "left out on purpose 1: holds no word" in prepared.summary()
    assert list(ids(prepared)) == ["train", "dev", "test"]


@pytest.mark.parametrize(
    "line",
    [
        "A 1 A 0 x <o> hi",
        "A 1 A",
        "rest of a text",
        "and then at 5 10 people came",
        "A 1 A 0.0 0.3 without a label",
        "A 1 A 0 inf <o> hi",
        "A 1 A nan 1 <o> hi",
    ],
)
def test_a_broken_stm_line_is_one_line(tmp_path, line):
    root = "TEDLIUM_release-3"
    stm = f"A 1 A 0.0 0.3 <o> hi\n{line}\n"
    contents = {f"{root}/legacy/dev/stm/B.stm": "B 1 B\n", f"{root}/data/stm/A.stm": stm}
    with pytest.raises(DataError) as error:
        run("tedlium3", tmp_path / "out", build(tmp_path / "t.tgz", contents))
    assert one_line(error).endswith("A.stm:2: expected 'talk channel speaker begin end <label> text'")


# what they share


@pytest.mark.parametrize("make", [fsdd, yesno, speechocean, tedlium, ljspeech, commonvoice])
def test_a_second_run_gives_the_same_and_a_folder_serves_like_its_archive(tmp_path, make):
    names = {"speechocean": "speechocean762", "tedlium": "tedlium3"}
    recipe = names.get(make.__name__, make.__name__)
    archive = make(tmp_path / ("a.tgz" if make is tedlium else f"a.tar{'.bz2' if make is ljspeech else '.gz'}"))
    first = run(recipe, tmp_path / "out", archive)
    archive.unlink()
    if make is not commonvoice:  # which needs an archive, as nothing can be downloaded
        assert ids(run(recipe, tmp_path / "out")) == ids(first)  # unpacked already
    again = run(recipe, tmp_path / "elsewhere", tmp_path / "out")
    assert ids(again) == ids(first)
    for name, rows in again.utterances.items():
        paths = [str(tmp_path / "out" / u.audio_path) for u in first.utterances[name]]
        assert [u.audio_path for u in rows] == paths


#: what a Mac puts beside every file that it copies or packs
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "


@pytest.mark.parametrize("make", [fsdd, yesno, speechocean, tedlium, ljspeech, commonvoice])
def test_a_corpus_that_a_mac_has_packed_or_copied_gives_the_same(tmp_path, make):
    names = {"speechocean": "speechocean762", "tedlium": "tedlium3"}
    recipe = names.get(make.__name__, make.__name__)
    suffix = ".tgz" if make is tedlium else f".tar{'.bz2' if make is ljspeech else '.gz'}"
    archive = make(tmp_path / f"a{suffix}")
    with tarfile.open(archive) as tar:
        contents = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    packed: dict[str, bytes | str] = {}
    for name, content in contents.items():  # the note comes before its file, as bsdtar writes it
        path = Path(name)
        packed[f"._{path.parts[0]}"] = packed[f"{path.parent}/._{path.name}"] = APPLE_DOUBLE
        packed[f"__MACOSX/{path.parent}/._{path.name}"] = packed[f"{path.parent}/.DS_Store"] = APPLE_DOUBLE
        packed[f"__MACOSX/{name}"] = content
        packed[name] = content
    first = run(recipe, tmp_path / "plain", archive)
    second = run(recipe, tmp_path / "out", build(tmp_path / f"mac{suffix}", packed))
    assert (ids(second), list(second.dropped)) == (ids(first), list(first.dropped))
    hidden = [
        p for p in (tmp_path / "out").rglob("*") if p.name.startswith("._") or p.name in ("__MACOSX", ".DS_Store")
    ]
    assert hidden == []
    for name, content in packed.items():  # copied file by file
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    third = run(recipe, tmp_path / "out3", tmp_path / "copy")
    assert (ids(third), list(third.dropped)) == (ids(first), list(first.dropped))


def test_an_mp3_beside_an_apple_double_is_read(tmp_path):
    (tmp_path / "a.mp3").write_bytes(encoded("MP3"))
    duration_s = audio.info(tmp_path / "a.mp3").duration_s
    (tmp_path / "._a.mp3").write_bytes(APPLE_DOUBLE)
    assert audio.info(tmp_path / "a.mp3").duration_s == duration_s
    assert len(audio.load(tmp_path / "a.mp3")[0])


@pytest.mark.parametrize("recipe", ["an4", "fsdd", "yesno", "speechocean762", "tedlium3", "ljspeech", "commonvoice"])
def test_a_foreign_archive_or_folder_is_one_line_that_says_so(tmp_path, recipe):
    archive = build(
        tmp_path / "x.tar.gz", {"other/file.wav": b"x", "other/train/x.mp3": b"x", "other/data/x.sph": b"x"}
    )
    (tmp_path / "empty").mkdir()
    for given in (archive, tmp_path / "empty"):
        with pytest.raises(DataError, match="holds no ") as error:
            run(recipe, tmp_path / "out", given)
        assert one_line(error).startswith(f"{given}: ")


@pytest.mark.parametrize("recipe", ["an4", "fsdd", "yesno", "speechocean762", "tedlium3", "ljspeech"])
def test_a_dead_link_says_what_to_do(tmp_path, recipe):
    with pytest.raises(DataError) as error:
        run(recipe, tmp_path / "out", mirror="http://127.0.0.1:9")
    text = one_line(error)
    assert "--archive" in text
    assert find_recipe(recipe)[0].homepage in text


def test_a_mirror_folder_serves_the_archive(tmp_path):
    yesno(tmp_path / "mirror" / "resources" / "1" / "waves_yesno.tar.gz")
    prepared = run("yesno", tmp_path / "out", mirror=(tmp_path / "mirror").as_uri())
    assert len(prepared.utterances["test"]) == 30


def test_a_folder_of_archives_is_looked_into_for_the_published_name(tmp_path):
    yesno(tmp_path / "archives" / "waves_yesno.tar.gz")
    prepared = run("yesno", tmp_path / "out", tmp_path / "archives")
    assert prepared.utterances["test"][0].audio_path.startswith("waves_yesno/")


def test_two_archives_are_refused(tmp_path):
    archive = yesno(tmp_path / "y.tar.gz")
    with pytest.raises(ConfigError, match="yesno takes one --archive, not 2"):
        run("yesno", tmp_path / "out", archive, archive)


@pytest.mark.parametrize("recipe", ["an4", "fsdd", "yesno", "speechocean762", "tedlium3", "ljspeech", "commonvoice"])
def test_each_has_a_readme_with_its_facts(recipe):
    found, folder = find_recipe(recipe)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert found.homepage in text
    assert all(config.stem in text for config in folder.glob("conf/*.yaml"))
    for word in ("Licence", "Splits", "Normalisation", "Speakers", "Hours"):
        assert word in text, word
    for remote in found.files:
        assert remote.url in text


# the real thing


def test_the_real_fsdd_has_its_official_test_set(shared_data, tmp_path):
    archive = shared_data / "free-spoken-digit-dataset.tar.gz"
    if not archive.is_file():
        pytest.skip("needs the Free Spoken Digit Dataset")
    prepared = prepare(find_recipe("fsdd")[0], Request(tmp_path, archive=(archive,)))
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {"train": 2400, "dev": 300, "test": 300}
    assert prepared.dropped == {}
    assert len({u.speaker for u in prepared.utterances["test"]}) == 6


def test_the_real_speechocean762_as_a_folder(shared_data, tmp_path):
    folder = shared_data / "speechocean762"
    if not folder.is_dir():
        pytest.skip("needs speechocean762")
    prepared = prepare(find_recipe("speechocean762")[0], Request(tmp_path, archive=(folder,)))
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {"train": 2260, "test": 2500, "dev": 240}
    groups = [(u.meta or {})["group"] for u in prepared.utterances["test"]]
    assert (groups.count("child"), groups.count("adult")) == (1280, 1220)
