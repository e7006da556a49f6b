"""The server as OpenAI's official client uses it."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.transcribe import Failure, Recognizer
from tests.builders import tones, write_wav
from tests.models import save_random_model
from tests.serving import serving, wait_until

pytest.importorskip("starlette", reason="needs the extra 'server'")
openai = pytest.importorskip("openai", reason="needs OpenAI's client")

from asr.server.errors import busy  # noqa: E402
from asr.server.host import Host  # noqa: E402
from asr.server.settings import Settings  # noqa: E402

KEY = "a-key-of-our-own-0123"
TEXTS = ("abcd dcba", "a b", "d", "cab cab cab cab cab", "bad")


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory) -> Recognizer:
    folder = save_random_model(tmp_path_factory.mktemp("models") / "gru")
    return Recognizer.load(folder, "cpu", no_speech_threshold=1)  # tones are no speech


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(3)
    return [write_wav(folder / f"{number}.wav", tones(text, rng)) for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def address(recognizer):
    hosts = {"gru": Host("gru", recognizer, language="en"), "other": Host("other", recognizer)}
    with serving(hosts, Settings(keys=(KEY,))) as url:
        yield url


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def create(client, sounds):
    def create(**fields):
        return client.audio.transcriptions.create(**{"model": "gru", "file": sounds[0], **fields})

    return create


@pytest.fixture(scope="module")
def known(recognizer, sounds):
    return [recognizer.transcribe(path) for path in sounds]


def refusal(error: type[Exception], call, **fields):
    with pytest.raises(error) as caught:
        call(**fields)
    return caught.value


def test_the_text_is_what_transcribe_gives_from_a_path_a_file_bytes_and_a_tuple(create, sounds, known):
    assert known[0].text
    content = sounds[0].read_bytes()
    for file in (sounds[0], sounds[0].open("rb"), content, ("x.webm", content, "audio/webm"), io.BytesIO(content)):
        assert create(file=file).text == known[0].text


def test_the_async_client_gets_the_same_texts_from_requests_at_once(address, sounds, known):
    async def all_of() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
            calls = [client.audio.transcriptions.create(model="gru", file=sound) for sound in sounds * 3]
            return [each.text for each in await asyncio.gather(*calls)]

    assert asyncio.run(all_of()) == [each.text for each in known] * 3


def test_json_states_the_length_of_the_audio(create, known):
    assert create().usage.seconds == pytest.approx(known[0].duration_s, abs=1e-3)


def test_logprobs_are_the_logs_of_the_words_confidences(create, known):
    got = [(entry.token, entry.logprob) for entry in create(include=["logprobs"]).logprobs]
    assert got == [(word.word, pytest.approx(np.log(word.confidence), abs=1e-3)) for word in known[0].words]


def test_text_is_the_text_and_a_line_feed(create, known):
    assert create(response_format="text") == known[0].text + "\n"


def test_subtitles_are_those_of_the_command(create, known):
    from asr.outputs import render

    assert create(response_format="srt") == render(known[0], "srt")
    assert create(response_format="vtt") == render(known[0], "vtt")


def test_verbose_json_has_words_and_segments_where_asked_for(create, known):
    both = create(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert both.text == known[0].text and both.language == "en"
    assert [word.word for word in both.words] == [word.word for word in known[0].words]
    assert [word.start for word in both.words] == pytest.approx([w.start_s for w in known[0].words], abs=1e-3)
    assert [segment.text.strip() for segment in both.segments] == [each.text for each in known[0].segments]
    assert 0 <= both.segments[0].no_speech_prob <= 1
    assert create(response_format="verbose_json").words is None
    assert create(response_format="verbose_json", timestamp_granularities=["word"]).segments is None


def test_a_language_that_nobody_stated_is_left_out(create):
    assert "language" not in create(model="other", response_format="verbose_json").model_dump(exclude_unset=True)


def test_diarized_json_takes_the_channels_for_speakers(create, recognizer, sounds, tmp_path):
    waves = [soundfile.read(path, dtype="float32")[0] for path in sounds[:2]]
    both_nc = np.zeros((max(map(len, waves)), 2), np.float32)
    for channel, wave_n in enumerate(waves):
        both_nc[: len(wave_n), channel] = wave_n
    soundfile.write(tmp_path / "call.wav", both_nc, 16000)
    wanted = [recognizer.transcribe(both_nc[:, channel], 16000).text for channel in (0, 1)]

    got = create(file=tmp_path / "call.wav", response_format="diarized_json", chunking_strategy="auto")
    for speaker, text in zip("AB", wanted, strict=True):
        assert " ".join(segment.text for segment in got.segments if segment.speaker == speaker) == text
    assert sorted(got.segments, key=lambda segment: segment.start) == got.segments


def test_events_add_up_to_the_text(create, known):
    events = list(create(stream=True, include=["logprobs"]))
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * len(known[0].segments)
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == known[0].text
    assert events[-1].type == "transcript.text.done"
    assert len(events[-1].logprobs) == len(known[0].words)


def test_the_events_of_a_long_recording_come_while_it_is_transcribed(create, recognizer, tmp_path):
    rng = np.random.default_rng(0)
    pause_n = 0.001 * rng.standard_normal(40_000).astype(np.float32)
    waves = [part_n for _ in range(30) for part_n in (tones("abcd dcba abba", rng), pause_n)]
    path = write_wav(tmp_path / "long.wav", np.concatenate(waves))
    told = []
    results = recognizer.transcribe_all([path], tell=lambda number, passage: told.append((number, passage.text)))
    (wanted,) = results
    assert len(told) > 3 and wanted.text.startswith(" ".join(text for _, text in told))

    events = list(create(file=path, stream=True))
    assert len(events) == len(wanted.segments) + 1
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == wanted.text


def test_a_recording_that_fails_gets_a_status_also_as_events(create):
    assert refusal(openai.BadRequestError, create, file=("a.wav", b"none"), stream=True).code == "invalid_audio"


def test_a_recording_that_fails_in_the_middle_ends_with_an_error(recognizer, sounds):
    class Failing:
        decoder, model = recognizer.decoder, recognizer.model

        def transcribe_all(self, sources, tell, **options):
            tell(0, recognizer.transcribe(sounds[0]))
            return iter([Failure(str(sources[0].source), f"{sources[0].source}: cut")])

    with serving({"gru": Host("gru", Failing())}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        events = client.audio.transcriptions.create(model="gru", file=sounds[0], stream=True)
        assert next(events).delta
        assert refusal(openai.APIError, lambda: list(events)).message == "0.wav: cut"


def test_the_async_client_reads_events(address, sounds, known):
    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
            stream = await client.audio.transcriptions.create(model="gru", file=sounds[1], stream=True)
            return [event async for event in stream][-1].text

    assert asyncio.run(text()) == known[1].text


def test_diarized_events_are_segments(create, known):
    *segments, done = list(create(stream=True, response_format="diarized_json"))
    assert {(event.type, event.speaker) for event in segments} == {("transcript.text.segment", "A")}
    assert done.text == known[0].text


def test_hotwords_change_the_text_as_the_command_does(create, recognizer, sounds):
    expecting = recognizer.with_decoder(recognizer.decoder.with_hotwords({"dab": 30.0}))
    wanted = expecting.transcribe(sounds[1]).text
    assert wanted != recognizer.transcribe(sounds[1]).text
    assert create(file=sounds[1], extra_body={"hotwords": ["dab:30"]}).text == wanted


def test_keywords_are_hotwords(create, recognizer, sounds):
    expecting = recognizer.with_decoder(recognizer.decoder.with_hotwords({"dab": 10.0}))
    assert create(file=sounds[1], keywords=["dab"]).text == expecting.transcribe(sounds[1]).text


def test_hotwords_are_refused_where_greedy_decoding_was_asked_for(recognizer, sounds):
    plain = Recognizer(recognizer.model)
    with serving({"gru": Host("gru", plain)}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        create = client.audio.transcriptions.create
        error = refusal(openai.BadRequestError, create, model="gru", file=sounds[0], keywords=["dab"])
        assert error.param == "hotwords"
        assert client.models.retrieve("gru").hotwords is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "about cabs"}, "prompt"),
        ({"temperature": 0.2}, "temperature"),
        ({"language": "de"}, "language"),
        ({"model": "other", "language": "en"}, "language"),
        ({"languages": ["de", "fr"]}, "language"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 0.5}}, "chunking_strategy"),
        ({"known_speaker_names": ["agent"]}, "known_speaker_names"),
        ({"known_speaker_references": ["data:audio/wav;base64,AAAA"]}, "known_speaker_references"),
        ({"response_format": "mp3"}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"response_format": "text", "include": ["logprobs"]}, "include"),
        ({"response_format": "srt", "stream": True}, "stream"),
        ({"extra_body": {"vad_filter": True}}, "vad_filter"),
        ({"keywords": ["xylophone"]}, "hotwords"),
        ({"extra_body": {"hotwords": ["a:loud"]}}, "hotwords"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(create, fields, param):
    error = refusal(openai.BadRequestError, create, **fields)
    assert (error.status_code, error.param) == (400, param)
    assert param in error.message


def test_what_is_done_anyway_may_be_asked_for(create, known):
    assert create(language="en-GB", temperature=0, prompt="", chunking_strategy="auto").text == known[0].text


def test_an_unknown_model_is_not_found(create):
    error = refusal(openai.NotFoundError, create, model="whisper-1")
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "gru, other" in error.message


@pytest.mark.parametrize("content", [b"", b"RIFFxxxx", b"not audio at all" * 100, bytes(5000)])
def test_what_is_no_audio_is_refused_under_the_clients_name(create, content):
    error = refusal(openai.BadRequestError, create, file=("a talk.wav", content))
    assert error.code in ("invalid_audio",) and error.param == "file"
    assert "/tmp" not in error.message and "upload-" not in error.message


def test_cut_audio_is_transcribed_as_far_as_it_goes_and_said_so(client, sounds):
    content = sounds[0].read_bytes()
    raw = client.audio.transcriptions.with_raw_response
    answer = raw.create(model="gru", file=("a.wav", content[: len(content) // 2]), response_format="verbose_json")
    assert "truncated" in answer.headers["x-truncated"] or "cut" in answer.headers["x-truncated"]
    assert json.loads(answer.text)["truncated"] == answer.headers["x-truncated"]


def test_a_wrong_key_is_refused_and_not_tried_again(address, sounds):
    for key in ("wrong", KEY + "x", KEY[:-1]):
        with openai.OpenAI(base_url=f"{address}/v1", api_key=key) as client:
            error = refusal(openai.AuthenticationError, client.audio.transcriptions.create, model="gru", file=sounds[0])
            assert error.code == "invalid_api_key"


def test_a_client_that_is_told_to_come_again_does_and_others_do_not(recognizer, sounds):
    class Busy(Host):
        refusals = 1

        async def transcribe(self, *asked, **options):
            if self.refusals:
                self.refusals -= 1
                raise busy("come again")
            return await super().transcribe(*asked, **options)

    settings = Settings(max_upload=1 << 20)
    with (
        serving({"gru": Busy("gru", recognizer)}, settings) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=2) as client,
    ):
        create = client.audio.transcriptions.create
        assert create(model="gru", file=sounds[0]).text == recognizer.transcribe(sounds[0]).text
        too_large = refusal(openai.APIStatusError, create, model="gru", file=("a.wav", bytes(3 << 20)))
        assert (too_large.status_code, too_large.code) == (413, "file_too_large")
        refusal(openai.BadRequestError, create, model="gru", file=("a.wav", b"none"))
        # A request is counted when it has ended: the refused one, once its body was read or given up.
        wait_until(lambda: len(statuses(url)) == 4)
        assert statuses(url) == {"200": "1", "400": "1", "413": "1", "429": "1"}


def statuses(url: str) -> dict[str, str]:
    """How often each status was the answer to a transcription."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        return dict(re.findall(r'transcriptions",status="(\d+)"} (\d+)', answer.read().decode()))


def test_models_are_listed_and_described(client):
    assert [model.id for model in client.models.list()] == ["gru", "other"]
    found = client.models.retrieve("gru")
    assert (found.id, found.object, found.owned_by) == ("gru", "model", "asr")
    assert found.hotwords is True and found.sample_rate_hz == 16000
    assert refusal(openai.NotFoundError, client.models.retrieve, model="whisper-1").code == "model_not_found"


def test_the_folders_of_the_server_are_its_own(recognizer):
    decoder = dataclasses.replace(recognizer.decoder, lm="/srv/of/ours/3gram.arpa")
    hosts = {"gru": Host("gru", Recognizer(recognizer.model, decoder))}
    with serving(hosts) as url, urllib.request.urlopen(f"{url}/v1/models/gru") as answer:
        described = answer.read().decode()
    assert json.loads(described)["language_model"] == "3gram.arpa" and "/srv" not in described
