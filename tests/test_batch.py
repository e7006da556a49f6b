from __future__ import annotations

import numpy as np
import pytest
import torch

from asr.batch import pad
from asr.data.manifest import Manifest, Utterance
from asr.errors import DataError
from asr.utterance import load_wave
from tests.builders import noise, sine, write_wav


def test_a_wave_at_another_rate_is_an_error_that_names_utterance_and_file(tmp_path):
    write_wav(tmp_path / "a.wav", sine(1.0, rate_hz=8000), 8000)
    manifest = Manifest(tmp_path / "train.jsonl", [Utterance("u-8k", "a.wav", 1.0, "a")])
    with pytest.raises(DataError) as caught:
        load_wave(manifest, manifest.utterances[0], 16000, False)
    message = str(caught.value)
    assert message.startswith(f"utt 'u-8k': {tmp_path / 'a.wav'}: 8000 Hz audio, the model wants 16000 Hz; ")
    assert "audio.resample=true" in message


def test_with_resample_the_wave_has_the_models_rate_and_the_same_duration(tmp_path):
    write_wav(tmp_path / "a.wav", sine(1.0, 440.0, rate_hz=8000), 8000)
    manifest = Manifest(tmp_path / "train.jsonl", [Utterance("u", "a.wav", 1.0, "a")])
    wave_n = load_wave(manifest, manifest.utterances[0], 16000, True)
    assert len(wave_n) == 16000
    # away from the ends, where the resampler's filter hangs over: 1e-3 is over its pass band ripple and int16 steps
    np.testing.assert_allclose(wave_n[1000:-1000], sine(1.0, 440.0)[1000:-1000], atol=1e-3)


def test_an_offset_reads_that_part_of_the_file(tmp_path):
    whole = np.concatenate([noise(0.5, seed=1), noise(0.25, seed=2), noise(0.5, seed=3)])
    write_wav(tmp_path / "a.wav", whole)
    rows = [Utterance("head", "a.wav", 0.5, "a"), Utterance("mid", "a.wav", 0.25, "a", offset_s=0.5)]
    manifest = Manifest(tmp_path / "t.jsonl", rows)
    one_step = 1 / 32767  # of int16
    for row, expected in zip(rows, (whole[:8000], whole[8000:12000]), strict=True):
        np.testing.assert_allclose(load_wave(manifest, row, 16000, False), expected, atol=one_step)


def test_a_wave_longer_than_the_manifest_says_is_cut_to_it(tmp_path):
    write_wav(tmp_path / "a.wav", noise(2.0))
    manifest = Manifest(tmp_path / "t.jsonl", [Utterance("u", "a.wav", 0.7, "a")])
    assert len(load_wave(manifest, manifest.utterances[0], 16000, False)) == 11200


@pytest.mark.parametrize("off_s", [-0.019, -0.001, 0.001, 0.019])
def test_a_rounded_duration_cuts_no_samples(tmp_path, off_s):
    write_wav(tmp_path / "a.wav", noise(1.0))
    manifest = Manifest(tmp_path / "t.jsonl", [Utterance("u", "a.wav", 1.0 + off_s, "a")])
    assert len(load_wave(manifest, manifest.utterances[0], 16000, False)) == 16000


@pytest.mark.parametrize("offset_s", [0.0, 0.3])
def test_a_wave_shorter_than_the_manifest_says_is_an_error(tmp_path, offset_s):
    # Its labels were found to fit the longer audio; what is left may have an infinite loss.
    write_wav(tmp_path / "a.wav", noise(1.0))
    manifest = Manifest(tmp_path / "t.jsonl", [Utterance("u", "a.wav", 2.0, "a", offset_s=offset_s)])
    with pytest.raises(DataError) as caught:
        load_wave(manifest, manifest.utterances[0], 16000, False)
    assert str(caught.value) == (
        f"utt 'u': {tmp_path / 'a.wav'}: the part ends at {2.0 + offset_s:.2f} s, the audio at 1.00 s"
    )


def test_missing_audio_names_utterance_and_file(tmp_path):
    manifest = Manifest(tmp_path / "t.jsonl", [Utterance("u-1", "gone.wav", 1.0, "a")])
    with pytest.raises(DataError, match=rf"^utt 'u-1': {tmp_path}/gone\.wav: cannot read the audio: no such file"):
        load_wave(manifest, manifest.utterances[0], 16000, False)


def test_padding_is_zero_and_lengths_are_absolute():
    features = [np.full((t, 2), t, np.float32) for t in (3, 1, 2)]
    features_btf, num_frames_b = pad(features)
    assert features_btf.shape == (3, 3, 2)
    assert num_frames_b.tolist() == [3, 1, 2] and num_frames_b.dtype == torch.int64
    for one_tf, frames in zip(features_btf, (3, 1, 2), strict=True):
        assert (one_tf[:frames] == frames).all() and (one_tf[frames:] == 0).all()
