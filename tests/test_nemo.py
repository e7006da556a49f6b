"""``nemo:FILE`` as a MODEL: the answers of transformers for the same weights, in every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.data.pieces import PieceTokenizer
from asr.data.tokenizer import CharTokenizer
from asr.doctor.expected import of_model
from asr.errors import CheckpointError, ConfigError
from asr.info import describe
from asr.lm import ngram
from asr.model.checkpoint import load_model, load_trainable
from asr.model.contract import AcousticModel
from asr.model.folder import find_model
from asr.model.nemo import published
from asr.model.nemo.names import settings_folder
from tests.builders import build_corpus
from tests.make_parakeet import ENCODER, FOLDER, PIECES, long_recording, recordings
from tests.nemo_files import (
    STRIDING,
    TOKENIZER,
    config,
    nemo_name,
    saved,
    striding_weights,
    tokenizer,
    weights,
    write_nemo,
)
from tests.reference import conformer as reference
from tests.test_cli import command  # noqa: F401  # the fixture

#: sums of float32 in another order
EXACT = {"atol": 1e-5, "rtol": 0}
#: with other features, whose quiet bins (the logarithm of next to nothing) differ by up to 1e-4
CLOSE = {"atol": 1e-4, "rtol": 0}
BLANK = len(PIECES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A person's cache, with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    return write_nemo(tmp_path / "small.nemo")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), 4, name="dev", alphabet="aehnot", longest=3)


def answers(model: AcousticModel, *waves: np.ndarray) -> list[np.ndarray]:
    """What a model answers to waves together. Shapes: (n,) each -> (s, v) each."""
    return model.network.each([model.extractor(wave_n) for wave_n in waves])


def check(path: Path, columns: list[int], **tolerance: float) -> None:
    """Compare a file's log-probabilities of the recordings with those of transformers, over these columns."""
    logits, waves = np.load(FOLDER / "logits.npz"), recordings() | {"long": long_recording()}
    together = answers(published.load(f"nemo:{path}"), *waves.values())
    for what, ours_sv in zip(waves, together, strict=True):
        theirs_sv = torch.from_numpy(logits[what][:, columns]).log_softmax(-1)
        np.testing.assert_allclose(ours_sv, theirs_sv.numpy(), **(tolerance or CLOSE))


def hybrid() -> dict[str, torch.Tensor]:
    """Weights of a model whose CTC head stands beside a transducer."""
    tensors = {name.replace("decoder.decoder", "ctc_decoder.decoder"): one for name, one in weights().items()}
    return tensors | {"decoder.prediction.embed.weight": torch.zeros(3, 3), "joint.enc.bias": torch.zeros(3)}


_HYBRID = "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel"
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gzip": {"mode": "w:gz"},
    "as torch saved before 1.6": {
        "files": {"model_weights.ckpt": saved(weights(), _use_new_zipfile_serialization=False)},
    },
    "a hybrid with a transducer": {"data": config(target=_HYBRID), "tensors": hybrid()},
    "a whole config of training": {"data": {"name": "FastConformer-CTC-BPE", "model": config(), "trainer": {}}},
    "positions and filters inside": {
        "tensors": weights()
        | {"encoder.pos_enc.pe": torch.zeros(1, 9, 16), "preprocessor.featurizer.window": torch.hann_window(400, False)}
    },
    "no scale of what the subsampling gives": {
        "data": config(encoder__xscaling=False),
        "tensors": {name: one * 4 if "pre_encode.out" in name else one for name, one in weights().items()},
    },
    "several contexts, the first without end": {"data": config(encoder__att_context_size=[[-1, -1], [70, 13]])},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_token_has_the_log_probability_that_transformers_gives_it(tmp_path, form):
    check(write_nemo(tmp_path / "a.nemo", **FORMS[form]), [BLANK, *range(1, BLANK)])


LETTERS = list(" abcdefghijk")
OLDER: dict[str, tuple[dict[str, Any], list[int]]] = {
    "pieces": ({}, [BLANK, *range(1, BLANK)]),
    "letters": ({"tokenizer": None, "decoder__vocabulary": LETTERS}, [BLANK, *range(BLANK)]),
    "no scale of what the subsampling gives": ({"encoder__xscaling": False}, [BLANK, *range(1, BLANK)]),
}


@pytest.mark.parametrize("kind", OLDER)
def test_a_conformer_from_before_fastconformer_is_what_the_papers_say(tmp_path, kind):
    changes, columns = OLDER[kind]
    tensors = striding_weights()
    named = {nemo_name(name): one for name, one in tensors.items()}
    path = write_nemo(tmp_path / "a.nemo", config(**STRIDING, **changes), named, {TOKENIZER: tokenizer(model_type=1)})
    model = published.load(f"nemo:{path}")
    together = answers(model, *recordings().values())
    tensors["output.weight"] = tensors["ctc_head.weight"][columns, :, 0]
    tensors["output.bias"] = tensors["ctc_head.bias"][columns]
    for wave_n, ours_sv in zip(recordings().values(), together, strict=True):
        features_tf = torch.from_numpy(model.extractor(wave_n))
        weights = {name: one.double() for name, one in tensors.items()}
        scale = changes.get("encoder__xscaling", True)
        theirs_sv = reference.log_probs(weights, features_tf.double(), ENCODER["num_attention_heads"], scale=scale)
        np.testing.assert_allclose(ours_sv, theirs_sv.numpy(), **EXACT)
    assert published.parts(f"nemo:{path}")[0][1] == "16 channels, stride 4, full convolutions"


def test_half_precision_in_the_file_is_said(tmp_path):
    path = write_nemo(tmp_path / "a.nemo", tensors={name: tensor.half() for name, tensor in weights().items()})
    check(path, [BLANK, *range(1, BLANK)], atol=0.02, rtol=0)
    assert published.describe(f"nemo:{path}").training["weights"] == "float16 in the file, float32 in use"


def test_a_network_without_biases_is_one_whose_biases_are_zero(tmp_path):
    kept = ("norm", "pre_encode", "pos_bias", "decoder")
    without = {name: one for name, one in weights().items() if "bias" not in name or any(part in name for part in kept)}
    zero = {name: one if name in without else torch.zeros_like(one) for name, one in weights().items()}
    paths = (
        write_nemo(tmp_path / "a.nemo", tensors=without, data=config(encoder__use_bias=False)),
        write_nemo(tmp_path / "b.nemo", tensors=zero),
    )
    one_sv, other_sv = (answers(published.load(f"nemo:{path}"), long_recording())[0] for path in paths)
    np.testing.assert_allclose(one_sv, other_sv, **EXACT)


def test_the_norm_of_the_convolutions_may_be_over_the_units(tmp_path):
    tensors = {name: one for name, one in weights().items() if "batch_norm.running" not in name}
    path = write_nemo(tmp_path / "a.nemo", tensors=tensors, data=config(encoder__conv_norm_type="layer_norm"))
    model = published.load(f"nemo:{path}")
    assert isinstance(model.network.get_submodule("encoder.layers.1.conv.norm"), torch.nn.LayerNorm)  # type: ignore[attr-defined]


def test_letters_in_the_config_are_the_tokens_of_a_model_without_tokenizer(tmp_path):
    data = config(tokenizer=None, decoder__vocabulary=LETTERS, target="nemo.collections.asr.models.EncDecCTCModel")
    path = write_nemo(tmp_path / "a.nemo", data=data, files={TOKENIZER: None})
    check(path, [BLANK, *range(BLANK)])
    assert published.describe(f"nemo:{path}").tokenizer == CharTokenizer(tuple(LETTERS))


def test_pieces_that_write_nothing_are_left_out_wherever_they_are(tmp_path):
    pieces = ("<pad>", "<unk>", "▁t", "he", "▁", "e", "t", "a", "o", "<s>", "n", "h")
    model = tokenizer(pieces, marks={"<pad>": 3, "<unk>": 2, "<s>": 3})
    path = write_nemo(tmp_path / "a.nemo", files={TOKENIZER: model})
    written = [i for i, piece in enumerate(pieces) if not piece.startswith("<")]
    check(path, [BLANK, *written])
    known = published.describe(f"nemo:{path}")
    assert known.tokenizer == PieceTokenizer(tuple(pieces[i] for i in written))
    assert known.training["vocabulary"].endswith("outputs that write nothing, left out: 3")


def test_the_kind_of_the_pieces_is_found(tmp_path):
    known = published.describe(f"nemo:{write_nemo(tmp_path / 'a.nemo')}")
    assert known.tokenizer.kind == "bpe" and known.tokenizer.encode("that") == [1, 10, 6, 5]
    assert known.tokenizer.decode([1, 2, 9, 8]) == "the an"


def test_the_length_of_an_utterance_is_known_without_computing_it(file):
    known = published.describe(f"nemo:{file}")
    lengths = [0, 159, 160, 1280, 1439, 1440, 16_000]
    rows = answers(published.load(f"nemo:{file}"), *(np.ones(n, np.float32) for n in lengths))
    assert known.num_steps(torch.tensor(lengths)).tolist() == [len(row) for row in rows] == [0, 0, 1, 1, 1, 2, 13]
    assert known.stride == 1280


def test_what_is_loaded_is_a_network_of_our_own(file):
    model = load_model(f"nemo:{file}")
    assert model.step_s == 0.08 and model.num_parameters == sum(
        count for _, _, count in published.parts(f"nemo:{file}")
    )
    assert not model.network.training  # type: ignore[attr-defined]


# --- commands ---------------------------------------------------------------------------------------------------------


def test_evaluate_transcribe_and_tune_take_a_file(file, corpus, tmp_path, command):  # noqa: F811
    model = f"nemo:{file}"
    result = command("evaluate", model, corpus, "--json", "--device", "cpu", "--hypotheses", tmp_path / "h.jsonl")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["model"] == model and facts["utterances"] == 4 and facts["decoder"] == "greedy"
    said = [json.loads(line)["hypothesis"] for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert any(said)

    result = command("transcribe", model, corpus.parent / "wav" / "dev-0000.wav", "--device", "cpu")
    assert result.code == 0 and result.out.strip() == said[0]

    ngram.write(ngram.train(["the ta", "hot", "not"], 2), tmp_path / "lm.arpa")
    result = command("tune", model, corpus, "--lm", tmp_path / "lm.arpa", "--device", "cpu")
    tuned = settings_folder(model) / "decoder.json"
    assert result.code == 0 and f"saved in {tuned}" in result.err
    assert find_model(model) == tuned.parent
    assert describe(model)[1]["decoder"].startswith("beam")


def test_align_and_doctor_take_a_file(file, corpus, command):  # noqa: F811
    result = command("align", f"nemo:{file}", corpus, "--worst", "2", "--device", "cpu")
    assert result.code == 0, result.err
    result = command("doctor", corpus, "--model", f"nemo:{file}")
    assert result.code == 0, result.err


def test_the_doctor_knows_what_a_file_expects(file):
    expected = of_model(Path(f"nemo:{file}"))
    assert expected.num_steps(np.array([159, 160, 16_000])).tolist() == [0, 1, 13]
    assert expected.audio.sample_rate_hz == 16_000 and expected.normalization == "lower-nopunct"


def test_info_says_what_a_file_holds(tmp_path, command):  # noqa: F811
    path = write_nemo(tmp_path / "a.nemo", **FORMS["a hybrid with a transducer"])
    result = command("info", f"nemo:{path}", "--json")
    assert result.code == 0
    facts = json.loads(result.out)
    assert facts["features"] == "parakeet, 80 values every 10 ms, utterance normalization"
    assert facts["training source"].startswith("EncDecHybridRNNTCTCBPEModel of NVIDIA NeMo")
    assert facts["training left out"] == "the transducer beside the CTC head"
    assert facts["bytes"] == path.stat().st_size and facts["step"] == "80 ms"


def test_a_plain_path_of_such_a_file_is_told_how_to_write_it(file):
    with pytest.raises(CheckpointError, match=f"a NVIDIA NeMo model, which is used as nemo:{file}"):
        load_model(file)


def test_files_of_one_name_have_settings_of_their_own(tmp_path):
    folders = {settings_folder(f"nemo:{tmp_path}/{place}/a.nemo") for place in "bc"}
    assert len(folders) == 2 and all(folder.name.startswith("a.nemo--at-") for folder in folders)
    with pytest.raises(ConfigError, match="no file is named"):
        settings_folder("nemo:")


def test_training_starts_from_a_file_and_keeps_its_letters(file, corpus, tmp_path, command, caplog):  # noqa: F811
    cfg = {"features": {"kind": "parakeet"}, "model": {"encoder": "conformer"}, "text": {"tokenizer": "init"}}
    small = {"epochs": 1, "init": f"nemo:{file}"}
    (tmp_path / "c.yaml").write_text(json.dumps(cfg | {"train": small, "optim": {"lr": 1e-9}}))
    (corpus.parent / "train.jsonl").write_bytes(corpus.read_bytes())
    run = tmp_path / "run"
    result = command("train", tmp_path / "c.yaml", "--data", corpus.parent, "--out", run)
    assert result.code == 0, result.err
    assert f"started from nemo:{file}: 15,356 parameters, 12 tokens" in caplog.messages

    trained, start = load_model(run), published.load(f"nemo:{file}")
    assert trained.tokenizer == start.tokenizer
    # Of what it started with only the running statistics have moved.
    before, after = start.network.state_dict(), trained.network.state_dict()
    moved = {name for name, tensor in before.items() if not torch.allclose(tensor, after[name], atol=1e-6)}
    assert moved == {name for name in before if name.endswith(("running_mean", "running_var", "tracked"))}


def test_a_file_is_no_model_folder(file):
    with pytest.raises(ConfigError, match="a model of NeMo is no model that asr made"):
        load_trainable(f"nemo:{file}")
