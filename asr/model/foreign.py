"""What a file or folder that is no model of ours seems to be, so that an error can say it. Nothing is loaded or run."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

_PICKLE = "a PyTorch checkpoint, which is a pickle and may run code when it is loaded"
#: by the bytes at the start
_HEADS = (
    (b"version https://git-lfs", "a Git LFS pointer in the file's place: fetch the file with git lfs pull"),
    (b"asr n-gram", "an n-gram language model"),
    (b"GGUF", "a GGUF model"),
    (b"lmgg", "a whisper.cpp model"),
    (b"RIFF", "a WAV file"),
    (b"fLaC", "a FLAC file"),
    (b"OggS", "an Ogg file"),
    (b"NIST_1A", "a SPHERE file"),
)
#: by the end of the name, where the bytes say little
_SUFFIXES = {
    ".nemo": "a NVIDIA NeMo model",
    ".onnx": "an ONNX model",
    ".tflite": "a TensorFlow Lite model",
    ".mdl": "a Kaldi model",
    ".arpa": "an n-gram language model",
    ".jsonl": "a manifest",
    ".yaml": "a config",
    ".yml": "a config",
    ".md": "a text for people",
}
#: by a file that such a folder has
_FOLDERS = (
    ("hyperparams.yaml", "a SpeechBrain model"),
    ("preprocessor_config.json", "a Hugging Face Transformers model"),
    ("am/final.mdl", "a Vosk model"),
    ("final.mdl", "a Kaldi model"),
    ("state.safetensors", "a training checkpoint: give its run folder, or go on with 'asr train --resume RUN'"),
    ("train.jsonl", "a data folder: it is what a model is trained on"),
)


def kind_of_file(path: Path) -> str:
    """What a file seems to be, in a few words; empty where nothing can be said.

    >>> kind_of_file(Path("a.nemo"))
    'a NVIDIA NeMo model'
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        head = b""
    if path.suffix.lower() in (".nemo", ".onnx"):  # archives, or without a mark of their own
        return _SUFFIXES[path.suffix.lower()]
    if head.startswith(b"PK\x03\x04"):
        return _PICKLE if _zip_has(path, "data.pkl") else "a zip archive"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _PICKLE
    for start, kind in _HEADS:
        if head.startswith(start):
            return kind
    if head[4:8] == b"TFL3":
        return _SUFFIXES[".tflite"]
    if b"\\data\\" in head:
        return _SUFFIXES[".arpa"]
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (a log-in, or a download that failed)"
    if head[8:10] == b'{"' and head[5:8] == b"\0\0\0":
        return "safetensors: weights without what says how to use them"
    if head and tarfile.is_tarfile(path):
        return "a tar archive: extract it first"
    return _SUFFIXES.get(path.suffix.lower(), "")


def kind_of_folder(folder: Path) -> str:
    """What a folder seems to be, in a few words; empty where nothing can be said."""
    if found := kind_of_config(folder / "config.json"):
        return found
    if (folder / "model.bin").is_file() and any(folder.glob("vocabulary.*")):
        return "a CTranslate2 model, as faster-whisper has them"
    for name, kind in _FOLDERS:
        if (folder / name).is_file():
            return kind
    names = sorted(p.name for p in folder.glob("*") if not p.name.startswith("."))
    for name in names:
        if Path(name).suffix.lower() in (".nemo", ".onnx", ".tflite"):
            return f"of another toolkit: {name} is {_SUFFIXES[Path(name).suffix.lower()]}"
        if Path(name).suffix.lower() in (".pt", ".pth", ".ckpt", ".bin", ".pkl"):
            kind = kind_of_file(folder / name)
            return f"of another toolkit: {name} is {kind}" if kind else f"of another toolkit: it has {name}"
    runs = [name for name in names if (folder / name / "best").is_dir() or (folder / name / "config.json").is_file()]
    if runs:
        return f"a folder around models: give {folder / runs[0]}" + (f" or {folder / runs[1]}" if runs[1:] else "")
    return ""


def kind_of_config(path: Path) -> str:
    """Whose ``config.json`` it seems to be, when it is another toolkit's."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(data, dict) or "format_version" in data:
        return ""
    if {"model_type", "architectures", "transformers_version"} & set(data):
        kind = data.get("model_type")
        return f"a Hugging Face Transformers model{f' ({kind})' if isinstance(kind, str) else ''}"
    if "alignment_heads" in data and "suppress_ids" in data:
        return "a CTranslate2 model, as faster-whisper has them"
    return ""


def _zip_has(path: Path, name: str) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return any(entry.rpartition("/")[2] == name for entry in file.namelist())
    except (OSError, zipfile.BadZipFile):  # cut short: its list stands at the end
        return path.suffix.lower() in (".pt", ".pth", ".ckpt", ".bin")
