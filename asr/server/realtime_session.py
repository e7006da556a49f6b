"""Read the configuration of a Realtime session; what cannot be honoured is refused by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from asr.errors import AsrError, ConfigError, nearest
from asr.recordings.arrays import check_rate
from asr.server.errors import ApiError
from asr.server.forms import check_language
from asr.server.host import Host, find_host
from asr.streaming.results import Rules

#: names of formats, and of their encodings here; telephones have one rate
_ENCODINGS = {"audio/pcm": "linear16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_RATE_HZ, _TELEPHONE_HZ = 24000, 8000
#: of a turn in OpenAI's API, where the client says nothing else
_SILENCE_MS = 500
#: values of fields that we cannot honour, which ask for nothing: OpenAI's defaults
_DEFAULTS = {"threshold": 0.5, "prefix_padding_ms": 300, "create_response": False, "interrupt_response": False}
#: the field with words to expect
KEYWORDS = "session.audio.input.transcription.keywords"
_LOGPROBS = "item.input_audio_transcription.logprobs"


@dataclass(frozen=True)
class Config:
    """Hold the configuration of a session; ``has_turns``: a pause ends an item (``server_vad``)."""

    model: str
    language: str = ""
    #: words to expect, as they were written
    keywords: tuple[str, ...] = ()
    encoding: str = "linear16"
    rate_hz: int = _RATE_HZ
    has_turns: bool = True
    silence_ms: int = _SILENCE_MS
    logprobs: bool = False

    @property
    def rules(self) -> Rules:
        """Return when passages end. Without turns they do so to bound the memory, and nobody sees it."""
        return Rules(pause_s=self.silence_ms / 1000) if self.has_turns else Rules()


def document(config: Config, session_id: str) -> dict[str, Any]:
    """Return a configuration as OpenAI's session object."""
    names = {encoding: name for name, encoding in _ENCODINGS.items()}
    form: dict[str, Any] = {"type": names[config.encoding]}
    if config.encoding == "linear16":
        form["rate"] = config.rate_hz
    transcription: dict[str, Any] = {"model": config.model}
    if config.language:
        transcription["language"] = config.language
    if config.keywords:
        transcription["keywords"] = list(config.keywords)
    turns = {"type": "server_vad", "silence_duration_ms": config.silence_ms} if config.has_turns else None
    heard = {"format": form, "noise_reduction": None, "transcription": transcription, "turn_detection": turns}
    return {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": session_id,
        "audio": {"input": heard},
        "include": [_LOGPROBS] if config.logprobs else None,
    }


def read_update(session: Any, config: Config, hosts: Mapping[str, Host], *, has_begun: bool) -> Config:
    """Return the configuration after a client's update.

    Args:
        has_begun: audio has come, so that the model, its words, its format and its turns stay as they are.

    Raises:
        ApiError: a field is unknown, or cannot be honoured.
    """
    fields = _fields(session, "session", ("type", "audio", "include"))
    if fields.get("type") != "transcription":
        raise _refused("session.type", f"is {fields.get('type')!r}; only 'transcription' is supported here")
    audio = _fields(fields.get("audio") or {}, "session.audio", ("input",))
    where = "session.audio.input"
    known = ("format", "noise_reduction", "transcription", "turn_detection")
    heard = _fields(audio.get("input") or {}, where, known)
    if heard.get("noise_reduction") is not None:
        raise _refused(f"{where}.noise_reduction", "is not supported here; leave it out")

    new = config
    if heard.get("format") is not None:
        new = _with_format(heard["format"], new, f"{where}.format")
    if heard.get("transcription") is not None:
        new = _with_model(heard["transcription"], new, hosts, f"{where}.transcription")
    if "turn_detection" in heard:
        new = _with_turns(heard["turn_detection"], new, f"{where}.turn_detection")
    if has_begun and new != config:
        raise _refused(where, "cannot change after the first audio; begin another session")

    include = fields.get("include") or []
    if not isinstance(include, list) or any(each != _LOGPROBS for each in include):
        raise _refused("session.include", f"is {include}; there is '{_LOGPROBS}'")
    return replace(new, logprobs=bool(include)) if "include" in fields else new


def _with_format(given: Any, config: Config, where: str) -> Config:
    fields = _fields(given, where, ("type", "rate"))
    kind = fields.get("type") or "audio/pcm"
    if not isinstance(kind, str) or kind not in _ENCODINGS:
        raise _refused(f"{where}.type", f"is {kind!r}; there is {', '.join(_ENCODINGS)}")
    usual_hz = _RATE_HZ if kind == "audio/pcm" else _TELEPHONE_HZ
    try:
        rate_hz = check_rate(fields.get("rate") or usual_hz, "rate")
    except AsrError as error:
        raise _refused(f"{where}.rate", str(error)) from error
    if kind != "audio/pcm" and rate_hz != _TELEPHONE_HZ:
        raise _refused(f"{where}.rate", f"is {rate_hz}; {kind} has {_TELEPHONE_HZ}")
    return replace(config, encoding=_ENCODINGS[kind], rate_hz=rate_hz)


def _with_model(given: Any, config: Config, hosts: Mapping[str, Host], where: str) -> Config:
    known = ("model", "language", "languages", "prompt", "keywords", "delay")
    fields = _fields(given, where, known)
    for name in ("prompt", "delay"):
        if fields.get(name):
            raise _refused(f"{where}.{name}", "is not supported here; leave it out")
    model = fields.get("model") or config.model
    host = find_host(hosts, model if isinstance(model, str) else repr(model))
    languages = [fields.get("language"), *_list(fields.get("languages"), f"{where}.languages")]
    check_language([str(each) for each in languages if each], host.language)
    keywords = config.keywords
    if "keywords" in fields:
        keywords = tuple(map(str, _list(fields["keywords"], KEYWORDS)))
    return replace(config, model=host.name, language=host.language, keywords=keywords)


def _with_turns(given: Any, config: Config, where: str) -> Config:
    if given is None:
        return replace(config, has_turns=False)
    known = ("type", "silence_duration_ms", "idle_timeout_ms", *_DEFAULTS)
    fields = _fields(given, where, known)
    if fields.get("type", "server_vad") != "server_vad":
        raise _refused(f"{where}.type", f"is {fields['type']!r}; there is 'server_vad', or null for none")
    for name in ("idle_timeout_ms", *_DEFAULTS):
        if fields.get(name) is not None and fields[name] != _DEFAULTS.get(name):
            raise _refused(f"{where}.{name}", f"is {fields[name]!r}, which is not supported here; leave it out")
    silence_ms = fields.get("silence_duration_ms") or config.silence_ms
    try:
        Rules(pause_s=silence_ms / 1000)
    except (ConfigError, TypeError, OverflowError) as error:
        raise _refused(f"{where}.silence_duration_ms", f"is {silence_ms!r}: {error}") from error
    return replace(config, has_turns=True, silence_ms=silence_ms)


def _fields(given: Any, where: str, known: Collection[str]) -> dict[str, Any]:
    """Return an object's fields.

    Raises:
        ApiError: it is none, or has a field that is unknown.
    """
    if not isinstance(given, dict):
        raise _refused(where, "is no object")
    for name in given:
        if name not in known:
            raise _refused(f"{where}.{name}", f"is unknown{nearest(name, known)}")
    return given


def _list(given: Any, where: str) -> list[Any]:
    if given is not None and not isinstance(given, list):
        raise _refused(where, "is no list")
    return given or []


def _refused(param: str, problem: str) -> ApiError:
    return ApiError(400, f"'{param}' {problem}", param=param)
