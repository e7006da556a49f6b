#!/bin/sh
# deepgram-sdk's live client, refused by the server: the error that its own code promises never comes.
#
# A good guess: a handshake that is answered with 401 raises the SDK's ApiError with that status, as its requests over HTTP
# do; its code catches the websockets exception for it. Seen with deepgram-sdk 7.17.0 and websockets 17.4: what it catches
# is the old InvalidStatusCode, a name that is still there; the newer client raises InvalidStatus, which passes by. With
# a wrong key, with too many streams (429), or with a parameter that is refused, a program must catch websockets' own
# exception as well. Exits non-zero when that changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install deepgram-sdk==7.17.0 websockets==17.4
cd "$work"
cat > try.py <<'PY'
import threading
from http import HTTPStatus

from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from websockets.sync.server import serve

with serve(
    lambda connection: None, "127.0.0.1", 0,
    process_request=lambda connection, request: connection.respond(HTTPStatus.UNAUTHORIZED, "no such key"),
) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = "127.0.0.1:%d" % server.socket.getsockname()[1]
    there = DeepgramClientEnvironment(
        base=f"http://{host}", production=f"ws://{host}", agent=f"ws://{host}", agent_rest=f"http://{host}"
    )
    client = DeepgramClient(api_key="wrong", environment=there)
    try:
        with client.listen.v1.connect(model="any", encoding="linear16", sample_rate=16000):
            raised = None
    except Exception as error:
        raised = error
    server.shutdown()
kind = f"{type(raised).__module__}.{type(raised).__name__}"
print("raised:", kind, "- an ApiError:", isinstance(raised, ApiError), "- status", raised.response.status_code)
assert kind == "websockets.exceptions.InvalidStatus" and not isinstance(raised, ApiError)
assert raised.response.status_code == 401
PY
"$work/venv/bin/python" try.py
