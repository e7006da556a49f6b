"""Live streams: the bits of the whole recording however it is cut, passages that end in pauses, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import ConvConfig, FeatureConfig, ModelConfig
from asr.decode.choose import beam_decoder
from asr.decode.settings import BeamConfig
from asr.errors import ConfigError, DataError
from asr.features.build import build_extractor
from asr.features.frames import FeatureExtractor
from asr.features.stream import FrameStream
from asr.model.cpu.inference import InferenceNetwork
from asr.model.cpu.streams import State, tick
from asr.streaming.endpoints import EndPoints
from asr.streaming.engines import why_not
from asr.streaming.pool import StreamPool, open_pool
from asr.streaming.results import Result, Rules
from asr.transcribe import Recognizer
from tests.builders import Wave, noise, sine, tones
from tests.models import save_random_model, save_streaming_model
from tests.test_fast import BF16, network, utterances

ONE_WAY = ("model.bidirectional=false", "features.normalization=corpus")
SMALL = ConvConfig(channels=3, kernel_tf=(5, 3), stride_tf=(2, 2))
STRIDES = (ConvConfig(channels=5, kernel_tf=(11, 5), stride_tf=(2, 1)), ConvConfig(channels=4, kernel_tf=(3, 3)))
NETWORKS = {
    "gru": ModelConfig(conv=(SMALL,), layers=2, hidden=6, bidirectional=False),
    "gru, lookahead, two convolutions": ModelConfig(
        conv=STRIDES, layers=2, hidden=20, bidirectional=False, lookahead_steps=4
    ),
    "lstm, residual": ModelConfig(conv=(SMALL,), cell="lstm", layers=3, hidden=17, residual=True, bidirectional=False),
    "tanh": ModelConfig(conv=(SMALL,), cell="tanh", layers=1, hidden=40, bidirectional=False, lookahead_steps=1),
}
FEATURES = {
    "log-mel": FeatureConfig(normalization="corpus"),
    "derivatives, context": FeatureConfig(kind="mfcc", deltas=2, context_frames=3, normalization="none"),
    "pre-emphasis": FeatureConfig(preemphasis=0.97, normalization="corpus"),
    "spectrogram, short window": FeatureConfig(kind="spectrogram", window_s=0.015, normalization="corpus"),
}


def pieces(sizes: Sequence[int], whole: np.ndarray) -> list[np.ndarray]:
    """An array in pieces of these sizes, and the rest."""
    return np.split(whole, np.minimum(np.cumsum(sizes), len(whole)))


# --- features ---


@pytest.mark.parametrize("cfg", FEATURES.values(), ids=FEATURES)
@given(num_samples=st.integers(0, 6000), sizes=st.lists(st.integers(0, 1500), max_size=20))
@settings(max_examples=25, deadline=None)
def test_features_of_a_stream_are_those_of_the_whole(cfg: FeatureConfig, num_samples: int, sizes: list[int]) -> None:
    extractor = build_extractor(cfg, 16000)
    assert isinstance(extractor, FeatureExtractor)
    wave_n = noise(1.0)[:num_samples]

    stream = FrameStream(extractor)
    frames = [stream.feed(piece_n) for piece_n in pieces(sizes, wave_n)]

    np.testing.assert_array_equal(np.concatenate([*frames, stream.finish()]), extractor(wave_n))


def test_a_frame_comes_as_soon_as_its_samples_are_there() -> None:
    extractor = build_extractor(FeatureConfig(normalization="corpus"), 16000)
    assert isinstance(extractor, FeatureExtractor)
    stream = FrameStream(extractor)

    # Half a window of 400 samples lies before the first frame's middle, which is the first sample.
    assert [len(stream.feed(noise()[:size])) for size in (199, 1, 159, 1, 160)] == [0, 1, 0, 1, 1]


# --- network ---


@pytest.mark.parametrize("precision", ["fp32", BF16])
@pytest.mark.parametrize("cfg", NETWORKS.values(), ids=NETWORKS)
def test_streams_in_any_pieces_and_company_get_the_bits_of_the_whole(cfg: ModelConfig, precision: str) -> None:
    arrays = {name: tensor.numpy() for name, tensor in network(cfg).state_dict().items()}
    fast = InferenceNetwork(cfg, 9, 5, arrays, precision)
    features = utterances(150, 37, 1, 0, 60, 8)
    rng = np.random.default_rng(1)

    states = [State(fast) for _ in features]
    at = [0] * len(features)
    done = [False] * len(features)
    answers: list[list[np.ndarray]] = [[] for _ in features]
    while not all(done):
        some = [i for i in range(len(features)) if not done[i] and rng.random() < 0.7]
        if not some:
            continue
        sizes = rng.integers(0, 25, len(some))
        given_now = [features[i][at[i] : at[i] + size] for i, size in zip(some, sizes, strict=True)]
        for i, size in zip(some, sizes, strict=True):
            at[i] += int(size)
            done[i] = at[i] >= len(features[i])
        out = tick(fast, [states[i] for i in some], given_now, [done[i] for i in some])
        for i, log_probs_sv in zip(some, out, strict=True):
            answers[i].append(log_probs_sv)

    for own, whole in zip(answers, fast.each(features), strict=True):
        np.testing.assert_array_equal(np.concatenate(own), whole)


def test_a_step_waits_for_the_frames_that_the_network_looks_ahead_to() -> None:
    cfg = NETWORKS["gru, lookahead, two convolutions"]
    arrays = {name: tensor.numpy() for name, tensor in network(cfg).state_dict().items()}
    fast = InferenceNetwork(cfg, 9, 5, arrays, "fp32")
    state = State(fast)

    # 5 frames for the first convolution, 1 step of 2 frames for the second, 4 steps for the row convolution; 1 its own
    (before,) = tick(fast, [state], utterances(5 + 2 + 4 * 4), [False])
    (after,) = tick(fast, [state], utterances(1), [False])

    assert len(before) == 0
    assert len(after) == 1


# --- end points ---


def ends(rules: Rules, plan: str, longest_s: float = 20.0) -> list[int]:
    """The steps of 40 ms after which passages end, of a plan like "t.." with tokens and pauses."""
    points = EndPoints(rules, 0.04, longest_s)
    found = []
    for i, mark in enumerate(plan):
        if points.is_end(mark == "t"):
            found.append(i + 1)
            points = EndPoints(rules, 0.04, longest_s)
    return found


def test_a_passage_ends_after_a_pause_and_silence_ends_one_without_a_text() -> None:
    assert ends(Rules(), "t" + "." * 29) == []
    assert ends(Rules(), "t" + "." * 30) == [31]
    assert ends(Rules(), "." * 60) == [60]
    assert ends(Rules(pause_s=0.4, silence_s=1.0), "tt" + "." * 10 + "." * 25) == [12, 37]


def test_a_long_passage_ends_in_its_next_pause_and_the_longer_it_is_the_shorter_that_may_be() -> None:
    word = "ttt." * 50  # 8 s with pauses of 40 ms
    assert ends(Rules(longest_s=10.0), word + word + "." * 8) == [360]  # 14.4 s: 40 ms will do
    assert ends(Rules(longest_s=20.0), word + word + "." * 8) == []
    assert ends(Rules(longest_s=20.0), word + word, longest_s=10.0)[0] < 400  # 15 s: any step will do


def test_silence_and_sound_without_end_are_cut_all_the_same() -> None:
    assert ends(Rules(silence_s=3600.0, pause_s=3600.0), "." * 1100) == [500, 1000]  # 20 s
    assert ends(Rules(), "t" * 2100) == [1000, 2000]


@pytest.mark.parametrize("silence_s", [0.2, 0.3, 0.5, 2.4])
def test_each_passage_of_silence_is_one_further(silence_s: float) -> None:
    points = EndPoints(Rules(silence_s=silence_s), 0.04, 20.0)
    while not points.is_end(is_token=False):
        pass

    assert 0 < points.cut_step(np.zeros(points.steps * 640, np.float32), 640) < points.steps


def test_a_passage_is_cut_where_its_pause_is_quietest() -> None:
    points = EndPoints(Rules(pause_s=1.0), 0.04, 20.0)
    for is_token in [True] * 10 + [False] * 25:
        points.is_end(is_token)
    loud_n = noise(1.0, amplitude=0.01)
    loud_n[8 * 640 : 11 * 640] = 0

    assert points.cut_step(loud_n, 640) == 10 + 9
    assert points.cut_step(np.zeros(16000, np.float32), 640) == 10 + 12


@pytest.mark.parametrize("wrong", [{"pause_s": 0.01}, {"silence_s": float("nan")}, {"longest_s": 1e9}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Rules(**wrong)


# --- streams ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_streaming_model(tmp_path_factory.mktemp("streaming"))


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> Recognizer:
    return Recognizer.load(folder, "cpu", no_speech_threshold=1.0)


def spoken(seconds: float, seed: int = 0) -> Wave:
    """Words of tones with pauses between, some long."""
    rng = np.random.default_rng(seed)
    parts = [noise(0.3, seed=seed, amplitude=0.01)]
    while sum(map(len, parts)) < seconds * 16000:
        parts += [tones("BADE", rng), noise(float(rng.uniform(0.1, 2.5)), seed=len(parts), amplitude=0.01)]
    return np.concatenate(parts)[: round(seconds * 16000)]


def run(
    recognizer: Recognizer, chunks: Sequence[np.ndarray], rate_hz: int = 16000, rules: Rules = Rules()
) -> list[Result]:
    stream = recognizer.stream(rate_hz, rules)
    results = [result for chunk in chunks for result in stream.feed(chunk)]
    return results + stream.finish()


def finals(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.final]


def test_a_recording_that_needs_no_cut_has_the_text_of_transcription(recognizer: Recognizer) -> None:
    wave_n = tones("BADE", np.random.default_rng(0))
    expected = recognizer.transcribe(wave_n, 16000)

    (result,) = finals(run(recognizer, [wave_n]))

    assert expected.text
    assert (result.text, result.log_prob) == (expected.text, expected.log_prob)
    assert [(word.word, word.start_s, word.confidence) for word in result.words] == [
        (word.word, word.start_s, word.confidence) for word in expected.words
    ]


@pytest.mark.parametrize("rate_hz", [16000, 44100])
@pytest.mark.parametrize("chunk_s", [0.01, 0.16, 3.0])
def test_cuts_between_samples_change_no_final_result(recognizer: Recognizer, chunk_s: float, rate_hz: int) -> None:
    wave_n = spoken(15.0)
    rules = Rules(longest_s=2.0)
    size = round(chunk_s * rate_hz)

    whole = finals(run(recognizer, [wave_n], rate_hz, rules))
    cut = finals(run(recognizer, pieces([size] * (len(wave_n) // size), wave_n), rate_hz, rules))

    assert any(result.text for result in whole)
    assert len(whole) > 1
    assert cut == whole


def test_a_network_that_was_not_trained_on_joined_utterances_begins_anew_in_a_pause(recognizer: Recognizer) -> None:
    rng = np.random.default_rng(0)
    wave_n = np.concatenate([tones("BADE", rng), noise(0.5, amplitude=0.01), tones("DEAB", rng)])

    (result,) = finals(run(recognizer, pieces([1600] * 60, wave_n)))
    apart = finals(run(recognizer, [wave_n], rules=Rules(pause_s=0.7)))

    assert [one.text != "" for one in apart] == [True, True]
    assert result.text == " ".join(one.text for one in apart)
    assert result.words == apart[0].words + apart[1].words

    model = replace(recognizer.model, training={"joined": 0.33})
    (result,) = finals(run(Recognizer(model, no_speech_threshold=1.0), pieces([1600] * 60, wave_n)))
    whole = recognizer.decoder.decode(recognizer.log_probs(wave_n))[0]
    assert (result.text.split(), result.log_prob) == (whole.text.split(), whole.log_prob)


def test_passages_follow_each_other_without_gaps(recognizer: Recognizer) -> None:
    results = finals(run(recognizer, [spoken(20.0)]))

    assert len(results) > 2
    assert results[0].start_s == 0
    assert all(a.end_s == b.start_s for a, b in pairwise(results))
    for result in results:
        assert all(result.start_s <= word.start_s < word.end_s <= result.end_s for word in result.words)
        assert " ".join(word.word for word in result.words) == result.text


def test_greedy_text_only_grows_and_comes_while_somebody_speaks(recognizer: Recognizer) -> None:
    wave_n = spoken(12.0)
    results = run(recognizer, pieces([1600] * 120, wave_n))

    assert len([result for result in results if not result.final]) > 10
    before = ""
    for result in results:
        assert result.text.startswith(before)
        assert result.stable == len(result.text)
        before = "" if result.final else result.text


def test_int16_and_floats_of_one_wave_give_one_text(recognizer: Recognizer) -> None:
    samples = np.round(spoken(4.0) * 32768).astype(np.int16)

    assert run(recognizer, [samples]) == run(recognizer, [(samples / 32768).astype(np.float32)])


def test_a_flush_ends_the_passage_and_time_goes_on(recognizer: Recognizer) -> None:
    wave_n = tones("BADE", np.random.default_rng(0))
    stream = recognizer.stream(16000)

    (first,) = finals(stream.feed(wave_n) + stream.flush())
    (second,) = finals(stream.feed(wave_n) + stream.finish())

    assert first.text == second.text != ""
    assert second.start_s == pytest.approx(len(wave_n) / 16000, abs=1e-3)
    assert second.log_prob == first.log_prob


@pytest.mark.parametrize("rate_hz", [16000, 24000])
def test_times_stay_those_of_the_stream_after_many_flushes(recognizer: Recognizer, rate_hz: int) -> None:
    stream = recognizer.stream(rate_hz)
    for _ in range(500):
        stream.feed(np.zeros(32, np.float32))  # 21 and a third samples of 16 kHz; the random network hears a letter
        (result,) = stream.flush()
        assert result.words

    (last,) = stream.finish()

    assert last.end_s == round(500 * 32 / rate_hz, 3)


def test_a_stream_of_nothing_has_an_empty_result(recognizer: Recognizer) -> None:
    assert [result.text for result in recognizer.stream(16000).finish()] == [""]


def test_noise_gives_no_text_where_nobody_speaks(folder: Path) -> None:
    wave_n = sine(6.0, amplitude=0.1)
    babbling = Recognizer.load(folder, "cpu", no_speech_threshold=1.0)
    careful = Recognizer.load(folder, "cpu", no_speech_threshold=0.3)

    assert any(result.text for result in run(babbling, [wave_n]))
    assert not any(result.text for result in run(careful, pieces([1600] * 60, wave_n)))


def test_a_network_that_never_stops_writing_is_cut_at_twice_the_length(recognizer: Recognizer) -> None:
    zeros_n = np.zeros(8 * 16000, np.float32)  # the random network hears one endless letter

    results = finals(run(recognizer, pieces([1600] * 80, zeros_n), rules=Rules(longest_s=1.0)))

    assert [result.end_s for result in results] == [2.0, 4.0, 6.0, 8.0, 8.0]


def test_what_cannot_be_fed_is_refused_and_the_stream_goes_on(recognizer: Recognizer) -> None:
    stream = recognizer.stream(16000)
    for wrong in (np.zeros((2, 2, 2), np.float32), np.array([np.nan], np.float32), np.zeros(5, np.complex64)):
        with pytest.raises(DataError):
            stream.feed(wrong)

    assert finals(stream.feed(tones("BADE", np.random.default_rng(0))) + stream.finish())[0].text
    with pytest.raises(ValueError, match="finished"):
        stream.feed(np.zeros(10, np.float32))
    with pytest.raises(DataError, match="10 Hz"):
        recognizer.stream(10)


@pytest.mark.parametrize(
    ("settings_", "why"),
    [
        ((), "model.bidirectional: true needs whole recordings"),
        (("model.bidirectional=false",), "features.normalization: utterance needs whole recordings"),
    ],
)
def test_a_model_that_does_not_stream_is_named_with_a_config_that_does(
    tmp_path: Path, settings_: tuple[str, ...], why: str
) -> None:
    save_random_model(tmp_path / "m", *settings_)
    loaded = Recognizer.load(tmp_path / "m", "cpu")

    with pytest.raises(ConfigError, match=f"does not stream: {why}; the config an4/streaming is of one that does"):
        loaded.stream(16000)
    assert why_not(loaded.model) == why
    assert not open_pool(loaded).partials


# --- beam search ---


@pytest.fixture(scope="module", params=["numpy", "numba"])
def searching(request: pytest.FixtureRequest, recognizer: Recognizer) -> Recognizer:
    config = BeamConfig(beam_width=8, hotwords={"bad": 3.0}, confidence=True)
    decoder = beam_decoder(recognizer.model.tokenizer, config, backend=request.param)
    return Recognizer(recognizer.model, decoder, no_speech_threshold=1.0)


def test_beam_search_streams_with_the_scores_of_the_whole(searching: Recognizer) -> None:
    wave_n = tones("BADE", np.random.default_rng(0))
    expected = searching.transcribe(wave_n, 16000)

    (result,) = finals(run(searching, pieces([700] * 10, wave_n)))

    assert (result.text, result.log_prob) == (expected.text, pytest.approx(expected.log_prob))
    assert result.text
    assert [word.confidence for word in result.words] == [word.confidence for word in expected.words]


def test_beam_search_says_no_word_of_what_is_heard_again(searching: Recognizer) -> None:
    rules = Rules(pause_s=0.5, longest_s=2.0)
    results = [r for seed in range(4) for r in finals(run(searching, [spoken(9.0, seed)], rules=rules))]

    words = [(word, result) for result in results for word in result.words]
    assert len(words) > 20
    assert all(result.start_s <= word.start_s < word.end_s <= result.end_s for word, result in words)


@pytest.mark.parametrize("num_samples", [63000, 63900, 64000, 64100])
def test_a_cut_in_the_last_step_is_not_behind_the_audio(recognizer: Recognizer, num_samples: int) -> None:
    zeros_n = np.zeros(num_samples, np.float32)  # the random network hears one endless letter
    results = finals(run(recognizer, [zeros_n], rules=Rules(longest_s=2.0)))
    assert all(a.end_s == b.start_s for a, b in pairwise(results))
    assert results[-1].end_s == round(num_samples / 16000, 3)


def test_the_stable_part_of_a_partial_result_stays(searching: Recognizer) -> None:
    results = run(searching, pieces([1600] * 120, spoken(12.0)))

    assert any(result.stable > 0 for result in results if not result.final)
    before = ""
    for result in results:
        assert result.text.startswith(before)
        before = "" if result.final else result.text[: result.stable]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_context_moves_the_language_model_and_is_no_part_of_the_answer(backend: str) -> None:
    from asr.data.tokenizer import CharTokenizer
    from asr.decode.decoder import BeamDecoder
    from asr.lm import ngram

    lm = ngram.train(["A B"] * 50 + ["C D"] * 50, 2)
    tokenizer = CharTokenizer((" ", "A", "B", "C", "D"))
    decoder = BeamDecoder(tokenizer, BeamConfig(alpha=1.0, beta=0.0), lm, backend)  # type: ignore[arg-type]
    doubtful_sv = np.log(np.array([[0.02, 0.01, 0.01, 0.48, 0.01, 0.47]], np.float32))  # B or D

    answers = []
    for context in ("A", "C"):
        stream = decoder.start(tokenizer.encode(context + " "))
        stream.feed(doubtful_sv)
        (best, _), finished = stream.partial(), stream.finish()[0]
        assert best.text == finished.text
        assert [(span.start, span.end) for span in finished.spans] == [(0, 1)]
        answers.append(finished.text)

    assert answers == ["B", "D"]


def test_hotwords_of_one_stream_are_those_of_its_transcription(folder: Path) -> None:
    recognizer = Recognizer.load(folder, "cpu", no_speech_threshold=1.0)
    wave_n = tones("BADE", np.random.default_rng(0))
    hotwords = {"dab": 30.0}
    assert recognizer.decoder.with_hotwords is not None
    expecting = recognizer.with_decoder(recognizer.decoder.with_hotwords(hotwords))
    expected = expecting.transcribe(wave_n, 16000)

    stream = recognizer.stream(16000, hotwords=hotwords)
    (result,) = finals(
        [result for piece_n in pieces([700] * 10, wave_n) for result in stream.feed(piece_n)] + stream.finish()
    )

    assert (result.text, result.log_prob) == (expected.text, expected.log_prob)
    assert [word.confidence for word in result.words] == [word.confidence for word in expected.words]
    assert result.text != recognizer.transcribe(wave_n, 16000).text
    with pytest.raises(ConfigError, match=r"hotword.*'é'"):
        recognizer.stream(16000, hotwords={"é": 1.0})
    with pytest.raises(ConfigError, match="hotwords need the beam search, and the decoder is greedy"):
        Recognizer(recognizer.model).stream(16000, hotwords=hotwords)


# --- pools ---


@pytest.mark.parametrize("threads", [1, 3])
def test_streams_of_a_pool_get_what_each_would_get_alone(
    recognizer: Recognizer, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.streaming.pool.num_threads", lambda: threads)
    monkeypatch.setattr("asr.streaming.pool._SHARE", 1)
    waves = [spoken(3.0 + 2.3 * seed, seed) for seed in range(4)]
    rng = np.random.default_rng(5)
    pool = open_pool(recognizer)
    assert isinstance(pool, StreamPool)
    streams = [pool.open(16000) for _ in waves]
    left = list(waves)
    got: list[list[Result]] = [[] for _ in waves]

    def take_results() -> None:
        for stream, results in pool.tick():
            got[streams.index(stream)] += results  # type: ignore[arg-type]

    while any(len(wave_n) for wave_n in left):
        for i, stream in enumerate(streams):
            if len(left[i]) and rng.random() < 0.6:
                size = int(rng.integers(1, 8000))
                stream.push(left[i][:size])
                left[i] = left[i][size:]
                if not len(left[i]):
                    stream.finish()
        take_results()

    assert all(stream.is_done for stream in streams)
    assert len(pool) == 0
    for own, wave_n in zip(got, waves, strict=True):
        assert finals(own) == finals(run(recognizer, [wave_n]))


@pytest.mark.parametrize("settings_", [ONE_WAY, ()], ids=["streams", "transcribes pieces"])
def test_streams_of_a_pool_may_have_decoders_of_their_own(tmp_path: Path, settings_: tuple[str, ...]) -> None:
    recognizer = Recognizer.load(save_random_model(tmp_path / "m", *settings_), "cpu", no_speech_threshold=1.0)
    wave_n = tones("BADE", np.random.default_rng(0))
    assert recognizer.decoder.with_hotwords is not None
    decoders = [recognizer.decoder, *(recognizer.decoder.with_hotwords({word: 30.0}) for word in ("dab", "b"))]

    pool = open_pool(recognizer)
    streams = [pool.open(16000, decoder=decoder) for decoder in (None, *decoders[1:], decoders[1])]
    for stream in streams:
        stream.push(wave_n)
        stream.finish()
    texts = {id(stream): result.text for stream, results in pool.tick() for result in results if result.final}

    expected = [recognizer.with_decoder(decoder).transcribe(wave_n, 16000).text for decoder in decoders]
    assert len(set(expected)) == 3
    assert [texts[id(stream)] for stream in streams] == [*expected, expected[1]]


def test_a_stream_that_is_closed_leaves_the_pool_and_its_results(recognizer: Recognizer) -> None:
    pool = open_pool(recognizer)
    stays, goes = pool.open(16000), pool.open(16000)
    wave_n = tones("BADE", np.random.default_rng(0))
    for stream in (stays, goes):
        stream.push(wave_n)
        stream.finish()

    goes.close()
    goes.close()

    assert {id(stream) for stream, _ in pool.tick()} == {id(stays)}
    assert not list(pool.tick())


# --- exported graphs ---


def test_an_exported_streaming_graph_streams(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from asr.model.onnx.export import export_model

    wave_n = tones("BADE", np.random.default_rng(0))
    expected = Recognizer.load(folder, "cpu", precision="fp32", no_speech_threshold=1.0).transcribe(wave_n, 16000).text
    for features in (True, False):
        export_model(folder, tmp_path / str(features), features=features, streaming=True)
        exported = Recognizer.load(tmp_path / str(features), no_speech_threshold=1.0)
        (result,) = finals(run(exported, pieces([700] * 10, wave_n)))
        assert result.text == expected != ""

    export_model(folder, tmp_path / "whole")
    assert why_not(Recognizer.load(tmp_path / "whole").model) == "it was exported without --streaming"
