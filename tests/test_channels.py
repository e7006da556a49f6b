"""Recordings with several channels: prepared with --mix or --channel, and read the same by everything after that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.corpora.importers import IMPORTERS
from asr.corpora.prepare import Prepared, prepare
from asr.corpora.recipe import Request
from asr.data import manifest as manifests
from asr.data.manifest import Manifest, Utterance
from asr.doctor import examine, sound
from asr.errors import ConfigError, DataError
from asr.recordings.inputs import find_inputs
from asr.recordings.media import open_stream
from asr.utterance import load_wave
from tests.builders import noise, sine, write_wav

LEFT, RIGHT = sine(1.0, 300.0), noise(1.0, seed=3)


def stereo(path: Path) -> Path:
    soundfile.write(path, np.stack([LEFT, RIGHT], axis=1), 16000, subtype="FLOAT")
    return path


def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    stereo(tmp_path / "in" / "two.wav")
    write_wav(tmp_path / "in" / "one.wav", LEFT)
    for name in ("one", "two"):
        (tmp_path / "in" / f"{name}.txt").write_text("A TEXT\n")
    return tmp_path / "in"


def prepared(tmp_path: Path, **options: str) -> Prepared:
    return prepare(IMPORTERS["folder"], Request(tmp_path / "out", sources=(folder(tmp_path),), options=options))


@pytest.mark.parametrize(
    ("options", "channel", "wave_n"),
    [
        ({"mix": "yes"}, "mix", (LEFT + RIGHT) / 2),
        ({"channel": "1"}, 1, LEFT),
    ],
)
def test_what_prepare_records_is_what_everything_reads(tmp_path, options, channel, wave_n):
    done = prepared(tmp_path, **options)
    assert done.dropped == {}
    manifest = manifests.read(done.manifests["in"])
    assert {u.id: u.channel for u in manifest} == {"one": None, "two": channel}

    row = next(u for u in manifest if u.id == "two")
    read_n = load_wave(manifest, row, 16000, False)
    np.testing.assert_allclose(read_n, wave_n, atol=1e-7)  # the average is rounded to float32
    assert not examine([manifest.path], deep=True).errors
    assert sound.measure_samples(str(manifest.audio_path(row)), 0, -1, row.channel).peak == np.abs(read_n).max()
    (one,) = [one for one in find_inputs([str(manifest.path)]) if one.name == "two"]
    assert one.source is not None
    with open_stream(one.source, 16000, one.part) as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), read_n)


def test_a_channel_that_a_file_has_not_leaves_it_out_with_the_reason(tmp_path):
    done = prepared(tmp_path, channel="2")
    assert [u.channel for u in done.utterances["in"]] == [2]
    assert done.dropped == {"one": f"{tmp_path / 'in' / 'one.wav'}: channel 2 is wanted, the audio has 1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mix": "yes", "channel": "1"},
            "--mix averages all channels, --channel takes one of them: give one of the two",
        ),
        ({"channel": "0"}, "--channel '0': expected a number from 1 on"),
        ({"channel": "left"}, "--channel 'left': expected a number from 1 on"),
    ],
)
def test_an_odd_option_is_refused(tmp_path, options, message):
    with pytest.raises(ConfigError) as caught:
        prepared(tmp_path, **options)
    assert str(caught.value) == message


def test_a_row_that_takes_no_channel_of_several_or_a_missing_one_is_an_error_everywhere(tmp_path):
    stereo(tmp_path / "a.wav")
    row = Utterance("u", "a.wav", 1.0, "a")
    path = tmp_path / "train.jsonl"
    for channel, said in ((None, "2 channels, expected 1"), (3, "channel 3 is wanted, the audio has 2")):
        rows = [replace(row, channel=channel)]
        manifests.write(path, rows)
        with pytest.raises(DataError, match=said):
            load_wave(Manifest(path, rows), rows[0], 16000, False)
        assert "channels" in [f.code for f in examine([path], deep=True).findings]


def test_two_channels_of_a_file_are_not_the_same_audio(tmp_path):
    stereo(tmp_path / "a.wav")
    rows = [Utterance(f"u{n}", "a.wav", 1.0, "a", channel=n) for n in (1, 2)]
    manifests.write(tmp_path / "train.jsonl", rows)
    assert not [f for f in examine([tmp_path / "train.jsonl"], deep=True).findings if f.code == "duplicate-audio"]


@pytest.mark.parametrize("channel", [1, 2, "mix"])
def test_a_manifest_keeps_the_channel(tmp_path, channel):
    path = tmp_path / "m.jsonl"
    manifests.write(path, [Utterance("u", "a.wav", 1.0, "a", channel=channel)])
    assert json.loads(path.read_text())["channel"] == channel
    assert manifests.read(path).utterances[0].channel == channel


@pytest.mark.parametrize("channel", [0, -1, 1.0, True, "left", "1", [1]])
def test_another_channel_in_a_manifest_is_refused(tmp_path, channel):
    path = tmp_path / "m.jsonl"
    row = {"id": "u", "audio_path": "a.wav", "duration_s": 1.0, "text": "a", "channel": channel}
    path.write_text(json.dumps(row))
    with pytest.raises(DataError) as caught:
        manifests.read(path)
    assert str(caught.value) == (
        f"{path}:1: utt 'u': 'channel' must be a number from 1 on, or \"mix\" (all channels averaged), got {channel!r}"
    )
