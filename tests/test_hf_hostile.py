"""Folders of strangers as hub models: one line, exit code 2, no code run, no file outside read, no network asked."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.limits import SMALL_FILE
from tests import test_hf_others
from tests.builders import write_wav
from tests.make_hf_folders import FOLDER
from tests.test_cli import command, posix  # noqa: F401  # the fixture

Change = Callable[[Path], object]
#: what a terminal obeys or hides
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
SECRET = "a-line-of-a-file-outside"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    for name in ("socket.socket.connect", "socket.getaddrinfo"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A person's folder with a recording, a file outside of every model, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_wav(tmp_path / "a.wav", np.load(FOLDER / "wave.npy") * 0.5)
    (tmp_path / "secret.txt").write_text(SECRET)
    return tmp_path


def copy(place: Path, name: str) -> Path:
    return Path(shutil.copytree(FOLDER / name, place / name))


@pytest.fixture
def refused(place, command):  # noqa: F811
    """Checks that a model is refused in one line that has all of the words, before or after its weights are read."""

    def check(model: str, *words: str, weights: bool = False) -> None:
        if weights:
            line = command("transcribe", f"hf:{model}", place / "a.wav").error
        else:
            line = command("info", f"hf:{model}").error
        assert not CONTROLS.search(line) and SECRET not in line
        for word in words:
            assert word in line
        assert len(line) < 600
        assert not (place / "executed").exists()

    return check


def used(place: Path, command: Any, folder: Path) -> str:  # noqa: F811
    """The text of a folder that is odd, but can be used."""
    done = command("transcribe", f"hf:{folder}", place / "a.wav")
    assert done.code == 0, done.err
    return str(done.out)


def edit(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")

    return change


def put(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def drop(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


# Code in pickles


class Executed:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def pickled(path: Path, flag: Path) -> None:
    path.write_bytes(pickle.dumps({"lm_head.weight": Executed(flag)}))


def saved(path: Path, flag: Path) -> None:
    torch.save({"lm_head.weight": torch.ones(2, 2), "more": Executed(flag)}, path)


def saved_the_old_way(path: Path, flag: Path) -> None:
    torch.save({"lm_head.weight": Executed(flag)}, path, _use_new_zipfile_serialization=False)


def whole_module(path: Path, flag: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def in_a_tar(path: Path, flag: Path) -> None:
    import tarfile

    pickled(path, flag)
    inner = path.with_suffix(".pickle")
    path.rename(inner)
    with tarfile.open(path, "w") as tar:
        tar.add(inner, "pickle")
        tar.add(inner, "storages")


WAYS = [pickled, saved, saved_the_old_way, whole_module, in_a_tar]


@pytest.mark.parametrize("write", WAYS, ids=lambda write: write.__name__)
def test_a_pickle_runs_no_code(place, refused, write):
    folder = copy(place, "wavlm")
    write(folder / "pytorch_model.bin", place / "executed")
    refused(str(folder), "pytorch_model.bin", weights=True)


@pytest.mark.parametrize("write", WAYS, ids=lambda write: write.__name__)
def test_an_adapter_runs_no_code(place, refused, write):
    folder = copy(place, "mms")
    (folder / "adapter.deu.safetensors").unlink()
    write(folder / "adapter.deu.bin", place / "executed")
    refused(f"{folder}#deu", "adapter.deu.bin", weights=True)


def test_a_shard_of_pickles_runs_no_code(place, refused):
    folder = copy(place, "wavlm")
    (folder / "pytorch_model.bin").unlink()
    saved(folder / "pytorch_model-1.bin", place / "executed")
    put("pytorch_model.bin.index.json", '{"weight_map": {"lm_head.weight": "pytorch_model-1.bin"}}')(folder)
    refused(str(folder), "pytorch_model-1.bin", weights=True)


def test_the_pickles_here_would_leave_a_file(place):
    for write in (pickled, saved, saved_the_old_way):
        flag = place / f"{write.__name__}.executed"
        write(place / "x.bin", flag)
        try:
            torch.load(place / "x.bin", weights_only=False)
        except RuntimeError:  # a pickle without torch's magic number, after it was read
            pickle.loads((place / "x.bin").read_bytes())
        assert flag.exists()


def test_a_pickle_is_not_read_where_there_is_safetensors(place, command):  # noqa: F811
    folder = copy(place, "base")
    saved(folder / "pytorch_model.bin", place / "executed")
    used(place, command, folder)
    assert not (place / "executed").exists()


@pytest.mark.parametrize(
    "config", ["config.json", "preprocessor_config.json", "tokenizer_config.json", "processor_config.json"]
)
@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
def test_a_folder_that_asks_for_code_is_refused_by_name(place, refused, config, key):
    folder = copy(place, "base")
    put("code.py", f"open({str(place / 'executed')!r}, 'w')")(folder)
    if not (folder / config).exists():
        put(config, "{}")(folder)
    edit(config, **{key: {"AutoModelForCTC": "code.Model", "AutoConfig": "code.Config"}})(folder)
    refused(str(folder), config, key)


def test_yaml_that_names_python_objects_is_not_read(place, refused):
    folder = copy(place, "base")
    put("hyperparams.yaml", f"a: !!python/object/apply:builtins.open ['{place / 'executed'}', 'w']")(folder)
    refused(str(folder), "hyperparams.yaml")


def test_a_model_card_runs_no_code(place, command):  # noqa: F811
    folder = copy(place, "base")
    put("README.md", f"---\nlicense: !!python/object/apply:builtins.open ['{place / 'executed'}', 'w']\n---\n")(folder)
    used(place, command, folder)
    assert command("info", f"hf:{folder}").code == 0
    assert not (place / "executed").exists()


# Places outside the folder


@pytest.mark.parametrize(
    "shard",
    [
        "../base/model.safetensors",
        "/etc/model.safetensors",
        "..\\base\\model.safetensors",
        "C:\\model.safetensors",
        "sub/model.safetensors",
        "..",
        "",
        "model.safetensors\0",
        "~/model.safetensors",
        "http://localhost/model.safetensors",
        "\x1b[31m.safetensors",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_an_index_cannot_name_a_file_elsewhere(place, refused, shard):
    copy(place, "base")
    folder = copy(place, "hubert")
    edit("model.safetensors.index.json", weight_map={"lm_head.weight": shard})(folder)
    refused(str(folder), "model.safetensors.index.json")


@posix
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json", "preprocessor_config.json"])
def test_a_link_to_a_file_outside_shows_nothing_of_it(place, refused, name):
    folder = copy(place, "base")
    (folder / name).unlink()
    (folder / name).symlink_to(place / "secret.txt")
    refused(str(folder), name)


@posix
def test_links_to_files_are_followed_as_the_hubs_cache_has_them(place, command):  # noqa: F811
    folder, blobs = copy(place, "base"), place / "blobs"
    text = used(place, command, folder)
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(Path("..", "blobs", path.name))
    assert used(place, command, folder) == text


@posix
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json"])
def test_what_is_no_file_is_not_waited_for(place, refused, name):
    folder = copy(place, "base")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(str(folder), name)


def test_an_adapter_cannot_be_named_outside_the_folder(place, refused):
    folder = copy(place, "mms")
    shutil.copy(folder / "adapter.deu.safetensors", place / "adapter.x.safetensors")
    refused(f"{folder}#../x", "language")
    refused(f"{folder}#", "language")


# Weights that are not those of the network


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def with_tensor(key: str, new: Callable[[torch.Tensor], torch.Tensor | None]) -> Change:
    def change(folder: Path) -> None:
        tensors = tensors_of(folder)
        tensor = new(tensors.pop(key))
        save_file(tensors if tensor is None else {**tensors, key: tensor}, folder / "model.safetensors")

    return change


def cut(name: str, keep: float) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return change


def compressed(folder: Path) -> None:
    """Write weights that unpack to far more than they have on disk."""
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
        file.writestr("archive/data/0", b"\0" * (64 << 20))


HEADER = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}).encode()
LAYER = "wav2vec2.encoder.layers.0."


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("base", with_tensor("lm_head.weight", lambda t: t[:, :-1].clone()), ["lm_head.weight", "shape"]),
        ("base", with_tensor("lm_head.weight", lambda t: t.flatten()), ["lm_head.weight", "shape"]),
        ("base", with_tensor("lm_head.weight", lambda t: t[:1].clone()), ["lm_head.weight"]),
        ("base", with_tensor("lm_head.weight", lambda t: t[:0].clone()), ["lm_head.weight"]),
        ("base", with_tensor("lm_head.weight", lambda t: None), ["lm_head.weight"]),
        ("base", with_tensor("lm_head.bias", lambda t: t[:-1].clone()), ["lm_head.bias"]),
        ("base", with_tensor("lm_head.bias", lambda t: t.to(torch.int8)), ["lm_head.bias", "int8"]),
        pytest.param(
            "base",
            with_tensor("lm_head.bias", lambda t: t.to(torch.complex64)),
            ["lm_head.bias", "complex"],
            marks=pytest.mark.skipif(version("safetensors") < "0.7", reason="it writes no complex numbers"),
        ),
        ("base", with_tensor(LAYER + "attention.q_proj.weight", lambda t: None), ["q_proj.weight"]),
        ("base", with_tensor(LAYER + "attention.q_proj.weight", lambda t: t[None].clone()), ["q_proj", "shape"]),
        ("base", with_tensor("lm_head.bias", lambda t: t * float("nan")), ["not numbers"]),
        ("base", cut("model.safetensors", 0.5), ["model.safetensors", "whole"]),
        ("base", cut("model.safetensors", 0.01), ["model.safetensors", "whole"]),
        ("base", put("model.safetensors", b""), ["model.safetensors"]),
        ("base", put("model.safetensors", b"\xff" * 100), ["model.safetensors"]),
        ("base", put("model.safetensors", struct.pack("<Q", 2**60) + b"{}"), ["model.safetensors"]),
        ("base", put("model.safetensors", struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 8), ["model.safetensors"]),
        ("wavlm", cut("pytorch_model.bin", 0.5), ["pytorch_model.bin"]),
        ("wavlm", put("pytorch_model.bin", b""), ["pytorch_model.bin"]),
        ("wavlm", compressed, ["pytorch_model.bin"]),
        ("wavlm", lambda folder: torch.save([torch.ones(2)], folder / "pytorch_model.bin"), ["pytorch_model.bin"]),
        ("wavlm", lambda folder: torch.save({}, folder / "pytorch_model.bin"), ["pytorch_model.bin"]),
        ("wavlm", lambda folder: torch.save({"a": {"b": 1}}, folder / "pytorch_model.bin"), ["pytorch_model.bin"]),
        ("wavlm", lambda folder: torch.save({7: torch.ones(2)}, folder / "pytorch_model.bin"), ["pytorch_model.bin"]),
        ("base", drop("model.safetensors"), ["model.safetensors"]),
        ("hubert", drop("model-00002-of-00002.safetensors"), ["model-00002-of-00002.safetensors"]),
        ("hubert", put("model.safetensors.index.json", "[]"), ["index.json"]),
        ("hubert", put("model.safetensors.index.json", '{"weight_map": {}}'), ["index.json"]),
        ("hubert", put("model.safetensors.index.json", "[" * 100_000), ["index.json"]),
        ("mms#fra", lambda folder: None, ["fra", "deu, eng"]),
        ("base#deu", lambda folder: None, ["#deu"]),
        ("mms#deu", cut("adapter.deu.safetensors", 0.5), ["adapter.deu.safetensors"]),
        ("mms#deu", lambda folder: shutil.copy(folder / "model.safetensors", folder / "adapter.deu.safetensors"), []),
    ],
)
def test_weights_of_another_network_are_one_line(place, refused, name, change, words):
    name, sign, language = name.partition("#")
    folder = copy(place, name)
    change(folder)
    refused(f"{folder}{sign}{language}", *words, weights=True)


# Configs


ABSURD = [
    {"hidden_size": 10**9},
    {"hidden_size": -16},
    {"hidden_size": 0},
    {"hidden_size": 16.5},
    {"hidden_size": None},
    {"hidden_size": True},
    {"hidden_size": [16]},
    {"hidden_size": 10**400},
    {"num_hidden_layers": 10**9},
    {"num_attention_heads": 3},
    {"num_attention_heads": 0},
    {"intermediate_size": 10**12},
    {"layer_norm_eps": float("nan")},
    {"layer_norm_eps": float("inf")},
    {"layer_norm_eps": -1},
    {"conv_dim": []},
    {"conv_dim": [8] * 100_000, "conv_kernel": [2] * 100_000, "conv_stride": [1] * 100_000},
    {"conv_dim": 8},
    {"conv_dim": {"0": 8}},
    {"conv_stride": [0] * 7},
    {"conv_stride": [5, 2]},
    {"conv_stride": [10**9] * 7},
    {"conv_kernel": [10**9] * 7},
    {"num_conv_pos_embeddings": 10**9},
    {"num_conv_pos_embedding_groups": 0},
    {"feat_extract_norm": "batch"},
    {"do_stable_layer_norm": []},
    {"architectures": []},
    {"architectures": ["Wav2Vec2ForSequenceClassification"]},
    {"architectures": ["os.system"]},
    {"architectures": [7]},
    {"architectures": "Wav2Vec2ForCTC"},
    {"architectures": ["\x1b[31mForCTC"]},
    {"architectures": ["A" * 100_000 + "ForCTC"]},
    {"model_type": 7},
    {"adapter_attn_dim": -1, "do_stable_layer_norm": True},
]


@pytest.mark.parametrize("values", ABSURD, ids=lambda values: str(values)[:50].encode("unicode_escape").decode())
def test_absurd_settings_of_a_network_are_one_line(place, refused, values):
    folder = copy(place, "base")
    edit("config.json", **values)(folder)
    refused(str(folder))


@pytest.mark.parametrize(
    "values", [{"num_hidden_layers": 200}, {"hidden_size": 32}, {"architectures": ["WavLMForCTC"]}]
)
def test_settings_of_another_network_are_one_line(place, refused, values):
    folder = copy(place, "base")
    edit("config.json", **values)(folder)
    refused(str(folder), "tensor", weights=True)


@pytest.mark.parametrize("values", [{"conv_stride": [1] * 7}, {"num_attention_heads": 1024, "hidden_size": 1024}])
def test_attention_that_takes_more_memory_than_any_needs_is_one_line(place, refused, values):
    folder = copy(place, "wavlm")
    edit("config.json", **values)(folder)
    refused(str(folder), "values in 30 s of sound, at most 268,435,456")


@pytest.mark.parametrize("rate", [0, -1, "16000", 10**12, 16000.5, None, float("nan"), True])
def test_an_absurd_sampling_rate_is_one_line(place, refused, rate):
    folder = copy(place, "base")
    edit("preprocessor_config.json", sampling_rate=rate)(folder)
    refused(str(folder), "preprocessor_config.json")


JSON_FILES = ["config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"]
NOT_JSON = {
    "empty": b"",
    "cut short": b'{"a": ',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a": ' + b"[" * 200_000,
    "deep and whole": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "huge": b'{"a": "' + b"a" * (SMALL_FILE + 1) + b'"}',
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("file", JSON_FILES)
@pytest.mark.parametrize("what", NOT_JSON)
def test_what_is_no_json_object_is_one_line(place, refused, file, what):
    folder = copy(place, "base")
    (folder / file).write_bytes(NOT_JSON[what])
    refused(str(folder), file)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "vocab.json"])
def test_a_missing_file_is_named(place, refused, file):
    folder = copy(place, "base")
    (folder / file).unlink()
    refused(str(folder), file)


@pytest.mark.parametrize(
    "model",
    ["", "#deu", "/no/such/folder", "../../no", "a b", "a/b/c", "a" * 200, "\x1b[31m", "a\nb", "a\0b", "--help"],
    ids=lambda model: model[:12].encode("unicode_escape").decode(),
)
def test_a_name_that_can_be_nothing_is_one_line(refused, model):
    refused(model)


# Vocabularies


def vocabulary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "vocab.json").read_text()))


def with_ids(new: Callable[[dict[str, Any]], dict[Any, Any]]) -> Change:
    return lambda folder: put("vocab.json", json.dumps(new(vocabulary(folder))))(folder)


@pytest.mark.parametrize(
    "new",
    [
        lambda v: {},
        lambda v: v | {"A": -1},
        lambda v: v | {"A": "7" * 5000},
        lambda v: v | {"A": 10**18},
        lambda v: v | {"\x1b[31m": v["C"]},
        lambda v: v | {"A": 7.5},
        lambda v: v | {"A": None},
        lambda v: v | {"A": True},
        lambda v: v | {"A": [7]},
        lambda v: {"<pad>": 0},
        lambda v: {"A": 1},
        lambda v: {key: i + 10**6 for key, i in v.items()},
        lambda v: {"eng": v, "deu": 7},
        lambda v: {"<pad>": 0, "a" * 10**6: 5},
    ],
)
def test_a_vocabulary_that_is_none_is_one_line(place, refused, new):
    folder = copy(place, "base")
    with_ids(new)(folder)
    edit("config.json", pad_token_id=None)(folder)
    refused(str(folder), "vocab.json")


@pytest.mark.parametrize(
    "new",
    [
        lambda v: {key: i for key, i in v.items() if key not in "IJKLMN"},
        lambda v: v | {f"x{i}": 10**6 + i for i in range(10)},
        lambda v: v | {"y": 10**9},
        lambda v: v | {"B": v["C"]},
        lambda v: v | {"\u202e": v["C"]},
        lambda v: v | {"": v["C"]},
    ],
    ids=["holes", "ids above the head", "a huge id", "one id twice", "a mark of direction", "nothing"],
)
def test_an_odd_vocabulary_is_used_and_its_probabilities_sum_to_one(place, command, new):  # noqa: F811
    from asr.model.hf.load import describe, load_network

    folder = copy(place, "base")
    with_ids(new)(folder)
    text = used(place, command, folder)
    assert not CONTROLS.search(text)

    known = describe(f"hf:{folder}")
    (log_probs_sv,) = load_network(known).each([np.load(FOLDER / "wave.npy")[:, None]])
    assert log_probs_sv.shape[1] == known.tokenizer.vocabulary_size
    np.testing.assert_allclose(np.exp(log_probs_sv).sum(1), 1, atol=1e-5)


# Through transformers


@pytest.fixture
def foreign(place) -> Path:
    """A folder of data2vec, which only transformers has."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = place / "foreign"
    return test_hf_others.make(folder, transformers, "data2vec")


@pytest.mark.slow
@pytest.mark.parametrize("write", [pickled, saved, saved_the_old_way, in_a_tar], ids=lambda write: write.__name__)
def test_no_pickle_runs_code_through_transformers(place, foreign, refused, write):
    (foreign / "model.safetensors").unlink()
    write(foreign / "pytorch_model.bin", place / "executed")
    refused(str(foreign), "pytorch_model.bin", weights=True)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["../base/model.safetensors", "/etc/model.safetensors", 7])
def test_no_index_names_a_file_elsewhere_through_transformers(place, foreign, refused, shard):
    copy(place, "base")
    (foreign / "model.safetensors").unlink()
    put("model.safetensors.index.json", json.dumps({"weight_map": {"lm_head.weight": shard}}))(foreign)
    refused(str(foreign), "index.json", weights=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("config.json", encoder_config={"auto_map": {"AutoModel": "code.Model"}}), ["auto_map"]),
        (edit("config.json", auto_map={"AutoConfig": "code.Config"}), ["auto_map"]),
        (edit("config.json", quantization_config={"quant_method": "gptq"}), ["quantised"]),
        (edit("config.json", num_hidden_layers=10**9), ["num_hidden_layers"]),
        (edit("config.json", hidden_size=10**12), ["hidden_size"]),
        (edit("config.json", conv_stride=[0] * 7), []),
        (edit("config.json", vocab_size=-3), []),
        (edit("config.json", model_type="os"), []),
        (edit("config.json", dtype="os.system"), []),
        (edit("preprocessor_config.json", feature_extractor_type="os.system"), []),
        (edit("preprocessor_config.json", feature_extractor_type="WhisperFeatureExtractor"), []),
        (edit("preprocessor_config.json", feature_size=10**10), ["feature_size"]),
        (cut("model.safetensors", 0.5), ["model.safetensors"]),
    ],
)
def test_what_transformers_would_fail_at_is_one_line(place, foreign, refused, change, words):
    put("code.py", f"open({str(place / 'executed')!r}, 'w')")(foreign)
    change(foreign)
    refused(str(foreign), *words, weights=True)
