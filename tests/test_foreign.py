"""What is given in place of a model: each is one line that names the file and says what it seems to be."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from asr.errors import CheckpointError
from asr.lm import ngram
from asr.model.checkpoint import load_model
from asr.model.foreign import kind_of_file, kind_of_folder
from tests.builders import build_corpus, write_wav
from tests.models import save_random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


def refused(path: Path, expected: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    text = str(error.value)
    assert text.startswith(str(path)) and expected in text and "\n" not in text


def tar_bytes() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("model_config.yaml"))
    return content.getvalue()


def torch_bytes(**options) -> bytes:
    content = io.BytesIO()
    torch.save({"w": torch.zeros(9)}, content, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pt", torch_bytes(), "a PyTorch checkpoint, which is a pickle"),
        ("a.pth", torch_bytes(_use_new_zipfile_serialization=False), "a PyTorch checkpoint"),
        ("a.pth", torch_bytes()[:200], "a PyTorch checkpoint"),
        ("a.pkl", pickle.dumps({"w": 1}), "a PyTorch checkpoint, which is a pickle"),
        ("a.nemo", tar_bytes(), "a NVIDIA NeMo model"),
        ("a.tar", tar_bytes(), "a tar archive"),
        ("a.onnx", b"\x08\x07\x12", "an ONNX model"),
        ("a.bin", b"lmgg\0\0", "a whisper.cpp model"),
        ("a.gguf", b"GGUF\3", "a GGUF model"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        ("model", b"<!DOCTYPE html>\n<html>", "a web page"),
        ("model", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("README.md", b"# A model", "a text for people"),
        ("train.jsonl", b"{}", "a manifest"),
        ("nothing", b"x", ""),
        ("empty", b"", ""),
    ],
)
def test_a_file_says_what_it_seems_to_be(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    assert kind_of_file(path).startswith(said) and bool(kind_of_file(path)) == bool(said)
    refused(path, f"is a file (it seems to be {said}" if said else "is a file; a model is a folder with")


def test_files_of_our_own_in_the_models_place_are_known(model, tmp_path):
    refused(model / "model.safetensors", "is a file (it seems to be safetensors: weights without")
    refused(write_wav(tmp_path / "a.wav"), "a WAV file")
    ngram.write(ngram.train(["a b"], 2), tmp_path / "lm.arpa")
    shutil.copy(tmp_path / "lm.arpa", tmp_path / "lm.txt")
    ngram.write(ngram.train(["a b"], 2), tmp_path / "lm.bin")
    refused(tmp_path / "lm.txt", "an n-gram language model")
    refused(tmp_path / "lm.bin", "an n-gram language model")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": json.dumps({"model_type": "whisper"})}, "a Hugging Face Transformers model (whisper)"),
        ({"config.json": json.dumps({"architectures": ["Wav2Vec2ForCTC"], "model_type": 3})}, "a Hugging Face"),
        ({"model.bin": "", "vocabulary.txt": "", "config.json": "{}"}, "a CTranslate2 model, as faster-whisper"),
        ({"am/final.mdl": "", "conf/model.conf": ""}, "a Vosk model"),
        ({"final.mdl": ""}, "a Kaldi model"),
        ({"hyperparams.yaml": "", "CKPT.ckpt": ""}, "a SpeechBrain model"),
        ({"stt_en.nemo": ""}, "of another toolkit: stt_en.nemo is a NVIDIA NeMo model"),
        ({"README.md": "", "checkpoint_best.pt": "\x80\x02x"}, "of another toolkit: it has checkpoint_best.pt"),
        ({"train.jsonl": "", "dev.jsonl": ""}, "a data folder"),
        ({"state.safetensors": "", "state.json": "{}"}, "a training checkpoint: give its run folder"),
        ({"seed1/best/config.json": "{}"}, "a folder around models: give"),
        ({"README.md": "# A"}, ""),
        ({"config.json": "{"}, ""),
        ({"config.json": "[1]"}, ""),
        ({"config.json": '{"format_version": 1, "model_type": "x"}'}, ""),
    ],
)
def test_a_folder_says_what_it_seems_to_be(tmp_path, files, said):
    folder = tmp_path / "m"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    assert kind_of_folder(folder).startswith(said) and bool(kind_of_folder(folder)) == bool(said)
    refused(folder, f"missing; it seems to be {said}" if said else "missing")


def test_a_whisper_folder_with_all_three_names_is_known_by_its_config(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "whisper")
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "architectures": ["Whisper"]}))
    with pytest.raises(
        CheckpointError, match=r"config\.json: seems to be of a Hugging Face Transformers model \(whisp"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer in the file's place: fetch the file with"),
        (b"<html>", "a web page"),
        (torch_bytes(), "a PyTorch checkpoint"),
    ],
)
def test_weights_in_another_form_are_known(model, tmp_path, content, said):
    folder = shutil.copytree(model, tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert f"model.safetensors: not a whole safetensors file (it seems to be {said}" in str(error.value)


def test_the_data_folder_of_a_corpus_is_no_model(tmp_path):
    build_corpus(tmp_path / "data", 2)
    refused(tmp_path / "data", "it seems to be a data folder")
