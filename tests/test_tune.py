"""Decoder settings by error rate: the search over them, the cache of log-probabilities, and what is saved and used."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asr.tuning.emissions
from asr.data import manifest as manifests
from asr.data.tokenizer import CharTokenizer
from asr.decode.choose import NO_LM, decoder_for, describe_search
from asr.decode.decoder import BeamDecoder
from asr.decode.options import DecoderOptions
from asr.decode.settings import BeamConfig
from asr.decode.tuned import Tuned, keep_lm, read_tuned, write_tuned
from asr.errors import AsrError, CheckpointError, ConfigError, DataError
from asr.infer import all_log_probs
from asr.lm import ngram
from asr.model.checkpoint import load_model
from asr.model.prepared import prepared
from asr.recordings.speech import NO_SPEECH_THRESHOLD, no_speech_prob, second_opinion, without_words
from asr.scoring.bootstrap import bootstrap_interval
from asr.transcribe import Recognizer
from asr.tuning.emissions import emissions
from asr.tuning.tune import ALPHAS, BETAS, SEARCHES, Point, decoder_to_tune, lowest, nearest_usual, tune
from tests.builders import build_corpus
from tests.models import save_random_model
from tests.pretend_cuda import pretended_cuda

TOKENIZER = CharTokenizer((" ", "a", "b", "c", "d"))
SENTENCES = ("abba cad", "dab abba", "cad cab", "bad cab dab", "abba", "dad bad cab")


def noisy_log_probs(texts: list[str], seed: int, noise: float) -> list[np.ndarray]:
    """Each letter on two steps with a blank behind, blurred: greedy decoding makes mistakes."""
    rng = np.random.default_rng(seed)
    out = []
    for text in texts:
        logits = rng.normal(0, noise, (3 * len(text), TOKENIZER.vocabulary_size))
        for i, token in enumerate(TOKENIZER.encode(text)):
            logits[3 * i : 3 * i + 2, token] += 3
            logits[3 * i + 2, 0] += 3
        out.append((logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32))
    return out


@pytest.fixture(scope="module")
def lm():
    return ngram.train(list(SENTENCES) * 3, 2)


@pytest.fixture(scope="module")
def lm_file(lm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "small.arpa"
    ngram.write(lm, path)
    return path


@pytest.fixture(scope="module")
def tuning(lm):
    texts = list(SENTENCES) * 4
    return tune(TOKENIZER, noisy_log_probs(texts, 1, 1.6), texts, lm, threads=1)


def test_the_tuned_setting_gives_the_error_rate_that_is_said_and_beats_greedy_decoding(tuning, lm):
    texts = list(SENTENCES) * 4
    best = tuning.best
    decoder = BeamDecoder(TOKENIZER, best.config, lm)
    from asr.scoring.wer import word_counts

    found = [decoder.decode(one_sv)[0].text for one_sv in noisy_log_probs(texts, 1, 1.6)]
    assert sum(c.errors for c in word_counts(zip(texts, found, strict=True))) == best.errors
    assert best.rate == best.errors / tuning.words < tuning.greedy.rate


def test_the_surface_holds_the_whole_grid_and_the_choice_is_as_good_as_its_lowest_point(tuning):
    assert {(a, b) for a in ALPHAS for b in BETAS} <= set(tuning.surface)
    fewest = min(tuning.surface.values(), key=lambda point: point.errors)
    key = tuning.best.config.alpha, tuning.best.config.beta
    more_n = tuning.surface[key].errors_n - fewest.errors_n
    assert more_n.sum() <= np.sqrt((more_n**2).sum())
    assert all(point.low <= point.rate <= point.high for point in tuning.surface.values())


def test_the_chosen_search_finds_nearly_the_words_of_the_widest(tuning):
    assert len(tuning.searches) == len(SEARCHES) and tuning.searches[0].differs == 0
    assert tuning.best in tuning.searches and tuning.best.differs <= 0.001


def test_the_grid_grows_where_its_edge_is_best(lm):
    # the letters of one word are always confused with another's: only a heavy language model can tell
    texts = ["abba cad"] * 6
    log_probs = noisy_log_probs(["abba cab"] * 6, 3, 0.3)
    found = tune(TOKENIZER, log_probs, texts, ngram.train(["abba cad"] * 50 + ["cab"], 2), threads=1)
    assert max(alpha for alpha, _ in found.surface) > max(ALPHAS)


def test_the_chosen_setting_has_the_scorers_own_interval(tuning):
    words_n = [len(text.split()) for text in SENTENCES * 4]
    assert len(words_n) == tuning.utterances
    assert (tuning.best.low, tuning.best.high) == bootstrap_interval(tuning.best.errors_n, words_n)
    assert sum(point is tuning.best for point in tuning.searches) == 1


def test_what_cannot_be_tuned_is_refused_before_there_are_log_probabilities(lm):
    with pytest.raises(DataError, match="have no words"):
        decoder_to_tune(TOKENIZER, ["", " "], lm)
    with pytest.raises(ConfigError, match="is the case right"):
        decoder_to_tune(CharTokenizer((" ", "X")), ["X"], lm)


def test_references_without_words_are_refused(lm):
    with pytest.raises(DataError, match="no words"):
        tune(TOKENIZER, noisy_log_probs(["a"], 0, 0.1), [""], lm)


@given(st.dictionaries(st.tuples(st.integers(0, 6), st.integers(0, 6)), st.integers(0, 5), min_size=1))
def test_the_lowest_point_has_the_fewest_errors(surface):
    points = {
        (float(a), float(b)): Point(BeamConfig(), np.array([e]), 0.0, 0.0, 0.0, 0.0) for (a, b), e in surface.items()
    }
    assert points[lowest(points, 1.0, 1.0)].errors == min(surface.values())


def test_a_tie_goes_to_the_point_with_good_neighbours():
    errors = {(0.0, 0.0): 1, (1.0, 0.0): 9, (2.0, 0.0): 9, (3.0, 0.0): 2, (4.0, 0.0): 1, (5.0, 0.0): 2}
    points = {key: Point(BeamConfig(), np.array([e]), 0.0, 0.0, 0.0, 0.0) for key, e in errors.items()}
    assert lowest(points, 1.0, 1.0) == (4.0, 0.0)
    # at the edge, where there are fewer neighbours, it is their mean that counts
    errors = {(0.0, 0.0): 1, (1.0, 0.0): 5, (2.0, 0.0): 3, (3.0, 0.0): 1, (4.0, 0.0): 3}
    points = {key: Point(BeamConfig(), np.array([e]), 0.0, 0.0, 0.0, 0.0) for key, e in errors.items()}
    assert lowest(points, 1.0, 1.0) == (3.0, 0.0)


def test_of_weights_that_are_as_good_the_nearest_to_the_usual_ones_are_taken():
    def surface(*errors: tuple[float, float, list[int]]) -> dict[tuple[float, float], Point]:
        return {(a, b): Point(BeamConfig(), np.array(e), 0.0, 0.0, 0.0, 0.0) for a, b, e in errors}

    best = (0.0, 0.0, [0] * 9)
    twice = (0.25, 1.5, [1, 1] + [0] * 7)  # two errors more of two differences are 1.4 deviations
    many = (0.5, 2.25, [1, -1, 1, -1, 1, -1, 1, 1, 0])  # two more of eight differences are 0.7
    once = (0.5, 1.5, [1] + [0] * 8)  # one more is one
    assert nearest_usual(surface(best, twice), (0.0, 0.0)) == (0.0, 0.0)
    assert nearest_usual(surface(best, twice, many), (0.0, 0.0)) == (0.5, 2.25)
    assert nearest_usual(surface(best, twice, many, once), (0.0, 0.0)) == (0.5, 1.5)
    # Alpha counts in steps of 0.25, beta in those of 0.75; where two are as near, fewer errors decide.
    tie = surface((0.25, 1.5, [1, -1, 1, -1, 1, 0]), (0.5, 2.25, [0] * 6))
    assert nearest_usual(tie, (0.5, 2.25)) == (0.5, 2.25)


@given(alpha=st.floats(0, 3), beta=st.floats(-3, 3), unknown=st.floats(-20, 0), width=st.integers(1, 20))
def test_a_decoder_with_new_weights_is_a_decoder_built_with_them(lm, alpha, beta, unknown, width):
    config = BeamConfig(alpha=alpha, beta=beta, unknown_log_prob=unknown, beam_width=width, nbest=3)
    (log_probs_sv,) = noisy_log_probs(["dab xx".replace("x", "d")], 5, 1.5)
    built = BeamDecoder(TOKENIZER, config, lm, "numpy")
    changed = BeamDecoder(TOKENIZER, BeamConfig(hotwords={}), lm, "numpy").with_config(config)
    assert changed.decode(log_probs_sv) == built.decode(log_probs_sv)


def test_words_cannot_be_changed_in_a_decoder_that_is_built(lm):
    decoder = BeamDecoder(TOKENIZER, BeamConfig(), lm, "numpy")
    with pytest.raises(ConfigError, match="lexicon cannot be changed"):
        decoder.with_config(BeamConfig(lexicon=("cab",)))


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


def test_another_language_model_than_the_tuned_one_is_judged_by_its_own_words(tmp_path):
    tokenizer = CharTokenizer(("a", "b"))
    for name, text in (("words.bin", "ab ba"), ("tokens.bin", "a b")):
        ngram.write(ngram.train([text] * 3, 2), tmp_path / name)
    tuned = Tuned(config=BeamConfig(fusion="word"), lm="tokens.bin", lm_bytes=(tmp_path / "tokens.bin").stat().st_size)
    write_tuned(tmp_path, tuned)
    tokens = DecoderOptions(lm=tmp_path / "tokens.bin")
    assert "LM of tokens" not in decoder_for(tmp_path, tokenizer).name, "as it was tuned"
    assert "LM of tokens" not in decoder_for(tmp_path, tokenizer, tokens).name, "the same one"
    write_tuned(tmp_path, tuned.model_copy(update={"lm": "words.bin"}))
    assert "LM of tokens" in decoder_for(tmp_path, tokenizer, tokens).name


@pytest.fixture
def corpus(tmp_path) -> Path:
    build_corpus(tmp_path / "corpus", 6, seed=1)
    return tmp_path / "corpus" / "train.jsonl"


def test_what_is_kept_is_what_the_model_gives(model_folder, corpus, tmp_path):
    model, rows = load_model(model_folder), manifests.read(corpus)
    first = emissions(model, rows, tmp_path / "cache")
    second = emissions(model, rows, tmp_path / "cache")
    assert (first.found, second.found) == (False, True)
    recognizer = Recognizer(model)
    for utterance, kept_sv, again_sv in zip(first.utterances, first.log_probs, second.log_probs, strict=True):
        wave_n = recognizer.load_wave(rows.audio_path(utterance))
        alone_sv = recognizer.log_probs(wave_n)
        if second_opinion(no_speech_prob(wave_n, 16000), alone_sv) > NO_SPEECH_THRESHOLD:
            alone_sv = without_words(alone_sv)
        np.testing.assert_allclose(kept_sv, alone_sv, atol=1e-5)  # float32 sums in another order
        np.testing.assert_array_equal(kept_sv, again_sv)
    assert [u.id for u in first.utterances] == [u.id for u in rows]


def test_a_gpu_keeps_its_own_log_probabilities_beside_those_of_a_cpu(model_folder, corpus, tmp_path):
    rows = manifests.read(corpus)
    expected = emissions(load_model(model_folder), rows, tmp_path / "cache")
    with pretended_cuda():
        found = emissions(load_model(model_folder, "cuda:0"), rows, tmp_path / "cache")
        narrow = emissions(prepared(load_model(model_folder, "cuda:0"), "bf16"), rows, tmp_path / "cache")
    assert not found.found and not narrow.found and found.utterances == expected.utterances
    for one_sv, expected_sv in zip(found.log_probs, expected.log_probs, strict=True):
        np.testing.assert_allclose(one_sv, expected_sv, atol=2e-4)  # logits of some tens


def test_other_audio_or_other_weights_are_computed_anew_and_another_text_is_not(model_folder, corpus, tmp_path):
    rows, cache = manifests.read(corpus), tmp_path / "cache"
    model = load_model(model_folder)
    emissions(model, rows, cache)
    retold = manifests.Manifest(rows.path, [manifests.Utterance(u.id, u.audio_path, u.duration_s, "b") for u in rows])
    assert emissions(model, retold, cache).found
    path = rows.audio_path(rows.utterances[0])
    os.utime(path, (1, 1))
    assert not emissions(model, rows, cache).found
    path.write_bytes(path.read_bytes()[:-2] + b"\x01\x01")  # as long as it was
    os.utime(path, (1, 1))
    assert not emissions(model, rows, cache).found
    assert not emissions(load_model(save_random_model(tmp_path / "other", seed=4)), rows, cache).found


def test_two_that_fill_one_cache_at_once_both_get_theirs(model_folder, corpus, tmp_path, monkeypatch):
    model, rows = load_model(model_folder), manifests.read(corpus)
    together = threading.Barrier(2)
    before = asr.tuning.emissions._compute

    def compute(*args):
        together.wait(30)  # both have seen that nothing is there
        before(*args)
        together.wait(30)  # both are done before either gives its folder the name

    monkeypatch.setattr(asr.tuning.emissions, "_compute", compute)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: emissions(model, rows, tmp_path / "cache"), range(2)))
    assert [len(one.log_probs) for one in both] == [6, 6] and not any(one.found for one in both)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [both[0].folder.name]
    assert emissions(model, rows, tmp_path / "cache").found


def test_a_file_that_cannot_be_read_is_named_each_time_and_stops_nothing(model_folder, corpus, tmp_path):
    rows = manifests.read(corpus)
    bad = rows.utterances[2]
    rows.audio_path(bad).write_bytes(b"no audio")
    for found in (False, True):
        result = emissions(load_model(model_folder), rows, tmp_path / "cache")
        assert result.found is found and list(result.failed) == [bad.id] and len(result.log_probs) == 5
    for utterance in rows:
        rows.audio_path(utterance).write_bytes(b"")
    with pytest.raises(DataError, match="no utterance could be read"):
        emissions(load_model(model_folder), rows, tmp_path / "cache")


@pytest.mark.parametrize("name", ["index.json", "log_probs.npy"])
@pytest.mark.parametrize("harm", ["empty", "cut", "gone"])
def test_what_is_damaged_in_the_cache_is_computed_anew(model_folder, corpus, tmp_path, name, harm):
    model, rows = load_model(model_folder), manifests.read(corpus)
    first = emissions(model, rows, tmp_path / "cache")
    log_probs = [one_sv.copy() for one_sv in first.log_probs]  # the mapped file is about to be cut
    path = first.folder / name
    content = path.read_bytes()
    path.unlink() if harm == "gone" else path.write_bytes(b"" if harm == "empty" else content[: len(content) // 2])
    again = emissions(model, rows, tmp_path / "cache")
    assert not again.found and path.read_bytes() == content
    assert all(map(np.array_equal, again.log_probs, log_probs))
    assert emissions(model, rows, tmp_path / "cache").found


def test_a_cache_that_cannot_be_read_or_written_is_one_line(model_folder, corpus, tmp_path, monkeypatch):
    model, rows = load_model(model_folder), manifests.read(corpus)
    (tmp_path / "file").touch()
    with pytest.raises(AsrError, match=r"cannot write: .*choose another place with --cache"):
        emissions(model, rows, tmp_path / "file")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("asr.tuning.emissions.read_json", refuse)
    with pytest.raises(AsrError, match="cannot read: permission denied; choose another place with --cache"):
        emissions(model, rows, tmp_path / "cache")


def test_a_broken_off_pass_leaves_nothing_that_looks_whole(model_folder, corpus, tmp_path):
    def stop(audio_s: float) -> None:
        raise KeyboardInterrupt

    model, rows = load_model(model_folder), manifests.read(corpus)
    with pytest.raises(KeyboardInterrupt):
        emissions(model, rows, tmp_path / "cache", stop)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(all_log_probs(model, [])) == 0


# --- decoder.json -----------------------------------------------------------------------------------------------------


#: what `describe_search` says of the words of the next one
LISTED = "hotwords cab:2, lexicon of 3"


@pytest.fixture
def tuned_folder(tmp_path, lm_file) -> Path:
    folder = save_random_model(tmp_path / "tuned")
    config = BeamConfig(beam_width=7, alpha=0.75, hotwords={"cab": 2.0}, lexicon=("cab", "dab", "abba"))
    write_tuned(folder, Tuned(config=config, lm=str(lm_file), lm_bytes=lm_file.stat().st_size))
    return folder


def test_what_was_tuned_is_read_back_and_used(tuned_folder, lm_file):
    tuned = read_tuned(tuned_folder)
    assert tuned is not None and tuned.config.lexicon == ("cab", "dab", "abba")
    decoder = decoder_for(tuned_folder, TOKENIZER)
    assert (decoder.name, decoder.lm) == (f"beam 7, alpha 0.75, beta 1.5, {LISTED}", str(lm_file))
    assert decoder.source == str(tuned_folder / "decoder.json")
    assert Recognizer.load(tuned_folder, "cpu").decoder.name == decoder.name


def test_options_stand_above_what_was_tuned(tuned_folder, lm_file):
    assert decoder_for(tuned_folder, TOKENIZER, DecoderOptions("greedy")).name == "greedy"
    heavier = decoder_for(tuned_folder, TOKENIZER, DecoderOptions(settings={"alpha": 1.0}))
    assert heavier.name == f"beam 7, alpha 1, beta 1.5, {LISTED}"
    without = decoder_for(tuned_folder, TOKENIZER, DecoderOptions(lm=NO_LM))
    assert (without.name, without.lm) == (f"beam 7, {LISTED}", None)


@pytest.mark.parametrize("key", ["alpha", "beta", "unknown_log_prob"])
def test_a_weight_without_a_language_model_is_refused(model_folder, tuned_folder, key):
    settings = {key: -1.0 if key == "unknown_log_prob" else 1.0}
    for folder, lm in ((model_folder, None), (tuned_folder, NO_LM)):
        with pytest.raises(ConfigError, match=f"{key} weighs a language model, and there is none"):
            decoder_for(folder, TOKENIZER, DecoderOptions(settings=settings, lm=lm))


def test_an_unknown_decoder_is_refused_with_the_nearest(model_folder):
    with pytest.raises(ConfigError, match=r"unknown decoder 'gredy'.*did you mean 'greedy'"):
        decoder_for(model_folder, TOKENIZER, DecoderOptions("gredy"))


def test_many_hotwords_are_counted_in_the_decoders_name():
    words = {"a" * n: 1.0 for n in range(1, 9)}
    assert (
        describe_search(BeamConfig(hotwords=words, lexicon=tuple(words)), with_lm=False)
        == "beam 100, 8 hotwords, lexicon of 8"
    )


def test_a_model_that_was_not_tuned_decodes_greedily_unless_asked(model_folder, lm_file):
    assert decoder_for(model_folder, TOKENIZER).name == "greedy"
    assert decoder_for(model_folder, TOKENIZER, DecoderOptions("beam")).name == "beam 100"
    assert decoder_for(model_folder, TOKENIZER, DecoderOptions(lm=lm_file)).lm == str(lm_file)


def test_a_language_model_inside_the_model_folder_moves_with_it(tmp_path, lm_file):
    folder = save_random_model(tmp_path / "here")
    (folder / "lm.arpa").write_bytes(lm_file.read_bytes())
    write_tuned(folder, Tuned(config=BeamConfig(), lm="lm.arpa", lm_bytes=lm_file.stat().st_size))
    folder.rename(tmp_path / "there")
    assert decoder_for(tmp_path / "there", TOKENIZER).lm == str(tmp_path / "there" / "lm.arpa")


def test_a_language_model_goes_into_the_model_folder_unless_it_is_there(tmp_path, lm, lm_file):
    assert keep_lm(tmp_path, lm, lm_file) == ("lm.bin", (tmp_path / "lm.bin").stat().st_size)
    assert ngram.load(tmp_path / "lm.bin").score(["a", "b"]) == lm.score(["a", "b"])
    (tmp_path / "lm.bin").unlink()
    own = tmp_path / "own" / "words.arpa"
    own.parent.mkdir()
    own.write_bytes(lm_file.read_bytes())
    assert keep_lm(tmp_path, lm, own) == ("own/words.arpa", own.stat().st_size)
    assert not (tmp_path / "lm.bin").exists()


def test_a_language_model_that_is_gone_is_an_error_and_one_that_changed_is_said(tuned_folder, lm_file, caplog):
    tuned = read_tuned(tuned_folder)
    write_tuned(tuned_folder, tuned.model_copy(update={"lm_bytes": 5}))
    decoder_for(tuned_folder, TOKENIZER)
    assert "had 5 bytes when the weights were tuned" in caplog.text
    write_tuned(tuned_folder, tuned.model_copy(update={"lm": "/nowhere/x.arpa"}))
    with pytest.raises(CheckpointError, match="--lm"):
        decoder_for(tuned_folder, TOKENIZER)
    assert decoder_for(tuned_folder, TOKENIZER, DecoderOptions(lm=lm_file)).lm == str(lm_file)
    write_tuned(tuned_folder, tuned.model_copy(update={"lm": "x" * 300}))
    with pytest.raises(CheckpointError, match="which is not there"):
        decoder_for(tuned_folder, TOKENIZER)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ('{"format_version": 2}', "format_version 2"),
        ('{"config": {"beam": 3}}', "beam"),
        ("[]", "expected a mapping"),
        ('{"config": {"alpha": -1}}', "alpha"),
    ],
)
def test_damaged_settings_are_one_line_that_names_the_file(tuned_folder, content, said):
    (tuned_folder / "decoder.json").write_text(content)
    with pytest.raises(CheckpointError, match=said) as error:
        decoder_for(tuned_folder, TOKENIZER)
    assert str(tuned_folder / "decoder.json") in str(error.value) and "asr tune" in str(error.value)


def test_a_pipe_in_the_place_of_a_decoders_settings_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "decoder.json")
    with pytest.raises(CheckpointError, match=r"decoder.json: cannot read: is a pipe or device"):
        read_tuned(tmp_path)


def test_the_saved_file_holds_only_plain_json(tuned_folder):
    data = json.loads((tuned_folder / "decoder.json").read_text())
    assert data["config"]["beam_width"] == 7 and data["format_version"] == 1
