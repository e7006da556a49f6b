"""Files of strangers as NeMo models: one line, exit code 2, no code run, nothing written."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asr.limits import NEMO_CONFIG
from tests.nemo_files import TOKENIZER, config, saved, tokenizer, weights, write_nemo
from tests.test_cli import command  # noqa: F401  # the fixture


@pytest.fixture
def refused(tmp_path, monkeypatch, command):  # noqa: F811
    """Checks that a file is refused in one line that has all of the words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def check(path: Path, *words: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        line = command("info", f"nemo:{path}").error
        for word in (str(path), *words):
            assert word in line
        assert len(line) < 600 and sorted(tmp_path.rglob("*")) == before

    return check


class Code:
    """A pickle that would leave a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_no_pickle_runs_code(tmp_path, refused):
    pickles = (
        saved({"a": Code()}),
        saved({"a": Code()}, _use_new_zipfile_serialization=False),
        pickle.dumps(Code(), 2),
    )
    for content in pickles:
        path = write_nemo(tmp_path / "a.nemo", files={"model_weights.ckpt": content})
        refused(path, "asks for code, which is not run")


def test_yaml_that_names_python_objects_makes_none(tmp_path, refused):
    text = b"target: !!python/object/apply:os.mkdir [executed]\n"
    refused(write_nemo(tmp_path / "a.nemo", files={"model_config.yaml": text}), "model_config.yaml is not valid YAML")


def test_yaml_of_aliases_of_aliases_is_not_walked(tmp_path, refused):
    rows = [b"a0: &a0 [x, x]"] + [b"a%d: &a%d [*a%d, *a%d]" % (i, i, i - 1, i - 1) for i in range(1, 60)]
    refused(write_nemo(tmp_path / "a.nemo", files={"model_config.yaml": b"\n".join(rows)}), "is an alias")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must be a mapping, got NoneType"),
        (b"[1]", "must be a mapping, got list"),
        (b"\xff", "is not valid YAML"),
        (b"[" * 5000, "is not valid YAML"),
        (b"a: 1\na: 2", "'a' is given twice"),
        (b"#" * (NEMO_CONFIG + 1), f"at most {NEMO_CONFIG:,} are read"),
        (None, "holds no model_config.yaml"),
    ],
    ids=["empty", "list", "bytes", "deep", "twice", "large", "missing"],
)
def test_a_config_that_is_none_is_one_line(tmp_path, refused, content, words):
    refused(write_nemo(tmp_path / "a.nemo", files={"model_config.yaml": content}), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": None}, "its target is None"),
        ({"target": "nemo.x.EncDecRNNTBPEModel"}, "its target is EncDecRNNTBPEModel, which writes no text with CTC"),
        ({"encoder": None}, "encoder must be a mapping, got NoneType"),
        ({"encoder___target_": "nemo.x.ConvASREncoder"}, "encoder._target_ is 'nemo.x.ConvASREncoder', and only"),
        (
            {"encoder__subsampling": "vggnet"},
            "encoder.subsampling is 'vggnet', and only 'dw_striding' or 'striding' is",
        ),
        ({"encoder__subsampling": ["striding"]}, "encoder.subsampling is ['striding'], and only"),
        ({"encoder__subsampling": "striding"}, "'encoder.subsampling.layers."),
        ({"encoder__self_attention_model": "rel_pos_local_attn"}, "encoder.self_attention_model is"),
        ({"encoder__att_context_size": [70, 13]}, "encoder.att_context_size is [70, 13]"),
        ({"encoder__causal_downsampling": True}, "encoder.causal_downsampling is True"),
        ({"encoder__conv_context_size": "causal"}, "encoder.conv_context_size is 'causal'"),
        ({"encoder__conv_norm_type": "groupnorm8"}, "encoder.conv_norm_type is 'groupnorm8'"),
        ({"encoder__feat_in": 128}, "encoder.feat_in is 128, and only 80 is read here"),
        ({"encoder__n_layers": 10**9}, "layers"),
        ({"encoder__n_layers": "${n}"}, "layers"),
        ({"encoder__d_model": 10**9}, "hidden"),
        ({"preprocessor__window_stride": 0.0001}, "values in 30 s of sound, at most"),
        ({"encoder__n_heads": 3}, "no multiple of conformer.heads 3"),
        ({"encoder__conv_kernel_size": 4}, "must be odd, got 4"),
        ({"encoder__conv_kernel_size": []}, "kernel"),
        ({"encoder__subsampling_factor": 16}, "subsampling"),
        ({"encoder__ff_expansion_factor": 10**9}, "feed_forward"),
        ({"preprocessor__normalize": "all_features"}, "preprocessor.normalize is 'all_features'"),
        ({"preprocessor__highfreq": 7600}, "preprocessor.highfreq is 7600, and only None is read here"),
        ({"preprocessor__window_size": 1e9}, "window_s"),
        ({"preprocessor__window_stride": 0}, "hop_s"),
        ({"preprocessor__features": -1}, "num_mels"),
        ({"preprocessor__sample_rate": 0}, "sample_rate_hz"),
        ({"preprocessor__n_fft": 256}, "a window of 400 and a hop of 160 samples do not fit an FFT of 256"),
        ({"tokenizer__type": "wpe"}, "tokenizer.type is 'wpe', and only 'bpe' is read here"),
        ({"tokenizer__type": "agg"}, "tokenizer.type is 'agg'"),
        ({"tokenizer__model_path": None}, "tokenizer.model_path is None"),
        ({"tokenizer__model_path": "nemo:../../etc/passwd"}, "holds no ../../etc/passwd"),
        ({"tokenizer": None, "decoder__vocabulary": ["a"]}, "the head has 13 outputs, which are not the 1 tokens"),
        ({"tokenizer": None, "decoder__vocabulary": [1]}, "decoder.vocabulary is [1]"),
        ({"tokenizer": None, "decoder__vocabulary": ["a"] * 12}, "symbols must be distinct"),
        ({"tokenizer": None, "decoder__vocabulary": [*"abcdefghijk", "\x1b"]}, "are no symbols"),
        ({"encoder__n_layers": 3}, "holds no tensor 'encoder.layers.2."),
        ({"encoder__n_layers": 1}, "holds a tensor 'encoder.layers.1."),
        ({"encoder__d_model": 32}, "has shape"),
    ],
    ids=str,
)
def test_a_config_of_another_model_or_with_absurd_values_is_one_line(tmp_path, refused, changes, words):
    refused(write_nemo(tmp_path / "a.nemo", data=config(**changes)), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder.decoder_layers.0.weight": None}, "expected a CTC head of shape (outputs, units, 1), got none"),
        ({"decoder.decoder_layers.0.weight": torch.zeros(13, 16)}, "got shape [13, 16]"),
        ({"decoder.decoder_layers.0.weight": torch.zeros(9, 16, 1)}, "the head has 9 outputs, which are not the 12"),
        ({"decoder.decoder_layers.0.bias": torch.zeros(12)}, "'ctc_head.bias' has shape [12]"),
        ({"encoder.layers.0.norm_out.weight": torch.zeros(16, dtype=torch.int64)}, "expected a float"),
        ({"encoder.layers.0.norm_out.weight": torch.zeros(16).to_sparse()}, "is no plain tensor"),
        ({"encoder.layers.0.norm_out.weight": torch.zeros(1).expand(16)}, ""),
        ({"encoder.pre_encode.out.weight": "text"}, "is no plain tensor"),
        ({"encoder.more": torch.zeros(1)}, "holds a tensor 'encoder.more' that model_config.yaml does not ask for"),
    ],
    ids=str,
)
def test_weights_of_another_network_are_one_line(tmp_path, refused, changes, words):
    tensors: dict[str, Any] = weights() | changes
    path = write_nemo(tmp_path / "a.nemo", tensors={name: one for name, one in tensors.items() if one is not None})
    if words:
        refused(path, words)


@pytest.mark.parametrize(
    "name", ["preprocessor.featurizer.fb", "preprocessor.featurizer.window"], ids=["filters", "window"]
)
def test_other_filters_than_the_configs_are_one_line(tmp_path, command, name):  # noqa: F811
    shape = (1, 80, 257) if name.endswith("fb") else (400,)
    path = write_nemo(tmp_path / "a.nemo", tensors=weights() | {name: torch.full(shape, 0.5)})
    line = command("transcribe", f"nemo:{path}", tmp_path / "a.wav").error
    assert f"'{name}' is not what its config asks for" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, f"holds no {TOKENIZER}"),
        (b"", "is no whole SentencePiece model"),
        (b"\x00" * 99, "is no whole SentencePiece model"),
        (tokenizer()[:40], "the head has 13 outputs, which are not the 3 tokens"),
        (tokenizer(("<unk>", "a")), "the head has 13 outputs, which are not the 2 tokens"),
    ],
    ids=["missing", "empty", "zeros", "cut", "short"],
)
def test_a_tokenizer_that_is_none_is_one_line(tmp_path, refused, content, words):
    refused(write_nemo(tmp_path / "a.nemo", files={TOKENIZER: content}), words)


def test_what_is_no_archive_is_one_line(tmp_path, refused):
    whole = write_nemo(tmp_path / "a.nemo").read_bytes()
    packed = write_nemo(tmp_path / "a.nemo", mode="w:gz").read_bytes()
    contents = {
        b"": "not a whole .nemo file",
        b"x" * 5000: "not a whole .nemo file",
        whole[: len(whole) // 2]: "not a whole .nemo file",
        packed[: len(packed) // 2]: "not a whole .nemo file",
        b"version https://git-lfs.github.com/spec/v1\n": "a Git LFS pointer",
        b"<!DOCTYPE html>\n<html>": "a web page",
    }
    for content, words in contents.items():
        (tmp_path / "a.nemo").write_bytes(content)
        refused(tmp_path / "a.nemo", words)


def test_a_file_that_is_missing_or_a_folder_is_one_line(tmp_path, refused):
    refused(tmp_path / "none.nemo", "no such file")
    (tmp_path / "folder.nemo").mkdir()
    refused(tmp_path / "folder.nemo", "is a directory")


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path, refused):
    path = write_nemo(tmp_path / "a.nemo", files={"zeros": bytes(100 << 20)}, mode="w:gz")
    refused(path, "unpacks to more than 100 times its size")


def test_links_and_devices_of_an_archive_lead_nowhere(tmp_path, refused):
    (tmp_path / "secret").write_bytes(yaml.safe_dump(config()).encode())
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        with tarfile.open(tmp_path / "a.nemo", "w:") as tar:
            member = tarfile.TarInfo("model_config.yaml")
            member.type, member.linkname = kind, str(tmp_path / "secret")
            tar.addfile(member)
        refused(tmp_path / "a.nemo", "holds no model_config.yaml")


def test_many_files_are_refused(tmp_path, refused):
    with tarfile.open(tmp_path / "a.nemo", "w:") as tar:
        for i in range(1001):
            tar.addfile(tarfile.TarInfo(str(i)), io.BytesIO())
    refused(tmp_path / "a.nemo", "has more than 1,000 files")
