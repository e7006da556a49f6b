"""Guess what a file or folder that is no model of ours is, so that an error can name it. Nothing is loaded or run."""

from __future__ import annotations

from pathlib import Path

from asr.files import open_regular, read_json
from asr.model.hf.names import PREFIX as HF
from asr.model.nemo.names import PREFIX as NEMO

_PICKLE = "a PyTorch checkpoint, which is a pickle and may run code when it is loaded"
#: kinds by the bytes at the start
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
#: kinds by the end of the name, for files whose bytes tell little
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
#: ends of the names of compressed tar files
_TARS = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
#: suffixes of other toolkits' models
_OF_OTHERS = (".nemo", ".onnx", ".tflite", ".pt", ".pth", ".ckpt", ".bin", ".pkl")
#: kinds of folders by a file in them
_FOLDERS = (
    ("hyperparams.yaml", "a SpeechBrain model"),
    ("preprocessor_config.json", "a Hugging Face Transformers model"),
    ("am/final.mdl", "a Vosk model"),
    ("final.mdl", "a Kaldi model"),
    ("state.safetensors", "a training checkpoint: give its run folder, or go on with 'asr train --resume RUN'"),
    ("train.jsonl", "a data folder: it is what a model is trained on"),
)


def kind_of_file(path: Path) -> str:
    """Describe a file in a few words; return an empty string if it is unknown.

    >>> kind_of_file(Path("a.nemo"))
    'a NVIDIA NeMo model, which is used as nemo:a.nemo'
    """
    try:
        with open_regular(path) as file:
            head = file.read(512)
    except OSError:
        head = b""
    suffix = path.suffix.lower()

    for start, kind in _HEADS:
        if head.startswith(start):
            return kind
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (a log-in, or a download that failed)"
    if suffix == ".nemo":
        return f"{_SUFFIXES[suffix]}, which is used as {NEMO}{path}"
    if suffix == ".onnx":  # without bytes of its own at the start
        return _SUFFIXES[suffix]
    if head.startswith(b"PK\x03\x04"):
        # torch writes its pickle first
        return _PICKLE if b"data.pkl" in head or suffix in (".pt", ".pth", ".ckpt", ".bin") else "a zip archive"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return _PICKLE
    if head[4:8] == b"TFL3":
        return _SUFFIXES[".tflite"]
    if b"\\data\\" in head:
        return _SUFFIXES[".arpa"]
    if head[8:10] == b'{"' and head[5:8] == b"\0\0\0":
        return "safetensors: weights without what says how to use them"
    if head[257:262] == b"ustar" or path.name.lower().endswith(_TARS):
        return "a tar archive: extract it first"
    return _SUFFIXES.get(suffix, "")


def kind_of_folder(folder: Path) -> str:
    """Describe a folder in a few words; return an empty string if it is unknown."""
    if found := kind_of_config(folder / "config.json"):
        return found
    if (folder / "model.bin").is_file() and any(folder.glob("vocabulary.*")):
        return "a CTranslate2 model, as faster-whisper has them"
    for name, kind in _FOLDERS:
        if (folder / name).is_file():
            return kind

    names = sorted(p.name for p in folder.glob("*") if not p.name.startswith("."))
    for name in names:
        if Path(name).suffix.lower() in _OF_OTHERS:
            kind = kind_of_file(folder / name)
            return f"of another toolkit: {name} is {kind}" if kind else f"of another toolkit: it has {name}"

    runs = [name for name in names if (folder / name / "best").is_dir() or (folder / name / "config.json").is_file()]
    if runs:
        return "a folder around models: give " + " or ".join(str(folder / name) for name in runs[:2])
    return ""


def kind_of_config(path: Path) -> str:
    """Name the toolkit of a ``config.json``; return an empty string if it is ours or unknown."""
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return ""
    if not isinstance(data, dict) or "format_version" in data:
        return ""
    if {"model_type", "architectures", "transformers_version"} & set(data):
        kind = data.get("model_type")
        shown = f" ({kind})" if isinstance(kind, str) else ""
        networks = data.get("architectures")
        is_ctc = isinstance(networks, list) and any(str(one).endswith("ForCTC") for one in networks)
        hint = f", which is used as {HF}{path.parent}" if is_ctc else ""
        return f"a Hugging Face Transformers model{shown}{hint}"
    if "alignment_heads" in data and "suppress_ids" in data:
        return "a CTranslate2 model, as faster-whisper has them"
    return ""
