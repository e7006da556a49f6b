"""The page of egs/browser, in Chromium: sound from a file or a WAV as microphone, and everything that can go wrong.

Most of it runs a graph that hears tones, of which every step is known; one test runs a model as it is exported.
"""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr import Recognizer
from asr.data.pieces import PieceTokenizer
from asr.data.tokenizer import CharTokenizer
from asr.decode.greedy import greedy, words_with_times
from tests.builders import noise, sine, tones, write_wav
from tests.chromium import Browser, Page, chromium, find_chromium
from tests.models import save_random_model

PAGE = Path(__file__).parents[1] / "egs" / "browser"

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra: onnx)")
if find_chromium() is None:
    pytest.skip("no Chromium: install it, or name the program with CHROMIUM", allow_module_level=True)
if not (PAGE / "vendor" / "VERSION").is_file():
    pytest.skip("onnxruntime-web is not there: run egs/browser/fetch.sh", allow_module_level=True)

RATE_HZ = 16000
STEP_N = 640  # samples of a step: 40 ms
TOKENS = ["", "▁on", "e", "▁two", "▁three"]
#: what is heard as each token but the blank
TONES_HZ = (500, 1000, 1500, 2000)
WORDS = "one two three two"

RECORD = "document.getElementById('record')"
TEXT = "document.getElementById('text').textContent"
ERROR = "document.getElementById('error').textContent"
ROWS = "[...document.querySelectorAll('#rows tr')].map(row => [...row.cells].map(cell => cell.textContent))"
READY = f"!{RECORD}.disabled && {RECORD}.textContent === 'Record'"
ANSWERED = f"({READY}) && ({TEXT} || {ERROR})"


def tones_model(inputs: tuple[str, str] = ("samples", "num_samples"), **metadata: str) -> bytes:
    """A graph whose token at each step is the tone in it, as a folder that 'asr export --features' wrote has it."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    angle_kn = 2 * np.pi * np.outer(TONES_HZ, np.arange(STEP_N)) / RATE_HZ
    constants = {
        "kernels": np.concatenate([np.cos(angle_kn), np.sin(angle_kn)])[:, None],
        "quiet": np.full((1, 1), STEP_N / 10),  # the blank's energy
        "axis": np.array([1]),
        "step": np.array(STEP_N),
    }
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    nodes = [
        helper.make_node("Unsqueeze", [inputs[0], "axis"], ["wave"]),
        helper.make_node("Conv", ["wave", "kernels"], ["parts"], strides=[STEP_N]),
        helper.make_node("Mul", ["parts", "parts"], ["squares"]),
        helper.make_node("Split", ["squares"], ["real", "imaginary"], axis=1),
        helper.make_node("Add", ["real", "imaginary"], ["energies"]),
        # the blank's row: as long as the others, of one value
        helper.make_node("ReduceSum", ["energies", "axis"], ["all"], keepdims=1),
        helper.make_node("Sub", ["all", "all"], ["none"]),
        helper.make_node("Add", ["none", "quiet"], ["blank"]),
        helper.make_node("Concat", ["blank", "energies"], ["tokens"], axis=1),
        helper.make_node("Transpose", ["tokens"], ["steps"], perm=[0, 2, 1]),
        helper.make_node("LogSoftmax", ["steps"], ["log_probs"], axis=-1),
        helper.make_node("Div", [inputs[1], "step"], ["num_steps"]),
    ]
    stored = [
        numpy_helper.from_array(value.astype(np.int64 if name in ("axis", "step") else np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "tones",
        [
            helper.make_tensor_value_info(inputs[0], floats, ["b", "n"]),
            helper.make_tensor_value_info(inputs[1], integers, ["b"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", floats, ["b", "s", len(TOKENS)]),
            helper.make_tensor_value_info("num_steps", integers, ["b"]),
        ],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    facts = {"sample_rate_hz": str(RATE_HZ), "tokens": json.dumps(TOKENS), "stride": "4", "hop_s": "0.01"}
    helper.set_model_props(model, facts | metadata)
    return bytes(model.SerializeToString())


def spoken(rate_hz: int = RATE_HZ) -> np.ndarray:
    """The words as tones, with pauses: 'one two three two'."""
    hz = {0: 0.0, **dict(enumerate(TONES_HZ, start=1))}
    tokens = [0, 0, 1, 2, 0, 3, 0, 4, 0, 3, 0, 0]
    return np.concatenate([sine(2 * STEP_N / RATE_HZ, hz[t], rate_hz) for t in tokens])


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files as 'python -m http.server' does, and is silent about it."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is served; each folder in it is a page with a model of its own."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    with chromium(folder / "profile", write_wav(folder / "microphone.wav", spoken())) as started:
        yield started


@pytest.fixture(scope="module")
def hears_tones(root: Path, address: str) -> str:
    """The address of a page that hears tones."""
    return place(root / "tones", address, tones_model())


@pytest.fixture(scope="module")
def page(browser: Browser, hears_tones: str) -> Iterator[Page]:
    """That page, open: what one test does to it is nothing to the next."""
    with browser.page(hears_tones) as opened:
        opened.wait(READY)
        yield opened


def place(folder: Path, address: str, model: bytes | None, without: str = "") -> str:
    """Makes a copy of the page with a model; its address."""
    (folder / "model").mkdir(parents=True)
    for path in PAGE.iterdir():
        if path.name not in ("model", without):
            (folder / path.name).symlink_to(path)
    if model is not None:
        (folder / "model" / "model.onnx").write_bytes(model)
    return f"{address}/{folder.name}/"


def recognise(page: Page, path: Path) -> tuple[str, str]:
    """The text of a file, and the error."""
    page.do("document.getElementById('text').textContent = document.getElementById('error').textContent = ''")
    page.choose("#file", path)
    page.wait(ANSWERED)
    return page.do(TEXT), page.do(ERROR)


def record(page: Page) -> tuple[str, str]:
    """The text of the microphone, with the keyboard alone; and the error."""
    page.do("document.getElementById('text').textContent = document.getElementById('error').textContent = ''")
    page.do(f"{RECORD}.focus()")
    page.press("Enter")
    if page.wait(f"{RECORD}.textContent === 'Stop' || {ERROR}") is True:
        page.wait("document.getElementById('seconds').textContent === '1 s'")
        page.press("Space")
        page.wait(ANSWERED)
    return page.do(TEXT), page.do(ERROR)


def test_a_file_becomes_words_with_times_and_nothing_else_is_asked_for(browser, hears_tones, tmp_path):
    with browser.page(hears_tones) as page:
        page.wait(READY)
        assert recognise(page, write_wav(tmp_path / "a.wav", spoken())) == (WORDS, "")
        assert page.do(ROWS) == [
            ["one", "0.16", "0.32"],
            ["two", "0.40", "0.48"],
            ["three", "0.56", "0.64"],
            ["two", "0.72", "0.80"],
        ]
        assert any(url.endswith(".wasm") for url in page.asked)  # the worker's requests are among them
        assert not [url for url in page.asked if not url.startswith((hears_tones, "blob:"))]
        assert not page.logged


def test_neither_the_page_nor_its_worker_reaches_another_address(page, address):
    elsewhere = address.replace("localhost", "127.0.0.1")  # another origin, same server
    ask = "fetch('{}/tones/', {{mode: 'no-cors'}}).then(() => 'reached', (error) => error.name)"
    (worker,) = page.workers
    for place in (None, worker):
        assert page.do(ask.format(elsewhere), place) == "TypeError"
        assert page.do(ask.format(address), place) == "reached"


def test_a_file_at_another_rate_with_two_channels_gives_the_same_words(page, tmp_path):
    wave_n = spoken(44100)
    soundfile.write(tmp_path / "a.flac", np.stack([2 * wave_n, np.zeros_like(wave_n)], axis=1), 44100)
    assert recognise(page, tmp_path / "a.flac") == (WORDS, "")


def test_a_wav_as_microphone_gives_the_same_words_by_keyboard_alone(browser, hears_tones):
    with browser.page(hears_tones) as page:
        page.wait(READY)
        assert record(page) == (WORDS, "")
        assert page.do("document.activeElement.id") == "record"  # the focus has not been lost


def test_a_microphone_that_keeps_its_own_rate_gives_the_same_words(browser, hears_tones):
    as_firefox = """
        const create = AudioContext.prototype.createMediaStreamSource;
        AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (this.sampleRate === 16000) throw new DOMException("another rate", "NotSupportedError");
            window.ownRate = this.sampleRate;
            return create.call(this, stream);
        };
    """
    with browser.page(hears_tones, before=as_firefox) as page:
        page.wait(READY)
        assert record(page) == (WORDS, "")
        assert page.do("window.ownRate") > RATE_HZ


@pytest.mark.parametrize(
    ("thrown", "said"),
    [
        ("NotFoundError", "There is no microphone"),
        ("NotAllowedError", "The microphone is not allowed"),
        ("NotReadableError", "in use by another program"),
        ("AbortError", "does not start (AbortError)"),
    ],
)
def test_a_microphone_that_cannot_be_had_is_one_line(page, thrown, said):
    page.do(f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{thrown}') }}; 0")
    text, error = record(page)
    assert said in error
    assert text == ""
    page.do("delete navigator.mediaDevices.getUserMedia")


def test_a_page_that_is_not_given_microphones_says_why(page):
    page.do("Object.defineProperty(navigator, 'mediaDevices', {value: undefined, configurable: true}); 0")
    text, error = record(page)
    assert "from https:// or localhost only" in error
    assert text == ""
    page.do("delete navigator.mediaDevices")


def test_audio_that_does_not_start_is_one_line(browser, hears_tones):
    never = """
        AudioContext.prototype.resume = () => new Promise(() => {});
        const later = window.setTimeout;
        window.setTimeout = (action, ms, ...values) => later(action, ms / 50, ...values);
    """
    with browser.page(hears_tones, before=never) as page:
        page.wait(READY)
        text, error = record(page)
        assert "audio does not start" in error
        assert text == ""


def test_a_muted_microphone_is_one_line(page):
    page.do("""
        const silence = new AudioContext().createMediaStreamDestination().stream;
        navigator.mediaDevices.getUserMedia = async () => silence; 0
    """)
    text, error = record(page)
    assert "silence only" in error
    assert text == ""
    page.do("delete navigator.mediaDevices.getUserMedia")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.wav", b"", "empty.wav is empty"),
        ("notes.txt", b"no sound at all", "notes.txt: the browser reads no sound"),
        ("short.wav", np.zeros(800), "at least 0.1 s"),
        ("long.wav", np.zeros(301 * RATE_HZ // 2), "long.wav is too long"),
        ("broken.wav", np.array([np.nan] * RATE_HZ), "not numbers"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_and_the_next_one_works(page, tmp_path, name, content, said):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, RATE_HZ // 2 if name == "long.wav" else RATE_HZ, "FLOAT")
    text, error = recognise(page, path)
    assert said in error
    assert text == ""
    assert recognise(page, write_wav(tmp_path / "good.wav", spoken())) == (WORDS, "")


def test_silence_and_noise_say_that_no_words_were_heard(page, tmp_path):
    assert recognise(page, write_wav(tmp_path / "a.wav", noise(amplitude=0.001))) == ("No words were heard.", "")
    assert page.do("document.getElementById('words').hidden")


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("missing", None, "There is no model/model.onnx beside this page"),
        ("text", b"no model", "is not a model that 'asr export' wrote"),
        ("cut", tones_model()[:1000], "is not a model that 'asr export' wrote"),
        ("silent", tones_model(tokens="many"), "is not a model that 'asr export' wrote"),
        ("features", tones_model(("features", "num_frames")), "--features"),
        ("streaming", tones_model(("samples", "state_0")), "without --streaming"),
        ("runtime", tones_model(), "run egs/browser/fetch.sh"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(browser, root, address, name, model, said):
    url = place(root / name, address, model, without="vendor" if name == "runtime" else "")
    with browser.page(url) as page:
        assert said in page.wait(ERROR)
        assert page.do(f"{RECORD}.disabled")
        assert page.do("document.getElementById('progress').hidden")


def test_every_control_has_a_name_and_the_page_fits_a_narrow_dark_screen(page, tmp_path):
    assert recognise(page, write_wav(tmp_path / "a.wav", spoken())) == (WORDS, "")
    named = {
        (node["role"]["value"], node["name"]["value"])
        for node in page.call("Accessibility.getFullAXTree")["nodes"]
        if node.get("name", {}).get("value")
    }
    assert ("button", "Record") in named
    assert any("choose a sound file" in name for role, name in named if role == "button")
    assert ("table", "Words with their times in seconds") in named

    light = page.do("getComputedStyle(document.body).backgroundColor")
    screen: dict[str, Any] = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", screen)
    page.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert page.do("document.documentElement.scrollWidth") <= 320
    assert page.do("getComputedStyle(document.body).backgroundColor") != light
    page.call("Emulation.clearDeviceMetricsOverride")
    page.call("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("tokenizer", [CharTokenizer(("a", "b", " ")), PieceTokenizer(("▁a", "b", "▁", "▁cd"))])
def test_words_and_times_are_those_of_the_toolkit(page, tokenizer):
    rng = np.random.default_rng(7)
    steps, step_s = 200, 0.04
    log_probs_sv = np.log(rng.dirichlet(np.full(tokenizer.vocabulary_size, 0.3), steps)).astype(np.float32)
    log_probs_sv[::9] = -np.log(tokenizer.vocabulary_size)  # ties
    expected = words_with_times(greedy(log_probs_sv, tokenizer), tokenizer, step_s)
    found = page.do(f"""import("./decode.js").then(({{ bestPath, wordsOf }}) => {{
        const spans = bestPath({log_probs_sv.ravel().tolist()}, {steps}, {tokenizer.vocabulary_size});
        return wordsOf(spans, {json.dumps(["", *tokenizer.symbols])}, {step_s}, {steps * step_s});
    }})""")
    assert [(word["word"], word["start"], word["end"]) for word in found] == [
        (w.word, w.start_s, w.end_s) for w in expected
    ]
    assert len(expected) > 20


def test_an_exported_model_gives_the_text_of_the_toolkit(browser, root, address, tmp_path):
    export = pytest.importorskip("asr.model.onnx.export")
    model = save_random_model(tmp_path / "model")
    export.export_model(model, tmp_path / "exported", features=True)
    url = place(root / "exported", address, (tmp_path / "exported" / "model.onnx").read_bytes())

    rng = np.random.default_rng(3)
    files = [tmp_path / f"{text}.wav" for text in ("abcd dab bad", "cab d a", "dad abba")]
    for path in files:  # as floats: of 16 bits, browsers divide positive samples by 32,767, negative ones by 32,768
        soundfile.write(path, tones(path.stem, rng), RATE_HZ, "FLOAT")
    recognizer = Recognizer.load(model, precision="fp32")
    expected = [recognizer.transcribe(path) for path in files]
    assert len({transcript.text for transcript in expected}) == len(files)
    with browser.page(url) as page:
        page.wait(READY)
        for path, transcript in zip(files, expected, strict=True):
            assert recognise(page, path) == (transcript.text, "")
            times = [[word.word, f"{word.start_s:.2f}", f"{word.end_s:.2f}"] for word in transcript.words]
            assert page.do(ROWS) == times
