"""The parsers that are fuzzed: for each its valid files, and how the commands call it."""

from __future__ import annotations

import gzip
import shutil
import socket
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from asr.errors import AsrError
from asr.sound import ffmpeg
from tests.builders import extract, sine, sphere_bytes
from tests.fuzz import seeds
from tests.fuzz.seeds import ARPA, TEXT, Seed, lines, of_folder, one, with_audio


@dataclass(frozen=True)
class Target:
    """A parser. ``call`` gets the folder with a seed's files; only an ``AsrError`` may come out of it.

    ``build`` makes the seeds, with an empty folder to work in. ``kernels``: the input reaches compiled code whose
    indexes depend on it. ``program``: a program that must be installed.
    """

    name: str
    build: Callable[[Path], list[Seed]]
    call: Callable[[Path], object]
    kernels: bool = False
    program: str = ""

    def is_runnable(self) -> bool:
        return not self.program or shutil.which(self.program) is not None


def all_of(*calls: Callable[[], object]) -> None:
    """Make all calls, whichever of them refuse the input; then raise the first refusal."""
    refusals: list[AsrError] = []
    for call in calls:
        try:
            call()
        except AsrError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


# --- data folders -----------------------------------------------------------------------------------------------------


def _read_manifest(folder: Path) -> None:
    from asr import info
    from asr.data import manifest
    from asr.doctor import examine
    from asr.recordings.inputs import find_inputs

    path = folder / "train.jsonl"
    all_of(
        lambda: manifest.write(folder / "out.jsonl", manifest.read(path)),
        lambda: info.describe(str(path)),
        lambda: find_inputs([str(path)]),
        lambda: list(examine([path], deep=True).lines()),
    )


def _read_header(folder: Path) -> None:
    from asr.data import manifest, prepared

    header = prepared.read(folder)
    prepared.tokenizer_for("auto", folder, header)
    prepared.resolve_normalization("auto", header)
    prepared.is_own(folder, "train.jsonl")
    manifest.read_split(folder, "train")


def _headers(scratch: Path) -> list[Seed]:
    from asr.data.subwords import SubwordTokenizer

    tokenizer = SubwordTokenizer.train(TEXT.splitlines(), 10)
    header = {
        "recipe": "csv",
        "title": "T",
        "licence": "L",
        "homepage": "",
        "normalization": "none",
        "tokenizer": "tokenizer.json",
        "dropped": 0,
        "flagged_numbers": 0,
        "asr_version": "1.0",
        "splits": {"train": {"utterances": 3, "hours": 0.1, "speakers": 3, "with_digits": 0}},
    }
    seed = with_audio(
        prepared__json=lines(header), tokenizer__json=lines(tokenizer.to_json()), train__jsonl=lines(*seeds.rows())
    )
    return [Seed(seed.files, ("prepared.json",))]


def _read_tokenizer(folder: Path) -> None:
    from asr import info
    from asr.data.tokenizer_file import read_tokenizer

    tokenizer = read_tokenizer(folder / "tokenizer.json")
    for text in ("ab cd", "", "  ", "x", "é" * 50):
        ids = [] if tokenizer.unknown(text) else tokenizer.encode(text)
        tokenizer.decode(ids)
    tokenizer.decode(list(range(1, tokenizer.vocabulary_size)))
    tokenizer.to_json()
    info.describe(str(folder / "tokenizer.json"))


def _tokenizers(kind: str, scratch: Path) -> list[Seed]:
    from asr.data.subwords import SubwordTokenizer
    from asr.data.tokenizer import CharTokenizer

    if kind == "char":
        return [one("tokenizer.json", lines(CharTokenizer(tuple(" abcdé'")).to_json()))]
    kinds: tuple[Any, ...] = ("bpe", "unigram")
    return [
        one("tokenizer.json", lines(SubwordTokenizer.train(TEXT.splitlines(), 12, each).to_json())) for each in kinds
    ]


def _read_config(folder: Path) -> None:
    from asr import info

    info.describe(str(folder / "config.yaml"))


def _configs(scratch: Path) -> list[Seed]:
    from asr.config import to_yaml

    small = "model: {conv: [{channels: 2, kernel_tf: [5, 5], stride_tf: [2, 2]}], layers: 1, hidden: 8}\n"
    return [one("config.yaml", to_yaml(seeds.run_config())), one("config.yaml", small + "optim: {lr: 3e-4}\n# é\n")]


def _read_shards(folder: Path) -> None:
    from asr.data import audio, manifest, shards

    rows = manifest.read(folder / "train.jsonl")
    for row in rows:
        path = rows.audio_path(row)
        all_of(partial(audio.info, path), partial(audio.load, path), partial(shards.read_ahead, [path]))


def _shards(scratch: Path) -> list[Seed]:
    from asr.data import manifest
    from asr.data.sharding import write_shards

    data = seeds.corpus(scratch)
    out = scratch / "packed"
    write_shards(manifest.read(data / "train.jsonl"), out, 1)
    found = of_folder(out, ["*.tar", "*.index.json"])
    without = Seed(
        {n: c for n, c in found.files.items() if "index" not in n}, tuple(n for n in found.damaged if "index" not in n)
    )
    return [found, without]


def _extract(kind: str, folder: Path) -> None:
    from asr.corpora.archive import extract, unpack

    archive = folder / f"a.{kind}"
    all_of(lambda: extract(archive, folder / "all"), lambda: unpack(archive, folder / "out", "top"))


# --- sound ------------------------------------------------------------------------------------------------------------


def _hear(folder: Path) -> None:
    from asr.data import audio
    from asr.doctor.sound import measure_samples, read_header
    from asr.recordings.inputs import Part
    from asr.recordings.media import open_stream

    (path,) = folder.glob("a.*")

    def stream(part: Part) -> None:
        with open_stream(path, 16000, part) as opened:
            for block in opened.blocks():
                assert np.isfinite(block).all()

    header = read_header(str(path))
    if path.suffix in ffmpeg.SUFFIXES:  # ffmpeg takes half a second each time
        stream(Part())
        return
    if not header.code:
        measure_samples(str(path), 0, -1)
        measure_samples(str(path), 100, header.num_samples - 100)
    all_of(
        lambda: audio.info(path, keep_truncated=True),
        lambda: audio.load(path, channel="mix"),
        lambda: audio.load(path, offset_s=0.1, duration_s=0.2, channel=1),
        lambda: stream(Part()),
        lambda: stream(Part(channel=1, start_s=0.2, end_s=0.3)),
    )


def _sounds(*kinds: tuple[str, str, str, int]) -> Callable[[Path], list[Seed]]:
    """Return a builder of recordings of (name, format, subtype, channels)."""
    return lambda scratch: [
        one(name, seeds.sound(format_, subtype, channels)) for name, format_, subtype, channels in kinds
    ]


def _ffmpeg_sounds(scratch: Path) -> list[Seed]:
    return [
        one("a.m4a", seeds.by_ffmpeg(scratch, "a.m4a", "-c:a", "aac")),
        one("a.webm", seeds.by_ffmpeg(scratch, "a.webm", "-c:a", "libopus")),
        one("a.mkv", seeds.by_ffmpeg(scratch, "a.mkv", "-c:a", "flac")),
    ]


# --- importers --------------------------------------------------------------------------------------------------------


def _prepare(importer: str, source: str, folder: Path) -> None:
    from asr.corpora.importers import IMPORTERS
    from asr.corpora.prepare import prepare
    from asr.corpora.recipe import Request

    request = Request(out=folder / "out", sources=(folder / source,))
    prepare(IMPORTERS[importer], request)


def _kaldi(scratch: Path) -> list[Seed]:
    return [
        with_audio(
            wav__scp="r1 a.wav\nr2 b.wav\n",
            segments="u1 r1 0.0 0.2\nu2 r1 0.1 0.3\nu3 r2 0.0 0.25\n",
            text="u1 a b\nu2 ab\nu3 é\n",
            utt2spk="u1 s1\nu2 s1\nu3 s2\n",
        ),
        with_audio(wav__scp="u1 a.wav\nu2 b.wav\n", text="u1 a b\nu2 ab\n"),
    ]


def _nemo(scratch: Path) -> list[Seed]:
    found = [
        {"audio_filepath": f"{name}.wav", "text": "ab", "duration": 0.3, "offset": 0.01, "x": [1]} for name in "abc"
    ]
    return [with_audio(a__jsonl=lines(*found))]


def _tables(name: str) -> Callable[[Path], list[Seed]]:
    mark = "\t" if name.endswith("tsv") else ","
    table = [["id", "audio_path", "text", "speaker", "offset_s", "duration_s"]]
    table += [
        [f"u{i}", f"{'abc'[i]}.wav", 'say "a"' if mark == "\t" else '"say ""a"""', f"s{i}", "0.0", "0.2"]
        for i in range(3)
    ]
    text = lines(*map(mark.join, table))
    return lambda scratch: [with_audio(**{name.replace(".", "__"): text})]


def _folder(scratch: Path) -> list[Seed]:
    seed = with_audio(a__txt="ab\n", b__txt="é b\n", c__txt="a\nb\n")
    inside = {f"in/{name}": content for name, content in seed.files.items()}
    return [Seed(inside, tuple(f"in/{name}" for name in (*seed.damaged, "a.wav")))]


def _combine(folder: Path) -> None:
    from asr.corpora.importers import IMPORTERS
    from asr.corpora.prepare import prepare
    from asr.corpora.recipe import Request

    prepare(IMPORTERS["combined"], Request(out=folder / "out", sources=(folder / "x", folder / "y")))


def _prepared_folders(scratch: Path) -> list[Seed]:
    header = _headers(scratch)[0]
    both = {f"{part}/{name}": content for part in "xy" for name, content in header.files.items()}
    return [Seed(both, ("x/train.jsonl", "x/prepared.json", "y/tokenizer.json"))]


def _corpora(scratch: Path) -> list[Seed]:
    """Return published corpora in small, as the tests of their recipes make them."""
    from tests import test_librispeech, test_recipe, test_recipes_corpora

    archives = {
        "an4": test_recipe._an4_archive(scratch / "an4.tar.gz"),
        "commonvoice": test_recipes_corpora.commonvoice(scratch / "cv.tar.gz"),
        "ljspeech": test_recipes_corpora.ljspeech(scratch / "lj.tar.bz2"),
        "speechocean762": test_recipes_corpora.speechocean(scratch / "so.tar.gz"),
        "tedlium3": test_recipes_corpora.tedlium(scratch / "ted.tgz"),
        "librispeech": scratch / "ls.tar.gz",
    }
    archives["librispeech"].write_bytes(test_librispeech.archive_of(scratch, "train-clean-100"))
    found = []
    for name, archive in archives.items():
        with tarfile.open(archive) as packed:
            extract(packed, scratch / "all" / name)
        seed = of_folder(scratch / "all" / name, _TEXTS_OF_CORPORA)
        found.append(
            Seed(
                {f"{name}/{path}": content for path, content in seed.files.items()},
                tuple(f"{name}/{path}" for path in seed.damaged),
            )
        )
    return found


_TEXTS_OF_CORPORA = (
    "*.csv",
    "*.tsv",
    "*.stm",
    "*.txt",
    "*.TXT",
    "*.json",
    "*.fileids",
    "*.transcription",
    "text",
    "wav.scp",
)


def _prepare_corpus(folder: Path) -> None:
    from asr.corpora.catalogue import find_recipe
    from asr.corpora.prepare import prepare
    from asr.corpora.recipe import Request

    (source,) = folder.iterdir()
    recipe, _ = find_recipe(source.name)
    (top,) = source.iterdir()
    prepare(recipe, Request(out=folder / "out", archive=(top,)))


# --- texts and scores -------------------------------------------------------------------------------------------------

_SUBTITLES = "1\n00:00:00,000 --> 00:00:01,500\n<i>a b</i>\n\n2\n00:00:02,000 --> 00:00:03,000\nab é\n"
_VTT = "WEBVTT\n\nNOTE x\n\n00:00.000 --> 00:01.500\n<v A>a <00:00:00.5>b\n\n00:02.000 --> 00:03.000\nab\n"
_STM = ";; x\nr1 1 s1 0.00 1.00 <o,f0,male> a b\n"
_STM += "r1 1 s1 1.00 2.00 <o,f0,male> ab (c)\nr2 A s2 0.0 1.0 ignore_time_segment_in_scoring\n"
_CTM = "r1 1 0.00 0.50 a 0.9\nr1 1 0.50 0.40 b 0.8\nr1 1 1.10 0.40 ab 0.7\n"


def _transcripts(scratch: Path) -> list[Seed]:
    plain = {"ref.txt": b"u1 a b\nu2 ab \xc3\xa9\nu3\n", "hyp.txt": b"u1 a b\nu2 ab\nu3 c\n"}
    row = [
        {"id": f"u{i}", "reference": "a b", "hypothesis": "a c", "speaker": f"s{i}", "duration_s": 1.5}
        for i in (1, 2, 3)
    ]
    whisper = {
        "text": " a b",
        "segments": [{"start": 0.0, "end": 1.0, "text": " a"}, {"start": 1.0, "end": 2.0, "text": "b"}],
    }
    several = {"transcripts": [{"path": "x/u1.wav", "text": "a", "channel": 1}, {"path": "u2.wav", "text": "b"}]}
    found = [
        {"ref.trn": "a b (s1-u1)\nab c (s1-u2)\n", "hyp.trn": "a b (s1-u1)\nab (s1-u2)\n"},
        {"ref.stm": _STM, "hyp.ctm": _CTM},
        {"ref.jsonl": lines(*row), "hyp.jsonl": lines(*row)},
        {"ref.json": lines(whisper), "hyp.srt": _SUBTITLES},
        {"ref.vtt": _VTT, "hyp.json": lines(whisper)},
        {"ref.txt": "u1-1 a\nu2 b\n", "hyp.json": lines(several)},
        {"ref.csv": 'id,text,speaker\nu1,a b,s\nu2,"ab""",s\n', "hyp.tsv": "path\ttext\nu1.wav\ta\nu2.wav\tab\n"},
        {"ref.txt": "0.0\t1.5\ta b\n1.5\t2.0\tc\n", "hyp.tsv": "start\tend\ttext\n0\t1500\ta b\n1500\t2000\tc\n"},
    ]
    texts = [{name: text.encode() for name, text in pair.items()} for pair in found]
    return [Seed(pair, tuple(pair)) for pair in (plain, *texts)]


def _score(folder: Path) -> None:
    from asr.scoring.files import compare_files, score_files

    (ref,), (hyp,) = folder.glob("ref.*"), folder.glob("hyp.*")
    calls = [
        lambda: score_files(ref, hyp)[0].per_utterance,
        lambda: score_files(ref, hyp, "upper", "sclite"),
        lambda: compare_files(ref, hyp, hyp),
    ]
    if ref.suffix == ".jsonl":
        calls.append(lambda: compare_files(None, ref, hyp))
    all_of(*calls)


def _align(folder: Path) -> None:
    from asr.align import align_text
    from asr.data.lines import whole_text

    tokenizer, log_probs_sv, clock = _spoken()
    text = whole_text(folder / "a.txt")
    options: Any = {"id_": "a", "path": "a.txt", "duration_s": 1.2}
    all_of(
        lambda: align_text(text, log_probs_sv, clock, tokenizer, "none", **options).to_json(),
        lambda: align_text(text, log_probs_sv, clock, tokenizer, "lower", **options, allow_gaps=True).to_json(),
    )


@cache
def _spoken() -> tuple[Any, Any, Any]:
    """Return a tokenizer, log-probabilities of 60 steps over it, and their times."""
    from asr.data.tokenizer import CharTokenizer

    tokenizer = CharTokenizer(tuple(" abcd"))
    logits_sv = np.random.default_rng(5).normal(0, 3, (60, tokenizer.vocabulary_size))
    log_probs_sv = (logits_sv - np.log(np.exp(logits_sv).sum(1, keepdims=True))).astype(np.float32)
    edge_s = np.arange(61) * 0.02
    return tokenizer, log_probs_sv, (edge_s[:-1], edge_s[1:])


def _texts(name: str, pack: Callable[[bytes], bytes] = bytes) -> Callable[[Path], list[Seed]]:
    return lambda scratch: [one(name, pack(TEXT.encode())), one(name, pack(b"a b\n\nab\r\n cd\n"))]


# --- language models --------------------------------------------------------------------------------------------------


def _count_text(folder: Path) -> None:
    from asr.lm import ngram
    from asr.lm.files import read_lines
    from asr.lm.neural import text

    (path,) = folder.glob("a*")
    all_of(
        lambda: ngram.perplexity(ngram.train(read_lines([path]), 2), read_lines([path])).to_json(),
        lambda: text.read(read_lines([path]), held_out=0.5),
    )


def _use_lm(folder: Path) -> None:
    from asr.decode.decoder import BeamDecoder
    from asr.decode.settings import BeamConfig
    from asr.lm import ngram
    from asr.lm.model import HashedModel

    (path,) = folder.glob("lm.*")
    if (
        path.read_bytes()[:5] == b"asr n"
    ):  # the checksum refuses all damage: made to fit, so that what is behind it is tried
        content = path.read_bytes()[:-8]
        path.write_bytes(content + zlib.crc32(content).to_bytes(8, "little"))
    model = ngram.load(path)
    tokenizer, log_probs_sv, _ = _spoken()

    def decode() -> None:
        config = BeamConfig(beam_width=8, nbest=3, alpha=0.5, confidence=True)
        BeamDecoder(tokenizer, config, model).decode(log_probs_sv)

    def write() -> None:
        for name in () if isinstance(model, HashedModel) else ("out.arpa", "out.bin"):
            ngram.write(model, folder / name)

    all_of(
        lambda: ngram.perplexity(model, TEXT.splitlines()).to_json(),
        lambda: model.score(["a", "ab", "x", "cd"]),
        decode,
        write,
    )


def _binary_lm(scratch: Path) -> list[Seed]:
    from asr.lm import ngram
    from asr.lm.arpa_reader import parse_arpa

    models = [parse_arpa(ARPA.encode(), "a.arpa"), ngram.train(TEXT.splitlines(), 3)]
    found = []
    for model in models:
        ngram.write(model, scratch / "lm.bin")
        found.append(one("lm.bin", (scratch / "lm.bin").read_bytes()))
    return found


def _kenlm(scratch: Path) -> list[Seed]:
    folder = Path(__file__).parent.parent / "data" / "kenlm"
    return [one("lm.bin", path.read_bytes()) for path in sorted(folder.glob("odd*.bin"))]


def _neural_lm(scratch: Path) -> list[Seed]:
    import torch

    from asr.data.tokenizer import CharTokenizer
    from asr.lm.neural.folder import save_rnn
    from asr.lm.neural.network import RnnConfig, RnnNetwork

    found = []
    for cell in ("lstm", "gru"):
        torch.manual_seed(1)
        network = RnnNetwork(RnnConfig(cell=cell, layers=1, hidden=6, embed=5, dropout=0), 6)
        save_rnn(scratch / cell, network, CharTokenizer(tuple(" abcd")), {"epochs": 1})
        found.append(of_folder(scratch / cell, ["*"]))
    return found


def _use_neural_lm(folder: Path) -> None:
    from asr import info
    from asr.lm.neural.folder import load_rnn
    from asr.lm.neural.network import sample

    model = load_rnn(folder)
    model.score_texts(["ab cd", "", "a"])
    sample(model, 1, temperature=0.8, prefix="", seed=1, longest=20)
    info.describe(str(folder))


# --- acoustic models and runs -----------------------------------------------------------------------------------------


def _models(scratch: Path) -> list[Seed]:
    from asr.files import write_json
    from tests.models import save_random_model

    found = []
    for name, more in (("gru", ()), ("tdnn", ("model.encoder=tdnn",))):
        folder = save_random_model(scratch / name, *seeds.settings(*more))
        rate = {"rate": 0.1, "low": 0.05, "high": 0.2}
        write_json(folder / "results.json", {"dev": {"wer": rate, "cer": rate, "utterances": 3}})
        found.append(of_folder(folder, ["*"]))
    return found


def _nemo_models(scratch: Path) -> list[Seed]:
    from tests.nemo_files import write_nemo

    return [one("a.nemo", write_nemo(scratch / "a.nemo", mode=mode).read_bytes()) for mode in ("w:", "w:gz")]


def _use_nemo_model(folder: Path) -> None:
    from asr.model.nemo import published

    model = published.load(f"nemo:{folder / 'a.nemo'}")
    model.network.each([np.zeros((9, model.extractor.num_bins), np.float32)])


def _use_model(folder: Path) -> None:
    from asr import info
    from asr.transcribe import Recognizer

    wave_n = np.sin(np.arange(6000) / 7).astype(np.float32) * 0.3
    all_of(
        lambda: info.describe(str(folder)),
        lambda: Recognizer.load(folder, "cpu", no_speech_threshold=1).transcribe(wave_n, 8000),
    )


def _tuned(scratch: Path) -> list[Seed]:
    from asr.decode.settings import BeamConfig
    from asr.decode.tuned import Rescore, Tuned, keep_lm, write_tuned
    from asr.lm.arpa_reader import parse_arpa

    seed = _models(scratch)[0]
    folder = scratch / "gru"
    (scratch / "neural").mkdir()
    _neural_lm(scratch / "neural")
    shutil.copytree(scratch / "neural" / "lstm", folder / "neural-lm")
    lm, size = keep_lm(folder, parse_arpa(ARPA.encode(), "a"), scratch / "a.arpa")
    config = BeamConfig(beam_width=8, nbest=4, alpha=0.5, hotwords={"ab": 2.0}, lexicon=("ab", "a", "cd"))
    found = []
    for rescore in (None, Rescore(model="neural-lm", nbest=4)):
        write_tuned(folder, Tuned(config=config, lm=lm, lm_bytes=size, rescore=rescore, tuning={"wer": 0.1}))
        found.append(of_folder(folder, ["decoder.json"]))
    assert seed.damaged
    return found


def _runs(scratch: Path) -> list[Seed]:
    from asr.train import train

    data = seeds.corpus(scratch)
    train(seeds.run_config(), data, scratch / "run")
    (scratch / "data" / "train.log").unlink(missing_ok=True)
    whole = of_folder(scratch, ["*.json", "*.jsonl", "*.safetensors", "config.yaml"])
    return [Seed(whole.files, tuple(name for name in whole.damaged if name.startswith("run/")))]


class _Enough(AsrError):
    """Training would begin now."""


def _resume(folder: Path) -> None:
    import asr.train

    def no_epoch(*args: object) -> None:
        raise _Enough("training would begin")

    epoch, asr.train.train_epoch = asr.train.train_epoch, no_epoch  # type: ignore[assignment]
    try:
        asr.train.resume(folder / "run", folder / "data")
    finally:
        asr.train.train_epoch = epoch


# --- downloads --------------------------------------------------------------------------------------------------------

_CONTENT = b"content\n" * 100
_ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nETag: "one"\r\nContent-Length: 800\r\n\r\n'
    + _CONTENT
)
_REST = _ANSWER.replace(b"200 OK", b"206 Partial Content").replace(b"800", b"400\r\nContent-Range: bytes 400-799/800")


def _downloads(scratch: Path) -> list[Seed]:
    state = {"url": "http://127.0.0.1/x/file.bin", "size": 800, "etag": '"one"', "date": ""}
    resumed = {
        "file.bin.part": _CONTENT[:400],
        "file.bin.part.json": lines(state).encode(),
        "answer.http": _REST[:-400],
    }
    return [one("answer.http", _ANSWER), Seed(resumed, ("file.bin.part.json", "answer.http"))]


def _download(folder: Path) -> None:
    from asr.download.fetch import Patience, fetch
    from asr.download.remote import Remote

    answer = (folder / "answer.http").read_bytes()
    state = folder / "file.bin.part.json"
    with _answering(answer) as port:
        if state.exists():  # the port is another one each time
            state.write_bytes(state.read_bytes().replace(b"127.0.0.1", f"127.0.0.1:{port}".encode()))
        remote = Remote(f"http://127.0.0.1:{port}/x/file.bin", size=len(_CONTENT))
        patience = Patience(timeout_s=1, tries_at_first=1, tries=1, pause_s=0, longest_pause_s=0)
        path = fetch(remote, folder, patience=patience)
        assert path.stat().st_size == len(_CONTENT)


@contextmanager
def _answering(content: bytes) -> Iterator[int]:
    """Answer every connection with these bytes, whatever is asked, while the block runs; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1 << 16)
                        with suppress(OSError):
                            connection.sendall(content)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)


# --- all of them ------------------------------------------------------------------------------------------------------

_PCM = "PCM_16"

TARGETS = (
    Target(
        "manifest",
        lambda scratch: [Seed(with_audio(train__jsonl=lines(*seeds.rows())).files, ("train.jsonl",))],
        _read_manifest,
    ),
    Target("prepared", _headers, _read_header),
    Target("tokenizer-char", partial(_tokenizers, "char"), _read_tokenizer),
    Target("tokenizer-subword", partial(_tokenizers, "subword"), _read_tokenizer),
    Target("config", _configs, _read_config),
    Target("shards", _shards, _read_shards),
    *(
        Target(
            f"archive-{kind}",
            lambda scratch, kind=kind: [one(f"a.{kind}", seeds.packed(kind))],
            partial(_extract, kind),
        )
        for kind in ("tar", "gz", "xz", "bz2")
    ),
    Target(
        "sound-wav",
        _sounds(
            *(
                ("a.wav", "WAV", kind, 1 + i % 2)
                for i, kind in enumerate((_PCM, "FLOAT", "ULAW", "IMA_ADPCM", "GSM610"))
            )
        ),
        _hear,
    ),
    Target("sound-rf64", _sounds(("a.rf64", "RF64", _PCM, 1), ("a.w64", "W64", _PCM, 2)), _hear),
    Target(
        "sound-aiff",
        _sounds(("a.aiff", "AIFF", _PCM, 1), ("a.caf", "CAF", _PCM, 2), ("a.caf", "CAF", "ALAC_16", 1)),
        _hear,
    ),
    Target("sound-au", _sounds(("a.au", "AU", "ULAW", 1), ("a.voc", "VOC", _PCM, 1)), _hear),
    Target("sound-sphere", lambda scratch: [one("a.sph", sphere_bytes(sine(0.4)))], _hear),
    Target("sound-flac", _sounds(("a.flac", "FLAC", _PCM, 1), ("a.flac", "FLAC", "PCM_24", 2)), _hear),
    Target("sound-ogg", _sounds(("a.ogg", "OGG", "VORBIS", 1), ("a.opus", "OGG", "OPUS", 2)), _hear),
    Target("sound-mp3", _sounds(("a.mp3", "MP3", "MPEG_LAYER_III", 1), ("a.mp3", "MP3", "MPEG_LAYER_III", 2)), _hear),
    Target("sound-ffmpeg", _ffmpeg_sounds, _hear, program="ffmpeg"),
    Target("kaldi", _kaldi, partial(_prepare, "kaldi", "")),
    Target("nemo", _nemo, partial(_prepare, "nemo", "a.jsonl")),
    Target("csv", _tables("a.csv"), partial(_prepare, "csv", "a.csv")),
    Target("tsv", _tables("a.tsv"), partial(_prepare, "csv", "a.tsv")),
    Target("folder", _folder, partial(_prepare, "folder", "in")),
    Target("combined", _prepared_folders, _combine),
    Target("corpora", _corpora, _prepare_corpus),
    Target("score", _transcripts, _score),
    Target("align-text", _texts("a.txt"), _align, kernels=True),
    Target("lm-text", _texts("a.txt"), _count_text, kernels=True),
    Target("lm-text-gzip", _texts("a.txt.gz", lambda data: gzip.compress(data, mtime=0)), _count_text),
    Target("arpa", lambda scratch: [one("lm.arpa", ARPA)], _use_lm, kernels=True),
    Target("arpa-gzip", lambda scratch: [one("lm.arpa.gz", gzip.compress(ARPA.encode(), mtime=0))], _use_lm),
    Target("lm-binary", _binary_lm, _use_lm, kernels=True),
    Target("lm-kenlm", _kenlm, _use_lm, kernels=True),
    Target("neural-lm", _neural_lm, _use_neural_lm),
    Target("model", _models, _use_model, kernels=True),
    Target("nemo-model", _nemo_models, _use_nemo_model),
    Target("decoder", _tuned, _use_model, kernels=True),
    Target("run", _runs, _resume),
    Target("download", _downloads, _download),
)
