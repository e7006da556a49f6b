"""The ``digits`` recipe: synthetic speech that is the same at every run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from asr.corpora.catalogue import find_recipe
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Recipe, Request, stable_hash
from asr.data import audio, manifest
from asr.errors import AsrError, ConfigError

SPLITS = ("train", "dev", "test")
ONE_EACH = dict.fromkeys(SPLITS, 1)  # 110 utterances: one of every voice


def _installed() -> bool:
    try:
        import espeakng_loader  # noqa: F401
    except ImportError:
        return False
    return True


needs_espeak = pytest.mark.skipif(not _installed(), reason="espeakng-loader is not installed (extra: quickstart)")


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    recipe, _ = find_recipe("digits")
    return sys.modules[recipe.prepare.__module__]


def one_each(digits: ModuleType) -> Recipe:
    return replace(digits.RECIPE, prepare=lambda request: digits.prepare(request, ONE_EACH))


@pytest.fixture(scope="module")
def prepared(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits")
    prepare(one_each(digits), Request(out))
    return out


def _bytes(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@needs_espeak
def test_two_runs_write_the_same_bytes(digits: ModuleType, prepared: Path, tmp_path: Path) -> None:
    prepare(one_each(digits), Request(tmp_path))
    assert _bytes(tmp_path) == _bytes(prepared)


@needs_espeak
def test_an_utterance_does_not_depend_on_those_before_it(digits: ModuleType) -> None:
    plans = [plan for split in SPLITS for plan in digits.plan_split(split, 1)][::9]
    espeak = digits.Espeak()
    forward = {plan.id: digits.render(espeak, plan) for plan in plans}
    backward = {plan.id: digits.render(digits.Espeak(), plan) for plan in reversed(plans)}
    for id_, wave in forward.items():
        np.testing.assert_array_equal(wave, backward[id_], err_msg=id_)


@needs_espeak
def test_speech_leaves_no_crash_behind_at_exit(digits: ModuleType) -> None:
    code = (
        "import sys, asr.corpora.catalogue as p; r, _ = p.find_recipe('digits'); m = sys.modules[r.prepare.__module__];"
        "e = m.Espeak(); print(sum(len(e.speak('nine', 'en-us+f3')) for _ in range(20)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20 * 22050 * 0.2


def test_voices_of_a_split_are_in_no_other(digits: ModuleType) -> None:
    variants = {split: set(digits.VARIANTS[split]) for split in SPLITS}
    assert sum(map(len, variants.values())) == len(set.union(*variants.values()))
    speakers = {split: {plan.voice for plan in digits.plan_split(split, 1)} for split in SPLITS}
    assert [len(speakers[split]) for split in SPLITS] == [80, 10, 20]
    assert not speakers["train"] & speakers["test"]
    assert not speakers["dev"] & (speakers["train"] | speakers["test"])


def test_the_split_follows_its_stated_rule(digits: ModuleType) -> None:
    women = {"f1", "f2", "f3", "f4", "f5", "Annie", "belinda", "grandma", "shelby"}
    everybody = {v for split in SPLITS for v in digits.VARIANTS[split]}
    for group in (women, everybody - women):
        ordered = sorted(group, key=lambda v: stable_hash(f"digits/{v}"))
        assert set(ordered[:2]) <= set(digits.VARIANTS["test"])
        assert ordered[2] in digits.VARIANTS["dev"]
        assert set(ordered[3:]) <= set(digits.VARIANTS["train"])


def test_the_full_set_has_the_counts_that_are_stated(digits: ModuleType) -> None:
    counts = {split: len(list(digits.plan_split(split, n))) for split, n in digits.PER_VOICE.items()}
    assert counts == {"train": 960, "dev": 100, "test": 200}


@needs_espeak
def test_manifests_are_valid_and_their_texts_are_digits(digits: ModuleType, prepared: Path) -> None:
    ids: list[str] = []
    for split in SPLITS:
        for u in manifest.read(prepared / f"{split}.jsonl"):
            words = u.text.split()
            assert 3 <= len(words) <= 5
            assert set(words) <= set(digits.DIGITS)
            assert u.speaker.partition("+")[2] in digits.VARIANTS[split]
            ids.append(u.id)
    assert len(ids) == len({id_.lower() for id_ in ids}) == 110  # file names that differ by more than case


@needs_espeak
def test_audio_is_16_khz_mono_audible_and_not_clipped(prepared: Path) -> None:
    for split in SPLITS:
        rows = manifest.read(prepared / f"{split}.jsonl")
        for u in rows:
            header = audio.info(rows.audio_path(u))
            assert (header.sample_rate_hz, header.channels) == (16000, 1)
            assert u.duration_s == pytest.approx(header.duration_s, abs=1e-4)
            wave, _ = audio.load(rows.audio_path(u))
            assert 0.2 < u.duration_s / len(u.text.split()) < 1.0, u.id
            assert 0.05 < np.abs(wave).max() < 0.96, u.id
            # speech is at -32 to -20 dB against full scale; silence around it takes off at most a few
            assert -37 < 20 * np.log10(np.sqrt(np.mean(wave**2))) < -19, u.id


def test_a_missing_package_is_one_line_that_names_the_install(
    digits: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(AsrError) as caught:
        digits.prepare(Request(tmp_path))
    assert "pip install 'asr-ctc[quickstart]'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@needs_espeak
def test_an_unknown_voice_is_an_error_not_another_voice(digits: ModuleType) -> None:
    espeak = digits.Espeak()
    with pytest.raises(AsrError, match=r"no voice variant 'belind'.*did you mean 'belinda'"):
        espeak.speak("one", "en-us+belind")
    with pytest.raises(AsrError, match="no voice 'en-zz'"):
        espeak.speak("one", "en-zz")


@needs_espeak
def test_unusable_data_is_an_error_not_an_exit(digits: ModuleType, tmp_path: Path) -> None:
    espeak = digits.Espeak()
    espeak._data_path = tmp_path / "nowhere"
    with pytest.raises(AsrError, match="cannot use its data"):
        espeak.speak("one", "en-us")


@needs_espeak
def test_data_in_a_deep_folder_speaks_the_same(digits: ModuleType, tmp_path: Path) -> None:
    expected = digits.Espeak().speak("one", "en-us+f3")
    espeak = digits.Espeak()
    deep = tmp_path / ("d" * 200) / "espeak-ng-data"  # espeak-ng has room for 160 bytes
    deep.parent.mkdir()
    deep.symlink_to(espeak._data_path, target_is_directory=True)
    espeak._data_path = deep
    np.testing.assert_array_equal(espeak.speak("one", "en-us+f3"), expected)


def test_an_archive_is_refused(digits: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no --archive"):
        prepare(digits.RECIPE, Request(tmp_path, (tmp_path / "digits.tar",)))
