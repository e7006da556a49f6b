from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import files
from asr.corpora.importers import IMPORTERS, kaldi, nemo, table
from asr.corpora.paths import ids_of
from asr.corpora.prepare import Prepared, prepare
from asr.corpora.recipe import Request
from asr.data import manifest
from asr.data.lines import numbered
from asr.data.manifest import Utterance
from asr.errors import AsrError, ConfigError, DataError
from tests.builders import noise, sphere_bytes, write_wav

TONE = np.sin(np.arange(8000) / 20).astype(np.float32) / 4  # half a second at 16 kHz


def run(importer: str, source: Path, out: Path, **options: str) -> Prepared:
    return prepare(IMPORTERS[importer], Request(out, sources=(source,), options=options))


def by_id(path: Path) -> dict[str, Utterance]:
    return {u.id: u for u in manifest.read(path)}


def one_line(error: pytest.ExceptionInfo[AsrError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def data_dir(folder: Path, ids: list[str], separator: str = " ", audio: str = "../wav/{}.wav", **files: str) -> Path:
    """A Kaldi data directory, and half a second of audio for each id in ``wav`` beside it."""
    for id_ in ids:
        write_wav(folder.parent / "wav" / f"{id_}.wav", TONE)
    write(folder / "wav.scp", "".join(f"{i}{separator}{audio.format(i)}\n" for i in ids))
    write(folder / "text", "".join(f"{i}{separator}TEXT OF {i.upper()}\n" for i in ids))
    for name, content in files.items():
        write(folder / name, content)
    return folder


# Kaldi


@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_a_kaldi_directory_gives_one_manifest_named_like_it(tmp_path, separator):
    folder = data_dir(tmp_path / "test", ["a-1", "b-1"], separator, utt2spk="a-1 a\nb-1\tb\n")
    prepared = run("kaldi", folder, tmp_path / "out")
    assert list(prepared.manifests) == ["test"]
    assert prepared.dropped == {}
    found = by_id(tmp_path / "out" / "test.jsonl")
    assert [(u.text, u.speaker, u.duration_s) for u in found.values()] == [
        ("TEXT OF A-1", "a", 0.5),
        ("TEXT OF B-1", "b", 0.5),
    ]
    assert found["a-1"].audio_path == str(tmp_path / "wav" / "a-1.wav")


def test_a_folder_of_kaldi_directories_gives_a_manifest_for_each(tmp_path):
    for name in ("train", "test"):
        data_dir(tmp_path / "data" / name, [f"{name}-1"])
    write(tmp_path / "data" / "local" / "lexicon.txt", "A AH\n")
    prepared = run("kaldi", tmp_path / "data", tmp_path / "out")
    assert {name: [u.id for u in rows] for name, rows in prepared.utterances.items()} == {
        "test": ["test-1"],
        "train": ["train-1"],
    }


def test_segments_become_offsets_into_their_recordings(tmp_path):
    folder = data_dir(
        tmp_path / "data", ["rec"], segments="u1 rec 0.1 0.25\nu2 rec 0.3 -1\nu3 rec 0.4 0.505\nu4 rec 0 0.2\n"
    )
    write(folder / "text", "u1 ONE\nu2 TWO\nu3 THREE\nu4 FOUR\n")
    run("kaldi", folder, tmp_path / "out")
    found = by_id(tmp_path / "out" / "data.jsonl")
    assert {i: (u.offset_s, u.duration_s) for i, u in found.items()} == {
        "u1": (0.1, 0.15),
        "u2": (0.3, 0.2),
        "u3": (0.4, 0.1),  # 5 ms past the end is rounding: cut there
        "u4": (0.0, 0.2),
    }


@pytest.mark.parametrize("base", ["folder", "parent", "here"])
def test_relative_paths_are_found_from_the_folder_its_parent_or_here_and_that_is_said(
    tmp_path, monkeypatch, caplog, base
):
    folder = data_dir(tmp_path / "corpus" / "train", ["a"], audio="clips/{}.wav")
    start = {"folder": folder, "parent": folder.parent, "here": tmp_path / "here"}[base]
    write_wav(start / "clips" / "a.wav", TONE)
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    caplog.set_level(logging.INFO, "asr")
    run("kaldi", folder, tmp_path / "out")
    assert by_id(tmp_path / "out" / "train.jsonl")["a"].audio_path == str(start / "clips" / "a.wav")
    assert f"{folder / 'wav.scp'}: relative audio paths are taken from {start}" in caplog.messages


def test_relative_paths_that_lead_nowhere_are_one_line_that_names_where_was_looked(tmp_path):
    folder = data_dir(tmp_path / "train", ["a"], audio="clips/{}.wav")
    with pytest.raises(DataError) as error:
        run("kaldi", folder, tmp_path / "out")
    text = one_line(error)
    assert "none of 1 relative audio paths leads to a file" in text
    assert f"tried from {folder}, {tmp_path}, " in text
    assert "'clips/a.wav'" in text


def test_audio_below_the_output_folder_is_named_relative_to_it(tmp_path):
    folder = data_dir(tmp_path / "out" / "train", ["a"])
    run("kaldi", folder, tmp_path / "out")
    assert by_id(tmp_path / "out" / "train.jsonl")["a"].audio_path == "wav/a.wav"


def test_age_and_gender_go_into_meta_and_decide_the_group(tmp_path):
    ids = ["a", "b", "c", "d"]
    folder = data_dir(
        tmp_path / "x",
        ids,
        utt2spk="a A\nb B\nc C\nd D\n",
        spk2gender="A m\nB f\n",
        spk2age="A 15\nB 16\nC unknown\n",
    )
    run("kaldi", folder, tmp_path / "out")
    assert {i: u.meta for i, u in by_id(tmp_path / "out" / "x.jsonl").items()} == {
        "a": {"gender": "m", "age": 15, "group": "child"},
        "b": {"gender": "f", "age": 16, "group": "adult"},
        "c": {"age": "unknown"},
        "d": None,
    }


@pytest.mark.parametrize("entry", ["sph2pipe -f wav -p /x/a.sph |", "| gunzip -c a.wav.gz", "flac -c -d -s a.flac|"])
def test_a_command_in_wav_scp_is_refused_with_the_reason_and_a_way_out(tmp_path, entry):
    folder = data_dir(tmp_path / "train", ["a", "b"])
    write(folder / "wav.scp", f"b ../wav/b.wav\na {entry}\n")
    with pytest.raises(DataError) as error:
        run("kaldi", folder, tmp_path / "out")
    text = one_line(error)
    assert text.startswith(f"{folder / 'wav.scp'}:2: 'a' is a command ('{entry[:20]}")
    assert "an import runs none" in text
    assert "write its output to files" in text
    assert not list((tmp_path / "out").glob("*"))


def two_channels(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([TONE, TONE / 2], axis=1), 16000)


def test_reco2file_and_channel_says_which_channel_of_a_recording_is_meant(tmp_path):
    names = ("call-A", "call-B", "chat-1", "chat-2", "mono-B", "mono-0", "two-0", "two-left", "none")
    lines = {name: f"{name} {name.partition('-')[0]} {name.partition('-')[2]}\n" for name in names}
    folder = data_dir(tmp_path / "train", list(names))
    for name in names:
        if "mono" not in name:
            two_channels(tmp_path / "wav" / f"{name}.wav")
    write(folder / "reco2file_and_channel", "".join(line for name, line in lines.items() if name != "none"))
    prepared = run("kaldi", folder, tmp_path / "out")
    channels = {u.id: u.channel for u in prepared.utterances["train"]}
    assert channels == {"call-A": 1, "call-B": 2, "chat-1": 1, "chat-2": 2, "mono-B": None, "mono-0": None}
    assert list(prepared.dropped) == ["two-0", "two-left", "none"]
    assert all("2 channels, expected 1; add --mix" in why for why in prepared.dropped.values())
    mixed = run("kaldi", folder, tmp_path / "out2", mix="yes")
    assert {u.id: u.channel for u in mixed.utterances["train"]} == channels | {
        "two-0": "mix",
        "two-left": "mix",
        "none": "mix",
    }


def test_a_channel_in_segments_counts_from_0_and_before_the_other_file(tmp_path):
    segments = "a r 0 0.2 0\nb r 0 0.2 1\nc r 0.2 0.4\n"
    folder = data_dir(tmp_path / "train", ["r"], segments=segments, reco2file_and_channel="r call B\n")
    two_channels(tmp_path / "wav" / "r.wav")
    write(folder / "text", "a ONE\nb TWO\nc THREE\n")
    prepared = run("kaldi", folder, tmp_path / "out")
    assert {u.id: u.channel for u in prepared.utterances["train"]} == {"a": 1, "b": 2, "c": 2}


@pytest.mark.parametrize(
    ("text", "kept", "line"),
    [
        ("u1 ONE\nu2 HALF\nOF IT\nu3 TWO\n", ["u1", "u3"], 3),  # before all ids
        ("u1 ONE\nu2 HALF\nzones of it\nu3 TWO\n", ["u1", "u3"], 3),  # after all of them
        ("u1 ONE\nu2 HALF\nOF\nIT\nu3 TWO\n", ["u1", "u3"], 3),
        ("u1 ONE\nu2 TWO\nu3 HALF\nOF IT\n", ["u1", "u2"], 4),  # at the end
        ("u1 ONE\nu2 TWO\nu2x ANOTHER\nu3 THREE\nu4 FOUR\n", ["u1", "u2", "u3"], 0),  # utterances without audio
        ("u3 ONE\nu1 TWO\nx OTHER\nu2 THREE\n", ["u1", "u2", "u3"], 0),  # nothing can be said: not in order
    ],
)
def test_a_line_feed_in_a_kaldi_text_makes_no_half_text(tmp_path, text, kept, line):
    folder = data_dir(tmp_path / "train", ["u1", "u2", "u3"], text=text)
    prepared = run("kaldi", folder, tmp_path / "out")
    assert [u.id for u in prepared.utterances["train"]] == kept
    said = [why for why in prepared.dropped.values() if "its text may go on" in why]
    assert [f"may go on in line {line}, which has no known id" in why for why in said] == [True] * (line > 0)


def test_audio_inside_a_kaldi_archive_is_refused(tmp_path):
    folder = data_dir(tmp_path / "train", ["a"])
    write(folder / "wav.scp", "a data/wav.ark:17\n")
    with pytest.raises(DataError, match=r"wav.scp:1: 'a' lies in a Kaldi archive \('data/wav.ark:17'\); write one"):
        run("kaldi", folder, tmp_path / "out")


def test_what_cannot_be_used_is_dropped_each_with_its_reason(tmp_path):
    good = ["good", "bare", "silent", "missing", "empty", "noise", "stereo"]
    folder = data_dir(tmp_path / "train", good)
    wav = tmp_path / "wav"
    write_wav(wav / "silent.wav", np.zeros(0, np.float32))
    (wav / "missing.wav").unlink()
    write(wav / "empty.wav", b"")
    write(wav / "noise.wav", b"no audio at all" * 9)
    soundfile.write(wav / "stereo.wav", np.zeros((800, 2)), 16000)
    text = (folder / "text").read_text().replace("TEXT OF BARE", "")
    write(folder / "text", text + "ghost NOBODY SAID IT\n")
    write(folder / "wav.scp", (folder / "wav.scp").read_text() + "silence ../wav/good.wav\n")
    prepared = run("kaldi", folder, tmp_path / "out")
    assert [u.id for u in prepared.utterances["train"]] == ["good"]
    assert prepared.dropped == {
        "bare": f"{folder / 'text'}:2: an id without a text",
        "silence": "not in 'text'",
        "ghost": f"{folder / 'text'}:8: not in wav.scp",
        "silent": f"{wav / 'silent.wav'}: no samples",
        "missing": f"{wav / 'missing.wav'}: cannot read the audio: no such file or directory",
        "empty": f"{wav / 'empty.wav'}: the file is empty (0 bytes)",
        "noise": prepared.dropped["noise"],
        "stereo": f"{wav / 'stereo.wav'}: 2 channels, expected 1; add --mix (their average) or --channel N",
    }
    assert "not audio that can be read" in prepared.dropped["noise"]


def test_segments_that_do_not_fit_are_dropped_each_with_its_reason(tmp_path):
    folder = data_dir(
        tmp_path / "train",
        ["rec"],
        segments="ok rec 0 0.4\nlate rec 0.7 0.9\nlong rec 0.2 0.6\nback rec 0.4 0.3\nlost other 0 1\n",
    )
    write(folder / "text", "".join(f"{i} WORD\n" for i in ("ok", "late", "long", "back", "lost", "rec")))
    prepared = run("kaldi", folder, tmp_path / "out")
    assert prepared.dropped == {
        "back": "ends at 0.3 s, but starts at 0.4 s",
        "lost": "its recording 'other' is not in wav.scp",
        "rec": f"{folder / 'text'}:6: not in segments",
        "late": "starts at 0.70 s, but the file ends at 0.50 s",
        "long": "ends at 0.60 s, but the file at 0.50 s",
    }


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("wav.scp", "a\n", "wav.scp:1: 'a' has no path; expected 'id path'"),
        ("wav.scp", "a x.wav\na y.wav\n", "wav.scp:2: duplicate id 'a' (first on line 1); ids must be unique"),
        ("wav.scp", "\n \n", "wav.scp: the file is empty"),
        ("text", b"b GOOD\na caf\xe9\n", "text:2: not UTF-8 text (invalid continuation byte at byte 5); convert"),
        ("text", "a HELLO\n".encode("utf-16"), "text:1: not UTF-8 text (invalid start byte at byte 0); convert it"),
        (
            "segments",
            "a rec one 2\n",
            "segments:1: expected 'utterance recording start end', with times in seconds, and maybe",
        ),
        (
            "segments",
            "a rec 1\n",
            "segments:1: expected 'utterance recording start end', with times in seconds, and maybe",
        ),
        ("segments", "a rec 1 2 0 more\n", "segments:1: expected 'utterance recording start end', with times in"),
        ("segments", "a rec 1 2 B\n", "segments:1: expected 'utterance recording start end', with times in seconds"),
        ("segments", "a rec 1 2 -1\n", "segments:1: expected 'utterance recording start end', with times in seconds"),
        ("reco2file_and_channel", "a a\n", "reco2file_and_channel:1: expected 'recording file channel', got 2 fields"),
        ("reco2file_and_channel", "a a A 1\n", "reco2file_and_channel:1: expected 'recording file channel', got 4"),
        ("segments", "a rec nan 2\n", "segments:1: expected 'utterance recording start end', with times in seconds"),
    ],
)
def test_a_malformed_kaldi_file_is_one_line_with_its_place(tmp_path, name, content, expected):
    folder = data_dir(tmp_path / "train", ["a"])
    write(folder / name, content)
    with pytest.raises(DataError) as error:
        run("kaldi", folder, tmp_path / "out")
    assert one_line(error).startswith(f"{folder / expected}")


def test_a_missing_text_file_or_no_data_directory_at_all_is_said(tmp_path):
    folder = data_dir(tmp_path / "train", ["a"])
    (folder / "text").unlink()
    with pytest.raises(DataError, match="text: cannot read the texts: no such file"):
        run("kaldi", folder, tmp_path / "out")
    with pytest.raises(DataError, match="neither it nor a folder in it holds a wav"):
        run("kaldi", tmp_path / "wav", tmp_path / "out")
    with pytest.raises(DataError, match="no such folder; expected a Kaldi data directory"):
        run("kaldi", folder / "wav.scp", tmp_path / "out")


def test_a_table_with_a_mark_and_other_white_space_in_its_texts_is_read_as_meant(tmp_path):
    folder = data_dir(tmp_path / "train", ["a"])
    write(folder / "text", "\ufeffa  TWO\u3000WORDS \u2028 HERE \r\n")
    run("kaldi", folder, tmp_path / "out")
    assert by_id(tmp_path / "out" / "train.jsonl")["a"].text == "TWO WORDS HERE"


# what all share: names, dev, what is refused


def ten_speakers(tmp_path: Path) -> Path:
    ids = [f"{s}-{i}" for s in "abcdefghij" for i in range(3)]
    return data_dir(tmp_path / "corpus", ids, utt2spk="".join(f"{i} {i[0]}\n" for i in ids))


def test_dev_holds_out_whole_speakers_of_train(tmp_path):
    folder = ten_speakers(tmp_path)
    prepared = run("kaldi", folder, tmp_path / "out", dev="0.2")
    train, dev = (prepared.utterances[name] for name in ("train", "dev"))
    assert (len(train), len(dev)) == (24, 6)
    assert not {u.speaker for u in train} & {u.speaker for u in dev}
    assert run("kaldi", folder, tmp_path / "again", dev="0.2").utterances["dev"] == dev


def test_dev_holds_out_utterances_where_speakers_are_not_known(tmp_path, caplog):
    folder = ten_speakers(tmp_path)
    (folder / "utt2spk").unlink()
    caplog.set_level(logging.INFO, "asr")
    prepared = run("kaldi", folder, tmp_path / "out", dev="0.1")
    assert len(prepared.utterances["dev"]) == 3
    assert "dev: 3 of 30 utterances (speakers are not known)" in caplog.messages


def test_dev_is_taken_from_train_alone(tmp_path):
    for name in ("train", "test"):
        data_dir(tmp_path / "data" / name, [f"{name}-{i}" for i in range(4)])
    prepared = run("kaldi", tmp_path / "data", tmp_path / "out", dev="0.25")
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {"test": 4, "train": 3, "dev": 1}


def test_name_names_the_one_manifest(tmp_path):
    folder = data_dir(tmp_path / "train", ["a"])
    assert list(run("kaldi", folder, tmp_path / "out", name="eval-1").manifests) == ["eval-1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dev": "1.5"}, "--dev '1.5': expected a share between 0 and 1, for example 0.1"),
        ({"dev": "ten"}, "--dev 'ten': expected a share"),
        ({"dev": "nan"}, "--dev 'nan': expected a share"),
        ({"name": "../x"}, "--name '../x': expected a plain name, such as train"),
        ({"name": "dev", "dev": "0.1"}, "--dev takes from train what becomes dev, but here the manifests are dev"),
        ({"audio_column": "x"}, "kaldi takes no --audio-column"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path, options, message):
    folder = data_dir(tmp_path / "train", ["a", "b"])
    with pytest.raises(ConfigError) as error:
        run("kaldi", folder, tmp_path / "out", **options)
    assert one_line(error).startswith(message)


def test_a_name_for_several_manifests_is_refused(tmp_path):
    for name in ("train", "test"):
        data_dir(tmp_path / "data" / name, [name])
    with pytest.raises(ConfigError, match="holds 2: test, train"):
        run("kaldi", tmp_path / "data", tmp_path / "out", name="all")


def test_when_nothing_can_be_used_the_first_reason_is_said(tmp_path):
    folder = data_dir(tmp_path / "train", ["a", "b"])
    for name in ("a", "b"):
        write(tmp_path / "wav" / f"{name}.wav", b"")
    with pytest.raises(DataError) as error:
        run("kaldi", folder, tmp_path / "out")
    assert "no utterance can be used (2 left out; the first: a: " in one_line(error)
    assert "the file is empty (0 bytes)" in one_line(error)
    assert not (tmp_path / "out" / "train.jsonl").exists()


@pytest.mark.parametrize("speakers", ["a s\nb t\n", "a s\nb s\n"])
def test_a_share_for_dev_that_takes_everything_is_refused(tmp_path, speakers):
    source = data_dir(tmp_path / "k", ["a", "b"], utt2spk=speakers)
    with pytest.raises(ConfigError, match=r"--dev 0\.9 takes all 2 utterances; nothing is left to train on"):
        run("kaldi", source, tmp_path / "out", dev="0.9")


def test_one_utterance_cannot_be_shared_out(tmp_path):
    folder = data_dir(tmp_path / "train", ["a"])
    with pytest.raises(DataError, match="one utterance cannot be shared out"):
        run("kaldi", folder, tmp_path / "out", dev="0.5")


def test_a_source_is_never_overwritten(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    source = write(tmp_path / "train.jsonl", '{"audio_filepath": "a.wav", "text": "HI"}\n')
    with pytest.raises(
        ConfigError, match=r"train\.jsonl is there, and no 'asr prepare' made it; give another --out, or"
    ):
        run("nemo", source, tmp_path)
    assert "audio_filepath" in source.read_text()
    source.unlink()
    two = write(tmp_path / "dev.jsonl", '{"audio_filepath": "a.wav", "text": "HI"}\n' * 2)
    with pytest.raises(ConfigError, match=r"dev\.jsonl is there, and no 'asr prepare' made it"):
        run("nemo", two, tmp_path, dev="0.5")
    assert "audio_filepath" in two.read_text()


def test_a_manifest_that_no_preparation_made_is_never_overwritten(tmp_path):
    for name in "ab":
        write_wav(tmp_path / f"{name}.wav", TONE)
    lines = "".join(f'{{"audio_filepath": "{name}.wav", "text": "HI"}}\n' for name in "ab")
    source, other = write(tmp_path / "all.jsonl", lines), write(tmp_path / "dev.jsonl", "mine")
    with pytest.raises(ConfigError, match=r"dev\.jsonl is there, and no 'asr prepare' made it; give another --out"):
        run("nemo", source, tmp_path, dev="0.5")
    assert other.read_text() == "mine"
    assert not (tmp_path / "train.jsonl").exists()


def test_a_row_without_a_speaker_does_not_split_the_others(tmp_path, caplog):
    write_wav(tmp_path / "a.wav", TONE)
    lines = [f"{tmp_path}/a.wav,T{i},{'' if i % 9 == 0 else f's{i % 6}'}\n" for i in range(36)]
    source = write(tmp_path / "t.csv", "audio_path,text,speaker\n" + "".join(lines))
    prepared = run("csv", source, tmp_path / "out", dev="0.34")
    train, dev = (prepared.utterances[name] for name in ("train", "dev"))
    speakers = [{u.speaker for u in rows} - {""} for rows in (train, dev)]
    assert len(speakers[1]) == 2 and not speakers[0] & speakers[1]
    assert sum(not u.speaker for u in dev) == 1
    assert "4 utterances have no speaker: 1 are in dev, whoever speaks them" in caplog.messages


def test_an_id_that_a_table_gives_stays_and_made_ones_make_way(tmp_path):
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", TONE)
    rows = "".join(f"{tmp_path}/{name}.wav,T,{id_}\n" for name, id_ in (("a", ""), ("b", "a"), ("b", "")))
    source = write(tmp_path / "t.csv", f"audio_path,text,id\n{rows}")
    found = run("csv", source, tmp_path / "out").utterances["t"]
    assert {u.id: Path(u.audio_path).stem for u in found} == {"a-2": "a", "a": "b", "b": "b"}


def test_two_further_columns_of_one_name_are_an_error(tmp_path):
    source = write(tmp_path / "t.csv", "audio_path,text,m,m\na.wav,T,1,2\n")
    with pytest.raises(DataError, match="has 2 columns 'm': which one is meant"):
        run("csv", source, tmp_path / "out")


def test_a_carriage_return_inside_a_line_is_a_space(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    for number, newline in enumerate(("\n", "\r\n")):
        lines = [f"{tmp_path}/a.wav\the\rllo {i}" for i in range(2)]
        source = write(tmp_path / f"{number}.tsv", newline.join(["audio_path\ttext", *lines, ""]).encode())
        found = run("csv", source, tmp_path / "out").utterances[str(number)]
        assert [u.text for u in found] == ["he llo 0", "he llo 1"]


def test_of_two_texts_of_one_name_one_is_taken_and_the_other_named(tmp_path):
    write_wav(tmp_path / "f" / "a.wav", TONE)
    write(tmp_path / "f" / "a.txt", "one")
    write(tmp_path / "f" / "a.TXT", "two")
    prepared = run("folder", tmp_path / "f", tmp_path / "out")
    assert [u.text for rows in prepared.utterances.values() for u in rows] == ["one"]
    assert prepared.dropped == {"a.TXT": "a.txt beside it has the same name"}


# NeMo


def test_a_nemo_manifest_keeps_offsets_and_other_fields(tmp_path):
    write_wav(tmp_path / "wav" / "talk.wav", TONE)
    write(tmp_path / "other.sph", sphere_bytes(TONE))
    lines = [
        {"audio_filepath": "wav/talk.wav", "text": "whole", "duration": 0.503, "lang": "en", "speaker": 7},
        {"audio_filepath": "wav/talk.wav", "text": "part", "duration": 0.2, "offset": 0.25, "pnc": True},
        {"audio_filepath": str(tmp_path / "other.sph"), "text": " no  length ", "offset": 0},
        {"audio_filepath": "wav/talk.wav", "text": None, "duration": 0.1},
        {"audio_filepath": "wav/talk.wav", "text": "past", "duration": 0.6},
    ]
    source = write(tmp_path / "train.json", "".join(json.dumps(line) + "\n" for line in lines))
    prepared = run("nemo", source, tmp_path / "out")
    found = by_id(tmp_path / "out" / "train.jsonl")
    shown = {i: (u.text, u.offset_s, u.duration_s, u.speaker, u.meta) for i, u in found.items()}
    assert shown == {
        "talk": ("whole", 0.0, 0.5, "7", {"lang": "en"}),
        "talk-0000250": ("part", 0.25, 0.2, "", {"pnc": True}),
        "other": ("no length", 0.0, 0.5, "", None),
    }
    assert prepared.dropped == {"talk-2": "no text", "talk-3": "ends at 0.60 s, but the file at 0.50 s"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[1]", "a line must be a JSON object, got list"),
        ('{"audio_filepath": ', "not valid JSON (Expecting value at column 19); expected one object per line"),
        ('{"text": "x"}', "'audio_filepath' is missing"),
        ('{"audio_file_path": "a.wav"}', "'audio_filepath' is missing; did you mean 'audio_file_path'?"),
        ('{"audio_filepath": 3}', "'audio_filepath' must be a path, got 3"),
        ('{"audio_filepath": "a.wav", "text": 3}', "'text' must be a string, got 3"),
        ('{"audio_filepath": "a.wav", "duration": 0}', "'duration' must be a number of seconds, finite and positive"),
        ('{"audio_filepath": "a.wav", "offset": "1"}', "'offset' must be a number of seconds, finite and not negative"),
        (
            '{"audio_filepath": "a.wav", "offset": 1e308}',
            "'offset' must be a number of seconds, finite and not negative",
        ),
        (
            '{"audio_filepath": "a.wav", "offset": 1' + "0" * 400 + "}",
            "'offset' must be a number of seconds, finite and not negative",
        ),
        (
            '{"audio_filepath": "a.wav", "duration": NaN}',
            "not valid JSON (NaN is not JSON); expected one object per line",
        ),
        ('{"audio_filepath": "a.wav", "text": "\\ud800"}', "not valid JSON ('utf-8' codec can't encode"),
    ],
)
def test_a_bad_nemo_line_is_one_line_with_its_number(tmp_path, line, expected):
    write_wav(tmp_path / "a.wav", TONE)
    source = write(tmp_path / "train.json", '{"audio_filepath": "a.wav", "text": "fine"}\n\n' + line + "\n")
    with pytest.raises(DataError) as error:
        run("nemo", source, tmp_path / "out")
    assert one_line(error).startswith(f"{source}:3: {expected}")


# tables


@pytest.mark.parametrize(
    ("delimiter", "mark", "newline"),
    [(",", "\ufeff", "\r\n"), ("\t", "", "\n"), (";", "\ufeff", "\n"), ("|", "", "\r")],
)
def test_a_table_of_any_delimiter_is_read(tmp_path, delimiter, mark, newline):
    for name in ("a", "b"):
        write_wav(tmp_path / "clips" / f"{name}.wav", TONE)
    lines = [["file", "words", "who", "accent"], ["clips/a.wav", "ja, klar; gut", "x", "de"]]
    lines.append(["clips/b.wav", "nein", "y", ""])
    if delimiter in ",;":
        lines[1][1] = f'"{lines[1][1]}"'
    source = write(tmp_path / "all.csv", mark + newline.join(delimiter.join(line) for line in lines))
    run("csv", source, tmp_path / "out", audio_column="file", text_column="words", speaker_column="who", name="train")
    found = by_id(tmp_path / "out" / "train.jsonl")
    assert {i: (u.text, u.speaker, u.meta) for i, u in found.items()} == {
        "a": ("ja, klar; gut", "x", {"accent": "de"}),
        "b": ("nein", "y", None),
    }


def test_the_columns_of_a_manifest_need_no_options(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    source = write(tmp_path / "dev.csv", "id,audio_path,text,speaker\nx1,a.wav,hello,me\n")
    run("csv", source, tmp_path / "out")
    (found,) = by_id(tmp_path / "out" / "dev.jsonl").values()
    assert (found.id, found.text, found.speaker) == ("x1", "hello", "me")


def test_the_times_of_a_table_say_which_part_of_its_file_a_row_is(tmp_path):
    write_wav(tmp_path / "a.wav", noise(2.0))
    lines = ["audio_path,text,offset_s,duration_s,note", "a.wav,ONE,0.5,0.75,x", "a.wav,TWO,1.25,,", "a.wav,ALL,,,"]
    source = write(tmp_path / "t.csv", "\n".join(lines))
    rows = by_id(run("csv", source, tmp_path / "out").manifests["t"])
    assert [(u.text, u.offset_s, u.duration_s, u.meta) for u in rows.values()] == [
        ("ONE", 0.5, 0.75, {"note": "x"}),
        ("TWO", 1.25, 0.75, None),
        ("ALL", 0.0, 2.0, None),
    ]


def test_a_duration_without_a_beginning_is_what_somebody_knew_of_the_file(tmp_path):
    write_wav(tmp_path / "a.wav", noise(2.0))
    source = write(tmp_path / "t.csv", "audio_path,text,duration_s\na.wav,ONE,1.9\na.wav,TWO,2000\na.wav,NO,0\n")
    rows = by_id(run("csv", source, tmp_path / "out").manifests["t"])
    assert [(u.duration_s, u.meta) for u in rows.values()] == [
        (2.0, {"duration_s": "1.9"}),
        (2.0, {"duration_s": "2000"}),
        (2.0, {"duration_s": "0"}),
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("offset_s", "1:30"), ("offset_s", "-1"), ("duration_s", "0"), ("duration_s", "nan")]
)
def test_a_time_that_is_no_number_is_one_line_with_its_place(tmp_path, name, value):
    write_wav(tmp_path / "a.wav", TONE)
    times = "0,1" if name == "duration_s" else "1,"
    times = times.replace("1", value)
    source = write(tmp_path / "t.csv", f"audio_path,text,offset_s,duration_s\na.wav,ONE,,\na.wav,ONE,{times}\n")
    with pytest.raises(DataError) as caught:
        run("csv", source, tmp_path / "out")
    said = "positive" if name == "duration_s" else "not negative"
    expected = f"'{name}' must be a number of seconds, finite and {said}, got '{value}'"
    assert one_line(caught).startswith(f"{source}:3: {expected}; the most is 604,800")


def test_quotes_in_a_tab_separated_table_are_characters(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    source = write(tmp_path / "t.tsv", 'audio_path\ttext\na.wav\t"quoted\na.wav\tplain\n')
    run("csv", source, tmp_path / "out")
    assert [u.text for u in manifest.read(tmp_path / "out" / "t.jsonl")] == ['"quoted', "plain"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("file,sentense\na.wav,hi\n", ": has no column 'audio_path'; name it with --audio-column (columns: file, se"),
        ("audio_path,txt\na.wav,hi\n", ": has no column 'text'; did you mean 'txt'?; name it with --text-column (co"),
        ("audio_path,text,text\na.wav,hi,ho\n", ":1: has 2 columns 'text': which one is meant?"),
        ("audio_path,text\na.wav,yes, please\n", ": no row fits the header (1 left out; the first: train.csv:2: 3 f"),
        ('audio_path,text\na.wav,fine\na.wav,"open\na.wav,hi\n', ":3: not a table that can be read (unexpected end"),
        ('audio_path,text\na.wav,"shut" up\n', ":2: not a table that can be read (',' expected after '\"')"),
        (b"audio_path,text\na.wav,fine\na.wav,caf\xe9\n", ":3: not UTF-8 text (invalid continuation byte)"),
        ("audio_path,text\na.wav,hi\n".encode("utf-16"), ": UTF-16 text; save it as UTF-8 (in a spreadsheet"),
        ("", ": has no header line that names the columns"),
        ("audio_path,text\n", ": has a header line, but no rows"),
        (",\n", ": has no header line that names the columns"),
        ("sep=;\n", ": has no header line that names the columns"),
        ("x" * 200_000, ":1: not a table that can be read (field larger than field limit"),
        ("audio_path,text\na.wav,hi\n".encode("utf-16-le"), ": UTF-16 text; save it as UTF-8 (in a spreadsheet"),
        ("id,audio_path,text\nx,a.wav,hi\ny,a.wav,hi\nx,a.wav,hi\n", ":4: duplicate id 'x' (first on line 2)"),
        ("audio_path,text\n,hi\n", ": no row has an audio path in column 'audio_path'"),
    ],
)
def test_a_bad_table_is_one_line_with_its_place(tmp_path, content, expected):
    write_wav(tmp_path / "a.wav", TONE)
    source = write(tmp_path / "train.csv", content)
    with pytest.raises(DataError) as error:
        run("csv", source, tmp_path / "out")
    assert one_line(error).startswith(f"{source}{expected}")


def test_one_column_is_not_both_audio_and_text(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    source = write(tmp_path / "train.csv", "file\na.wav\n")
    with pytest.raises(ConfigError, match="column 'file' cannot be both the audio's path and the text"):
        run("csv", source, tmp_path / "out", audio_column="file", text_column="file")


def test_rows_of_a_table_without_audio_or_text_are_dropped_with_the_reason(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    write_wav(tmp_path / "b.wav", TONE)
    source = write(tmp_path / "t.csv", 'text,audio_path\n"two\nlines",a.wav\n,b.wav\nlost,c.wav\nnowhere\n')
    prepared = run("csv", source, tmp_path / "out")
    assert [u.text for u in prepared.utterances["t"]] == ["two lines"]
    assert prepared.dropped == {
        "t.csv:6": "1 field, the header names 2: is a line feed or a ',' without quotes in a text?",
        "b": "no text",
        "c": f"{tmp_path / 'c.wav'}: cannot read the audio: no such file or directory",
    }


@pytest.mark.parametrize(
    ("content", "texts", "dropped"),
    [
        # a line feed in the middle column, as a Common Voice table has it; two of them
        ("file\ttext\tspeaker\na.wav\tONE\tx\nb.wav\thalf\nrest\tx\nc.wav\tTWO\tx\n", ["ONE", "TWO"], {3: 2, 4: 2}),
        ("file\ttext\tspeaker\nb.wav\thalf\nmore\nrest\tx\nc.wav\tTWO\tx\n", ["TWO"], {2: 2, 3: 1, 4: 2}),
        # in the last column: the first piece has all its fields
        ("file,text\na.wav,ONE\nb.wav,half\nrest\nc.wav,TWO\n", ["ONE", "TWO"], {3: "line 4", 4: 1}),
        ("file,text\nb.wav,half\nmore\nrest\n", [], {}),
        # in the first: the second piece has them
        ("text;file\nONE;a.wav\nhalf\nrest;b.wav\nTWO;c.wav\n", ["ONE", "TWO"], {3: 1, 4: "line 3"}),
        # a delimiter in a text; a field too few, also an empty one
        ("file|text|speaker\na.wav|ONE|x\nb.wav|one|two|x\nc.wav|no speaker\n", ["ONE"], {3: 4, 4: 2}),
        ("file,text\na.wav,ONE\nb.wav,two,\n", ["ONE"], {3: 3}),
        ("text,file\nHello, you,a.wav\nONE,b.wav\n", ["ONE"], {2: 3}),
        ("file,text\na.wav,half\nrest, and more\nb.wav,ONE\n", ["ONE"], {2: "line 3"}),
        # a quote that nobody closes goes on into the next row, on either side of it
        ('file,text\na.wav,ONE\nb.wav,"Hello\nc.wav,he said"\n', ["ONE"], {3: "line 4"}),
        ('text,file\nONE,a.wav\n"Hello,b.wav\nhe said",c.wav\n', ["ONE"], {3: "line 3"}),
        # a line feed inside quotes belongs to the text
        ('file,text\na.wav,"ONE\nand, more"\nb.wav,TWO\n', ["ONE and, more", "TWO"], {}),
        # the separators of Unicode end no line, not even where the lines end as on an old Mac
        ("file,text\ra.wav,ONE\u2028more\x0bstill\x85on\rb.wav,TWO\r", ["ONE more still on", "TWO"], {}),
    ],
)
def test_a_row_with_another_number_of_fields_than_the_header_is_no_utterance(tmp_path, content, texts, dropped):
    for name in "abc":
        write_wav(tmp_path / f"{name}.wav", TONE)
    source = write(tmp_path / "t.csv", content)
    if not texts:
        with pytest.raises(DataError, match="no row fits the header"):
            run("csv", source, tmp_path / "out", audio_column="file")
        return
    prepared = run("csv", source, tmp_path / "out", audio_column="file")
    assert [u.text for u in prepared.utterances["t"]] == texts
    assert [id_ for id_ in prepared.dropped if id_ != "rest"] == [f"t.csv:{line}" for line in dropped]
    width = len(content.splitlines()[0].replace(";", ",").replace("|", ",").replace("\t", ",").split(","))
    for (line, why), said in zip(dropped.items(), prepared.dropped.values(), strict=False):
        plural = "" if why == 1 else "s"
        expected = f"{why} field{plural}, the header names {width}: " if isinstance(why, int) else f"{why} "
        assert expected in said, line


@pytest.mark.parametrize(
    ("first", "mark"),
    [("sep=;", ";"), ("SEP=|", "|"), ("sep=\t", "\t"), ('"sep=;"', ";"), ("sep=;;", ";"), ("sep=^", "^")],
)
def test_excels_line_that_names_the_delimiter_is_obeyed(tmp_path, first, mark):
    write_wav(tmp_path / "a.wav", TONE)
    header = mark.join(("audio_path", "text", "a,note"))
    row = mark.join(("a.wav", "Well, yes", "x"))
    source = write(tmp_path / "t.csv", f"\ufeff{first}\r\n{header}\r\n{row}\r\n")
    prepared = run("csv", source, tmp_path / "out")
    assert [(u.text, u.meta) for u in prepared.utterances["t"]] == [("Well, yes", {"a,note": "x"})]
    source = write(tmp_path / "t.csv", f"{first}\n{header}\n{row}\n{row}{mark}more\n")
    assert list(run("csv", source, tmp_path / "out2").dropped) == ["t.csv:4"]


def test_paths_may_be_file_urls_and_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("a b", "ä", "c", "d", "~e"):
        write_wav(tmp_path / f"{name}.wav", TONE)
    paths = [
        (tmp_path / "a b.wav").as_uri(),
        f"FILE://localhost{tmp_path}/%C3%A4.wav",
        "~/c.wav",
        f"file:{tmp_path}/d.wav",
        "~e.wav",
        "https://example.org/f.wav",
        "gs://bucket/g.wav",
        "file://server/share/h.wav",
    ]
    source = write(tmp_path / "t.tsv", "audio_path\ttext\n" + "".join(f"{path}\tONE\n" for path in paths))
    prepared = run("csv", source, tmp_path / "out")
    assert {u.id: u.audio_path for u in prepared.utterances["t"]} == {
        name: str(tmp_path / f"{name}.wav") for name in ("a b", "ä", "c", "d", "~e")
    }
    why = "a URL, and an import downloads nothing; fetch the file, and name it where it is"
    assert {id_: said.partition(": ")[2] for id_, said in prepared.dropped.items()} == dict.fromkeys("fgh", why)
    lines = "".join(json.dumps({"audio_filepath": path, "text": "ONE", "duration": 0.5}) + "\n" for path in paths[:5])
    prepared = run("nemo", write(tmp_path / "n.jsonl", lines), tmp_path / "out2")
    assert [Path(u.audio_path).stem for u in prepared.utterances["n"]] == ["a b", "c", "d", "~e", "ä"]
    write(tmp_path / "k" / "wav.scp", "".join(f"{i} {path}\n" for i, path in enumerate(paths[:5])))
    write(tmp_path / "k" / "text", "".join(f"{i} ONE\n" for i in range(5)))
    prepared = run("kaldi", tmp_path / "k", tmp_path / "out3")
    assert [Path(u.audio_path).stem for u in prepared.utterances["k"]] == ["a b", "ä", "c", "d", "~e"]


def test_audio_in_a_folder_beside_the_table_is_found(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for folder in (".clips", "clips", "other"):
        write_wav(tmp_path / "t" / folder / "a.wav", TONE)
    source = write(tmp_path / "t" / "t.csv", "audio_path,text\na.wav,ONE\n")
    prepared = run("csv", source, tmp_path / "out")
    assert prepared.utterances["t"][0].audio_path == str(tmp_path / "t" / "clips" / "a.wav")
    assert f"{source}: relative audio paths are taken from {tmp_path / 't' / 'clips'}" in caplog.text


def test_a_name_that_no_system_has_costs_its_row_only(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    source = write(tmp_path / "t.csv", f"audio_path,text\na.wav,one\n{5000 * 'b'}.wav,two\n")
    prepared = run("csv", source, tmp_path / "out")
    assert [u.id for u in by_id(tmp_path / "out" / "t.jsonl").values()] == ["a"]
    assert [why.rpartition(": ")[2] for why in prepared.dropped.values()] == ["file name too long"]


def test_a_link_in_a_table_that_leads_nowhere_is_named(tmp_path):
    write_wav(tmp_path / "a.wav", TONE)
    (tmp_path / "b.wav").symlink_to(tmp_path / "moved.wav")
    source = write(tmp_path / "t.csv", "audio_path,text\na.wav,ONE\nb.wav,TWO\n")
    prepared = run("csv", source, tmp_path / "out")
    assert prepared.dropped == {"b": f"{tmp_path / 'b.wav'}: a link to {tmp_path / 'moved.wav'}, which is not there"}


def test_what_a_mac_writes_beside_files_is_passed_over(tmp_path):
    folder = tmp_path / "speech"
    for name in ("a", "in/b"):
        write_wav(folder / f"{name}.wav", TONE)
        write(folder / f"{name}.txt", "fine")
        for suffix in ("wav", "txt"):
            apple = folder / name
            write(apple.with_name(f"._{apple.name}.{suffix}"), b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    write(folder / ".DS_Store", b"\0\0\0\1Bud1")
    write_wav(folder / "__MACOSX" / "a.wav", TONE)
    write(folder / "__MACOSX" / "._a.wav", b"\0\x05\x16\x07")
    write_wav(folder / ".Trashes" / "t.wav", TONE)
    write(folder / "c.txt", "no audio")
    write(folder / "._c.wav", b"\0\x05\x16\x07")
    prepared = run("folder", folder, tmp_path / "out")
    assert [u.id for u in prepared.utterances["speech"]] == ["a", "in/b"]
    assert prepared.dropped == {"c.txt": "no audio file of that name beside it"}
    data_dir(tmp_path / "kaldi" / "train", ["a"])
    data_dir(tmp_path / "kaldi" / "__MACOSX", ["a"])
    write(tmp_path / "kaldi" / "._train" / "wav.scp", "x")
    assert list(run("kaldi", tmp_path / "kaldi", tmp_path / "out2").manifests) == ["train"]


# folders


def test_a_folder_pairs_each_audio_file_with_its_text(tmp_path):
    folder = tmp_path / "speech"
    for name, suffix in (("a", "wav"), ("in/b", "flac"), ("in/deep/c", "ogg"), ("d", "mp3"), ("E", "WAV")):
        path = folder / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, TONE, 16000)
        write(path.with_suffix(".txt"), f"\ufefftext of\n{name}\n")
    (folder / "s.sph").write_bytes(sphere_bytes(TONE))
    write(folder / "s.txt", "text of s")
    soundfile.write(folder / "o.opus", TONE, 16000, format="OGG", subtype="OPUS")
    write(folder / "o.txt", "text of o")
    write_wav(folder / ".hidden" / "h.wav", TONE)
    prepared = run("folder", folder, tmp_path / "out")
    assert prepared.dropped == {}
    ids = ["E", "a", "d", "in/b", "in/deep/c", "o", "s"]
    assert {u.id: u.text for u in prepared.utterances["speech"]} == {i: f"text of {i}" for i in ids}


def test_orphans_on_both_sides_are_dropped_with_the_reason(tmp_path):
    folder = tmp_path / "speech"
    for name in ("a.wav", "a.flac", "b.wav", "c.wav", "e.wav"):
        write_wav(folder / name, TONE)
    write(folder / "a.txt", "fine")
    write(folder / "c.txt", b"caf\xe9")
    write(folder / "d.txt", "no audio")
    write(folder / "e.txt", "\n")
    write(folder / "f.txt", "from a telephone")
    write(folder / "f.xyz", "no matter what")
    prepared = run("folder", folder, tmp_path / "out")
    assert [u.audio_path for u in prepared.utterances["speech"]] == [str(folder / "a.wav")]
    assert prepared.dropped == {
        "a.flac": "a.wav beside it has the same name",
        "b.wav": "no b.txt beside it",
        "c": prepared.dropped["c"],
        "d.txt": "no audio file of that name beside it",
        "f.txt": "f.xyz beside it is not in a format that is read here; ffmpeg -i IN -ac 1 OUT.wav makes one",
        "e": "no text",
    }
    assert prepared.dropped["c"].startswith(f"{folder / 'c.txt'}:1: not UTF-8 text (unexpected end of data at byte 3)")


def test_a_name_that_is_not_utf_8_is_dropped_not_the_end(tmp_path):
    folder = tmp_path / "speech"
    write_wav(folder / "a.wav", TONE)
    write(folder / "a.txt", "fine")
    try:
        (folder / b"caf\xe9.wav".decode("utf-8", "surrogateescape")).write_bytes((folder / "a.wav").read_bytes())
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    write(folder / b"caf\xe9.txt".decode("utf-8", "surrogateescape"), "text")
    prepared = run("folder", folder, tmp_path / "out")
    assert list(prepared.dropped.values()) == ["the file's name is not UTF-8, so no manifest can hold it; rename it"]


def test_what_is_not_looked_into_is_said(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "speech"
    write_wav(folder / "a.wav", TONE)
    write(folder / "a.txt", "fine")
    (folder / "up").symlink_to(tmp_path)
    write_wav(tmp_path / "disk" / "b.wav", TONE)
    write(tmp_path / "disk" / "b.txt", "from another disk")
    (folder / "linked").symlink_to(tmp_path / "disk")
    (folder / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    with caplog.at_level(logging.WARNING):
        prepared = run("folder", folder, tmp_path / "out")
    assert list(by_id(prepared.manifests["speech"])) == ["a", "linked/b"]
    assert prepared.dropped == {"gone.wav": f"a link to {tmp_path / 'nowhere.wav'}, which is not there"}
    assert f"{folder / 'up'}: a link to a folder above, not followed" in caplog.text


def test_a_folder_without_permission_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    folder = tmp_path / "speech"
    write_wav(folder / "a.wav", TONE)
    write(folder / "a.txt", "fine")
    real = files.os.walk

    def walk(top, followlinks, onerror):
        onerror(PermissionError(13, "Permission denied", str(folder / "locked")))
        return real(top, followlinks=followlinks, onerror=onerror)

    monkeypatch.setattr(files.os, "walk", walk)  # root may read every folder
    prepared = run("folder", folder, tmp_path / "out")
    assert [u.id for u in prepared.utterances["speech"]] == ["a"]
    assert prepared.dropped == {"locked": "cannot read the folder: permission denied"}


def test_an_empty_or_missing_folder_is_said(tmp_path):
    with pytest.raises(DataError, match=r"holds no audio file \(\.wav, "):
        run("folder", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder; expected one with audio files"):
        run("folder", tmp_path / "none", tmp_path / "out")


# properties

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1).map(
    lambda text: " ".join(text.split())
)


@pytest.fixture(scope="module")
def tone_file(tmp_path_factory) -> Path:
    return write_wav(tmp_path_factory.mktemp("audio") / "a.wav", TONE)


@settings(max_examples=25)
@given(st.lists(WORDS.filter(bool), min_size=1, max_size=5), st.sampled_from([",", ";", "|"]))
def test_any_text_survives_a_quoted_table(tone_file, texts, delimiter):
    import csv

    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "t.csv"
        with source.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([["audio_path", "text"], *([str(tone_file), text] for text in texts)])
        assert [row.text for row in table.read(source, {})["t"].rows] == texts


@settings(max_examples=25)
@given(st.lists(WORDS.filter(bool), min_size=1, max_size=5))
def test_any_text_survives_a_nemo_manifest_and_a_kaldi_directory(tone_file, texts):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps({"audio_filepath": str(tone_file), "text": text}) for text in texts]
        assert [row.text for row in nemo.read(write(folder / "m.json", "\n".join(lines)), {})["m"].rows] == texts
        write(folder / "wav.scp", "".join(f"u{i} {tone_file}\n" for i in range(len(texts))))
        write(folder / "text", "".join(f"u{i}\t{text}\n" for i, text in enumerate(texts)))
        assert [row.text for row in kaldi.read_directory(folder).rows] == texts


@given(st.lists(st.sampled_from(["a", "b", "a-2", "a-3"])))
def test_numbered_ids_are_unique_and_keep_the_first_of_each_name(names):
    ids = numbered(names)
    assert len(set(ids)) == len(names)
    assert all(id_.startswith(name) for id_, name in zip(ids, names, strict=True))
    assert all(name in ids for name in names[:1])


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["a.wav", "x/b.wav", "x/b.wav"], ["a", "b", "b"]),
        (["/c/m/1.wav", "/c/f/1.wav"], ["m/1", "f/1"]),
        (["m/1.wav", "/c/f/1.wav", ".."], ["m/1", "c/f/1", ".."]),
        (["/", "..", ".wav"], ["/", "..", ".wav"]),
    ],
)
def test_ids_are_short_names_unless_folders_tell_them_apart(paths, ids):
    assert ids_of(paths) == ids


def test_all_importers_are_found_by_name():
    assert list(IMPORTERS) == ["kaldi", "nemo", "csv", "folder", "combined"]
    assert IMPORTERS["folder"].options == ("dev", "name", "mix", "channel", "keep_truncated")
    for recipe in IMPORTERS.values():
        with pytest.raises(ConfigError, match=f"asr prepare {recipe.name} {recipe.source} --out data"):
            prepare(recipe, Request(Path("out")))


# the real thing


def test_speechocean762_is_imported_whole(shared_data, tmp_path):
    if not (shared_data / "speechocean762").is_dir():
        pytest.skip("needs speechocean762")
    prepared = run("kaldi", shared_data / "speechocean762", tmp_path, dev="0.1")
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {"test": 2500, "train": 2260, "dev": 240}
    assert prepared.dropped == {}
    test = prepared.utterances["test"]
    groups = {u.speaker: (u.meta or {})["group"] for u in test}
    assert sorted(map(list(groups.values()).count, ("adult", "child"))) == [61, 64]
    assert all(1 < u.duration_s < 30 for u in test)
