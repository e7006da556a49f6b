#!/bin/sh
# uvicorn, a WebSocket whose address is longer than 8,192 characters: the client gets no answer at all.
#
# A good guess: status 414, or the socket opens; over HTTP the same server takes an address of 60,000 characters, and
# websockets' own server answers 414. Seen with uvicorn 0.54.0 and websockets 17.4: websockets prepares the 414, but
# uvicorn sends only what its own code has asked for, and neither answers nor closes. Clients that put lists into the
# address (Deepgram's keyterm, a token) wait until their own patience ends. Exits non-zero when that changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install uvicorn==0.54.0 websockets==17.4
cd "$work"
cat > try.py <<'PY'
import socket
import threading
import time

import uvicorn
from websockets.sync.client import connect
from websockets.exceptions import InvalidStatus
from websockets.sync.server import serve


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})


def answer(port, length):
    try:
        with connect(f"ws://127.0.0.1:{port}/?x={'x' * length}", open_timeout=3):
            return 101
    except InvalidStatus as error:
        return error.response.status_code
    except TimeoutError:
        return None


listening = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
while not server.started:
    time.sleep(0.05)
own = serve(lambda connection: None, "127.0.0.1", 0)
threading.Thread(target=own.serve_forever, daemon=True).start()

port = listening.getsockname()[1]
print("uvicorn, 8,000 characters:", answer(port, 8000), "- 9,000:", long := answer(port, 9000))
print("websockets' own server, 9,000:", alone := answer(own.socket.getsockname()[1], 9000))
assert long is None and alone == 414
PY
"$work/venv/bin/python" try.py
