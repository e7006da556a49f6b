"""torchaudio's bundles as models: the same contract as ours, the same answers as torchaudio's own, no traceback.

There is no download here: a stand-in has the architecture in small, and random weights where the download would be.
"""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from asr.data import manifest as manifests
from asr.data.text import normalize
from asr.data.tokenizer import BLANK_ID
from asr.doctor.expected import of_model
from asr.errors import CheckpointError, ConfigError
from asr.infer import all_log_probs, log_probs
from asr.info import describe
from asr.lm import ngram
from asr.model import bundles
from asr.model.bundle_facts import BUNDLE_FACTS
from asr.model.checkpoint import load_model, load_trainable
from asr.model.folder import find_model
from asr.model.prepared import prepared
from asr.model.steps import unpadded_steps
from asr.model.waves import WaveConfig, WaveExtractor
from asr.transcribe import Recognizer
from asr.tuning.emissions import emissions
from tests.builders import build_corpus, noise, sine, tones, write_wav
from tests.conftest import torchaudio_or_skip
from tests.models import save_random_model
from tests.pretend_cuda import pretended_cuda
from tests.test_cli import command  # noqa: F401  # the fixture

torchaudio = torchaudio_or_skip()
wav2vec2_model = torchaudio.models.wav2vec2_model
Wav2Vec2ASRBundle = torchaudio.pipelines.Wav2Vec2ASRBundle

LABELS = ("|", "A", "B", "C", "D")


def stand_in(**changes) -> Wav2Vec2ASRBundle:
    """A bundle in small: all of BASE's parts, the convolutions' kernels and strides its own."""
    convs = [(8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2)]
    params = dict(
        torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H._params,
        extractor_conv_layer_config=convs,
        encoder_embed_dim=16,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_ff_interm_features=32,
        aux_num_out=len(LABELS) + 1,
    )
    bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    return replace(bundle, _path="stand_in.pth", _params=params | changes, _labels=LABELS)


def save_weights(bundle: Wav2Vec2ASRBundle, path: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights as the host has them: with fairseq's three unused tokens behind the blank."""
    torch.manual_seed(seed)
    weights = wav2vec2_model(**bundle._params).state_dict()
    weights = {key: 3 * value if "layer_norm" not in key else value for key, value in weights.items()}
    weights["aux.bias"][BLANK_ID] -= 1  # something is said
    padded = dict(weights)
    for key in ("aux.weight", "aux.bias"):
        extra = torch.full((3, *weights[key].shape[1:]), 99.0)
        padded[key] = torch.cat([weights[key][:1], extra, weights[key][1:]])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(padded, path)
    return weights


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A person's cache, with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tiny(home, monkeypatch) -> str:
    """The MODEL of a stand-in whose weights are in the cache of torch.hub."""
    monkeypatch.setattr(torchaudio.pipelines, "TINY", stand_in(), raising=False)
    save_weights(stand_in(), home / "torch" / "hub" / "checkpoints" / "stand_in.pth")
    return "torchaudio:TINY"


@pytest.fixture
def tiny_large(home, monkeypatch) -> str:
    """The same of the LARGE networks' kind: input normalised, a layer norm after each convolution."""
    bundle = stand_in(extractor_mode="layer_norm", extractor_conv_bias=True, encoder_layer_norm_first=True)
    bundle = replace(bundle, _path="large.pth", _normalize_waveform=True)
    monkeypatch.setattr(torchaudio.pipelines, "TINY_LARGE", bundle, raising=False)
    save_weights(bundle, home / "torch" / "hub" / "checkpoints" / "large.pth")
    return "torchaudio:TINY_LARGE"


def waves(*lengths: int) -> list[np.ndarray]:
    return [noise(n / 16000, seed=i) + sine(n / 16000, 300 + 100 * i) for i, n in enumerate(lengths)]


def features_of(model, *lengths: int) -> list[np.ndarray]:
    return [model.extractor(wave_n) for wave_n in waves(*lengths)]


# What there is


def test_every_bundle_that_writes_text_is_known_with_its_facts():
    assert bundles.names() == sorted(BUNDLE_FACTS)
    assert len(bundles.names()) == 16
    for name in bundles.names():
        bundle = getattr(torchaudio.pipelines, name)
        facts = BUNDLE_FACTS[name]
        # The documentation that torchaudio has beside each.
        assert facts.licence in bundle.__doc__.replace("MIT License", "MIT")
        told = {0.167: "10 minutes"}.get(facts.hours, f"{facts.hours:g} hours")
        assert told in bundle.__doc__ or (facts.hours == 960 and "same audio" in bundle.__doc__)
        assert facts.pretrained_on.partition(",")[0] in bundle.__doc__


@pytest.mark.parametrize("name", bundles.names())
def test_labels_become_tokens_in_the_order_of_the_networks_outputs(name):
    bundle = getattr(torchaudio.pipelines, name)
    known = bundles.describe(bundles.PREFIX + name)
    labels = bundle.get_labels()
    assert known.tokenizer.vocabulary_size == len(labels) == bundle._params["aux_num_out"]
    assert labels[BLANK_ID] == "-" and "-" not in labels[1:]
    assert [known.tokenizer.decode([i]) for i in range(1, len(labels))] == [
        " " if label == "|" else label for label in labels[1:]
    ]
    assert known.audio.sample_rate_hz == 16000 and bundles.describe(bundles.PREFIX + name).stride == 320


@pytest.mark.parametrize("name", bundles.names())
def test_a_reference_under_the_models_profile_has_only_its_letters(name):
    known = bundles.describe(bundles.PREFIX + name)
    letters = "".join(s for s in known.tokenizer.symbols)
    assert normalize(letters, known.text.normalization) == letters.strip()
    assert known.tokenizer.unknown(normalize("Hello, WORLD — a test!", known.text.normalization)) == []


@pytest.mark.parametrize("name", ["WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE", "VOXPOPULI_ASR_BASE_10K_FR"])
def test_the_address_is_the_one_that_torchaudio_asks(name, monkeypatch):
    asked = []

    def note(url, **kwargs):
        asked.append(url)
        raise EOFError

    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils.load_state_dict_from_url", note)
    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils._get_model", lambda *args: None)
    with pytest.raises(EOFError):
        getattr(torchaudio.pipelines, name).get_model()
    assert asked == [bundles.describe(bundles.PREFIX + name).url]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WAV2VEC2_ASR_BASE_960", "no such bundle; did you mean 'WAV2VEC2_ASR_BASE_960H'?"),
        ("wav2vec2_asr_base_960h", "no such bundle; did you mean 'WAV2VEC2_ASR_BASE_960H'?"),
        ("WAV2VEC2_BASE", "writes no text: it is not fine-tuned"),
        ("TACOTRON2_WAVERNN_CHAR_LJSPEECH", "writes no text"),
        ("MMS_FA", "is for alignment: it has no space"),
        ("", "no such bundle"),
        ("__name__", "no such bundle"),
        ("Wav2Vec2Bundle", "no such bundle"),
        ("../../etc/passwd", "no such bundle"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_and_all(name, said):
    for call in (find_model, load_model, of_model, lambda x: describe(str(x)), Recognizer.load):
        with pytest.raises(ConfigError) as error:
            call(f"torchaudio:{name}")
        assert str(error.value).startswith(f"torchaudio:{name}: {said}")
        assert all(known in str(error.value) for known in bundles.names())


def test_a_name_without_its_prefix_says_so():
    with pytest.raises(CheckpointError, match=r"did you mean torchaudio:HUBERT_ASR_LARGE\?$"):
        load_model("HUBERT_ASR_LARGE")


def test_a_model_of_our_own_loads_no_torchaudio(tmp_path):
    folder = save_random_model(tmp_path / "m")
    script = (
        f"import sys, asr.model.bundles\nfrom asr.model.checkpoint import load_model\nload_model({str(folder)!r})\n"
    )
    script += "sys.exit('torchaudio.pipelines' in sys.modules and 'loaded')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "raise OSError('Could not load this library: x.so') from OSError('x.so: undefined symbol: y')",
            r"torchaudio \S+ does not load with torch \S+ \(x\.so: undefined symbol: y\); "
            r"install a pair that does: pip install .*torch==\S+ torchaudio==\S+",
        ),
        (
            "raise RuntimeError('compiled with different CUDA versions')",
            r"does not load with torch \S+ \(compiled with different CUDA versions\)",
        ),
        (
            "raise ModuleNotFoundError('No module', name='torchaudio')",
            r"needs torchaudio, which is not installed: pip install 'asr-ctc\[bundles\]'$",
        ),
    ],
)
def test_a_torchaudio_that_does_not_load_is_one_line_with_the_remedy(
    tmp_path,
    monkeypatch,
    command,  # noqa: F811  # the fixture
    statement,
    expected,
):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(statement + "\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    wave = write_wav(tmp_path / "a.wav")

    for words in (["info", "torchaudio:HUBERT_ASR_LARGE"], ["transcribe", "torchaudio:HUBERT_ASR_LARGE", wave]):
        done = command(*words)
        assert (done.code, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1
        assert re.search(expected, done.err.strip())

    # Nothing else may need it.
    done = command("transcribe", save_random_model(tmp_path / "m"), wave)
    assert done.code == 0, done.err


# The network


@pytest.mark.parametrize("which", ["tiny", "tiny_large"])
def test_log_probabilities_are_those_of_torchaudios_own_model(which, request):
    name = request.getfixturevalue(which)
    model = load_model(name)
    own = getattr(torchaudio.pipelines, name.removeprefix("torchaudio:")).get_model()
    for wave_n, features_nf in zip(waves(400, 7777, 16000), features_of(model, 400, 7777, 16000), strict=True):
        with torch.inference_mode():
            expected_sv = own(torch.from_numpy(wave_n)[None])[0][0].log_softmax(-1).numpy()
        one_sv = log_probs(model, [features_nf])[0]
        assert one_sv.dtype == np.float32 and one_sv.shape == expected_sv.shape
        # The same operations on the same numbers: layer_norm alone may take another order.
        np.testing.assert_allclose(one_sv, expected_sv, rtol=0, atol=1e-5)


@settings(max_examples=15)
@given(data=st.data())
def test_an_utterance_gets_in_any_batch_what_it_gets_alone(data):
    lengths = data.draw(st.lists(st.sampled_from([0, 399, 400, 719, 720, 5000, 5001, 9000]), min_size=1, max_size=5))
    normalize_, mode = data.draw(st.sampled_from([(False, "group_norm"), (True, "layer_norm")]))
    bundle = stand_in(extractor_mode=mode)
    torch.manual_seed(1)
    model = wav2vec2_model(**bundle._params).eval()
    network = bundles.BundleNetwork(bundles.BundleConfig(bundle="x"), model, bundle.get_labels()).eval()
    extractor = WaveExtractor(WaveConfig(normalize=normalize_), 16_000)
    features = [torch.from_numpy(extractor(wave_n)) for wave_n in waves(*lengths)]
    padded_bn1 = pad_sequence(features, batch_first=True, padding_value=float("nan"))
    with torch.inference_mode():
        together_bsv, num_steps_b = network(padded_bn1, torch.tensor(lengths))
        for i, features_n1 in enumerate(features):
            alone_bsv, steps_b = network(features_n1[None], torch.tensor([len(features_n1)]))
            assert int(num_steps_b[i]) == int(steps_b[0])
            np.testing.assert_allclose(together_bsv[i, : num_steps_b[i]], alone_bsv[0, : steps_b[0]], rtol=0, atol=1e-5)


def test_torchaudios_own_batch_would_not_hold_that_promise(tiny):
    """Why the wrapper keeps lengths apart: when this fails, it may batch."""
    own = torchaudio.pipelines.TINY.get_model()
    long_n, short_n = waves(16000, 6000)
    padded_bn = torch.zeros(2, 16000)
    padded_bn[0], padded_bn[1, :6000] = torch.from_numpy(long_n), torch.from_numpy(short_n)
    with torch.inference_mode():
        together_bsv, num_b = own(padded_bn, torch.tensor([16000, 6000]))
        alone_bsv, _ = own(torch.from_numpy(short_n)[None])
    assert (together_bsv[1, : int(num_b[1])] - alone_bsv[0]).abs().max() > 1e-2


@given(num_samples=st.integers(0, 3000))
@settings(max_examples=100)
def test_steps_are_counted_as_the_convolutions_give_them(num_samples):
    layers = [(k, s) for _, k, s in stand_in()._params["extractor_conv_layer_config"]]
    expected = num_samples
    for kernel, stride in layers:
        expected = len(range(0, expected - kernel + 1, stride))
    assert unpadded_steps(layers, torch.tensor([num_samples])).tolist() == [expected]


def test_a_step_is_20_ms_and_a_model_is_what_its_users_need(tiny):
    model = load_model(tiny)
    assert model.step_s == pytest.approx(0.02) and model.frame_s == 1 / 16000
    assert model.network.stride == 320 and model.network.vocabulary_size == 6 == model.tokenizer.vocabulary_size
    frames_b = torch.tensor([0, 100, 400, 16000, 160000])
    assert model.network.num_steps(frames_b).tolist() == [0, 0, 1, 49, 499]
    assert model.training["longest_s"] == 20.0 and not model.on_gpu
    features = features_of(model, 4000, 100, 9000, 0, 4000)
    every_sv = all_log_probs(model, features)
    assert [len(one_sv) for one_sv in every_sv] == [12, 0, 27, 0, 12]
    for features_nf, one_sv in zip(features, every_sv, strict=True):
        np.testing.assert_allclose(one_sv, log_probs(model, [features_nf])[0], rtol=0, atol=1e-5)


def test_a_bundle_on_a_gpu_gives_what_it_gives_on_a_cpu(tiny):
    model = load_model(tiny)
    features = features_of(model, 4000, 100, 9000, 0, 4000)
    expected = all_log_probs(model, features)
    with pretended_cuda() as cuda:
        model.network.to("cuda:0")
        with cuda.counting() as waits:
            found = all_log_probs(model, features)
        narrow = all_log_probs(prepared(model, "bf16"), features)
    for one_sv, narrow_sv, expected_sv in zip(found, narrow, expected, strict=True):
        np.testing.assert_allclose(one_sv, expected_sv, rtol=0, atol=2e-5)
        np.testing.assert_allclose(narrow_sv, expected_sv, rtol=0, atol=0.1)  # 8 bits
    assert np.abs(narrow[0] - expected[0]).max() > 1e-4 and waits.total() == 1


@pytest.mark.slow
def test_the_real_base_network_gives_what_torchaudios_own_gives(home):
    """BASE's own size, with random weights put where the download would be."""
    bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    name = "torchaudio:WAV2VEC2_ASR_BASE_960H"
    save_weights(bundle, bundles.describe(name).weights)
    model = load_model(name)
    assert model.num_parameters == sum(count for _, _, count in bundles.parts(name)) == 94_393_245
    (wave_n,), (features_nf,) = waves(12345), features_of(model, 12345)
    with torch.inference_mode():
        expected_sv = bundle.get_model()(torch.from_numpy(wave_n)[None])[0][0].log_softmax(-1).numpy()
    np.testing.assert_array_equal(log_probs(model, [features_nf])[0], expected_sv)


def test_loading_leaves_torchs_generator_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(tiny)
    assert torch.equal(torch.rand(3), expected)


# The weights' file


@pytest.fixture
def host(monkeypatch):
    """A host of bundles; what it answers is set by the test."""

    class Handler(http.server.BaseHTTPRequestHandler):
        content, code, claims = b"", 200, None

        def do_GET(self):
            self.send_response(self.code)
            self.send_header("Content-Length", str(self.claims or len(self.content)))
            self.end_headers()
            self.wfile.write(self.content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(bundles, "_HOST", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr("asr.download.fetch.Patience.pause_s", 0.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield Handler
    server.shutdown()


def test_weights_are_downloaded_once_into_the_cache_of_torch_hub(tiny, home, host, capfd):
    path = bundles.describe(tiny).weights
    assert path == home / "torch" / "hub" / "checkpoints" / "stand_in.pth"
    host.content = path.read_bytes()
    path.unlink()
    first = load_model(tiny).network.state_dict()
    assert path.read_bytes() == host.content
    host.code = 404
    again = load_model(tiny).network.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert capfd.readouterr().out == ""  # stdout is for results


def test_a_host_that_cannot_be_reached_says_where_the_file_may_be_put(tiny, monkeypatch, command):  # noqa: F811
    monkeypatch.setattr(bundles, "_HOST", "http://127.0.0.1:9/models/")
    path = bundles.describe(tiny).weights
    path.unlink()
    error = command("transcribe", tiny, "a.wav").error
    assert error.startswith("asr: torchaudio:TINY: its weights are not here: http://127.0.0.1:9/models/stand_in.pth: ")
    assert error.endswith(f"; check the network; or fetch that file elsewhere and put it at {path}")


def test_a_refusal_and_a_download_that_was_cut_are_one_line_and_leave_no_file(tiny, host):
    path = bundles.describe(tiny).weights
    whole = path.read_bytes()
    path.unlink()
    host.code = 403
    with pytest.raises(CheckpointError, match=r"TINY: its weights are not here: .*HTTP 403"):
        load_model(tiny)
    host.code, host.content, host.claims = 200, whole[:1000], len(whole)
    with pytest.raises(CheckpointError, match=r"the connection ended after 1,000 of .* bytes; .*are kept: run again"):
        load_model(tiny)
    assert not path.exists()


def test_a_damaged_or_foreign_file_is_named_with_what_to_do(tiny, tmp_path):
    path = bundles.describe(tiny).weights
    whole = path.read_bytes()

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "witness",))

    def saved(value) -> bytes:
        torch.save(value, tmp_path / "x.pth")
        return (tmp_path / "x.pth").read_bytes()

    foreign = torch.load(path, weights_only=True)
    foreign.pop("encoder.transformer.layers.0.layer_norm.weight")
    for content in (
        whole[: len(whole) // 2],
        b"",
        b"<html>",
        saved({"a": torch.zeros(3)}),
        saved([1, 2]),
        saved(foreign),
        saved({"aux.weight": Attack()}),
        saved({"aux.weight": 3, "aux.bias": 4}),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_model(tiny)
        text = str(error.value)
        assert text.startswith(f"{path}: not the weights of torchaudio:TINY, or not all of them (")
        assert text.endswith(f"delete it and run again, or put {bundles.describe(tiny).url} there")
    assert not (tmp_path / "witness").exists()


# In use


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), 4, name="dev", alphabet="ABCD ", longest=6)


def test_evaluate_transcribe_and_tune_take_a_bundle(tiny, home, corpus, tmp_path, command):  # noqa: F811
    result = command("evaluate", tiny, corpus, "--json", "--device", "cpu", "--hypotheses", tmp_path / "h.jsonl")
    assert result.code == 0
    facts = json.loads(result.out)
    assert facts["model"] == tiny and facts["utterances"] == 4 and facts["normalization"] == "librispeech"
    said = [json.loads(line)["hypothesis"] for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert any(said) and set("".join(said)) <= set("ABCD ")

    audio_path = corpus.parent / "wav" / "dev-0000.wav"
    result = command("transcribe", tiny, audio_path, "--device", "cpu")
    assert result.code == 0 and result.out.strip() == said[0]

    ngram.write(ngram.train(["AB CA", "DAB", "AB"], 2), tmp_path / "lm.arpa")
    result = command("tune", tiny, corpus, "--lm", tmp_path / "lm.arpa", "--device", "cpu")
    tuned = home / "asr" / "torchaudio" / "TINY" / "decoder.json"
    assert result.code == 0 and f"saved in {tuned}" in result.err
    result = command("evaluate", tiny, corpus, "--json", "--device", "cpu")
    assert json.loads(result.out)["decoder"].startswith("beam") and str(tuned) in result.err
    assert describe(tiny)[1]["decoder"].startswith("beam")
    assert command("evaluate", tiny, corpus, "--markdown", "--device", "cpu").code == 0


def test_audio_too_short_for_a_step_is_no_words(tiny, tmp_path, command):  # noqa: F811
    path = write_wav(tmp_path / "a.wav", noise(0.02))
    result = command("transcribe", tiny, path, "--json", "--device", "cpu")
    assert result.code == 0 and json.loads(result.out)["transcripts"][0]["text"] == ""


def test_audio_of_another_rate_is_taken_or_said(tiny, corpus, tmp_path, command):  # noqa: F811
    assert (
        Recognizer.load(tiny, "cpu").transcribe(write_wav(tmp_path / "a.wav", sine(rate_hz=8000), 8000)).duration_s == 1
    )
    rows = build_corpus(tmp_path / "low", 2, alphabet="ABCD ", rate_hz=8000)
    assert "8000 Hz" in command("evaluate", tiny, rows, "--device", "cpu").err
    assert command("evaluate", tiny, rows, "--resample", "--device", "cpu").code == 0


def test_a_long_recording_is_cut_at_what_the_model_was_trained_on(tiny, tmp_path, command, monkeypatch):  # noqa: F811
    path = write_wav(tmp_path / "a.wav", tones("ABCD " * 90, np.random.default_rng(0)))  # 54 s
    given = []
    forward = bundles.BundleNetwork.forward

    def noted(self, features_btf, num_frames_b):
        given.extend(num_frames_b.tolist())
        return forward(self, features_btf, num_frames_b)

    monkeypatch.setattr(bundles.BundleNetwork, "forward", noted)
    assert command("transcribe", tiny, path, "--device", "cpu").code == 0
    assert len(given) >= 3 and max(given) <= 20 * 16000


def test_log_probabilities_are_found_again_by_name_and_weights(tiny, tiny_large, corpus, tmp_path, monkeypatch):
    rows = manifests.read(corpus)
    assert not emissions(load_model(tiny), rows, tmp_path / "c").found
    assert emissions(load_model(tiny), rows, tmp_path / "c").found
    assert not emissions(load_model(tiny_large), rows, tmp_path / "c").found
    save_weights(stand_in(), bundles.describe(tiny).weights, seed=1)
    assert not emissions(load_model(tiny), rows, tmp_path / "c").found


def test_a_bundle_is_drawn_with_a_spectrogram(tiny, tmp_path, command):  # noqa: F811
    pytest.importorskip("matplotlib")
    path = write_wav(tmp_path / "a.wav")
    assert command("transcribe", tiny, path, "--picture", tmp_path / "p.png", "--device", "cpu").code == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_a_bundle_starts_no_training(tiny, tmp_path):
    for path in (tiny, tmp_path / tiny):
        with pytest.raises(ConfigError, match="torchaudio:TINY: a bundle is no model that asr made"):
            load_trainable(path)


def test_the_doctor_knows_what_a_bundle_expects(tiny):
    bundles.describe(tiny).weights.unlink()  # not needed
    expected = of_model(Path(tiny))
    assert expected.num_steps(np.array([399, 400, 16000])).tolist() == [0, 1, 49]
    assert expected.audio.sample_rate_hz == 16000 and expected.normalization == "librispeech"


# asr info


@pytest.mark.parametrize("name", bundles.names())
def test_a_bundle_is_described_without_its_weights(name, home):
    kind, facts = describe(f"torchaudio:{name}")
    assert kind == "bundle" and facts["bytes"] is None and facts["path"].startswith("not here")
    assert facts["parameters"] > 9e7 and facts["step"] == "20 ms"
    assert sum(int(row.split()[-2].replace(",", "")) for row in facts["network"]) == facts["parameters"]
    assert facts["training longest_s"] in (20.0, 24.0) and "at most 2" in facts["long audio"]
    assert not home.exists()
    json.dumps(facts, allow_nan=False)


def test_weights_that_are_here_are_counted(tiny, command):  # noqa: F811
    facts = json.loads(command("info", tiny, "--json").out)
    path = bundles.describe(tiny).weights
    assert (facts["path"], facts["bytes"]) == (str(path), path.stat().st_size)
    assert facts["parameters"] == load_model(tiny).num_parameters
    assert command("info", tiny).code == 0
