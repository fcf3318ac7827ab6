"""A small ASGI app with one path per behaviour, and the server that runs it in its own process."""

import asyncio
import json
import os
import socket
import sys
import threading

from casola_site.core.guard.rules import GuardConfig, draining
from casola_site.core.guard.server import GuardedServer

EVENTS = {"disconnects": 0, "cancelled": 0, "sent": 0, "bodies": 0}


async def answer(send, body, status=200, headers=()):
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [(b"content-type", b"application/json"), *headers]})
    await send({"type": "http.response.body", "body": body})


async def read_all(receive):
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return -1
        size += len(message["body"])
        if not message["more_body"]:
            EVENTS["bodies"] += 1
            return size


async def echo(scope, receive, send):
    size = await read_all(receive)
    headers = [[k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]]
    told = {
        "size": size,
        "headers": headers,
        "path": scope["path"],
        "root_path": scope["root_path"],
        "request_id": scope["request_id"],
        "draining": draining(),
        "pid": os.getpid(),
    }
    await answer(send, json.dumps(told).encode())


async def endless(scope, receive, send):
    """Stream until someone stops us, one sleep in a while as an engine would."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            EVENTS["sent"] += 16384
            await send({"type": "http.response.body", "body": b"x" * 16384, "more_body": True})
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        EVENTS["cancelled"] += 1
        raise


async def ticks(scope, receive, send):
    """Stream slowly; say goodbye when cancelled."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        for number in range(int(scope["query_string"] or b"1000")):
            tick = b"tick %d\n" % number
            await send({"type": "http.response.body", "body": tick, "more_body": True})
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        await send({"type": "http.response.body", "body": b"cut\n"})
        return
    await send({"type": "http.response.body", "body": b"end\n"})


async def watch(scope, receive, send):
    """Wait for the client to leave."""
    await read_all(receive)
    message = await receive()
    EVENTS["disconnects"] += message["type"] == "http.disconnect"


async def deaf(scope, receive, send):
    """Never read; look at receive only after the client has gone."""
    await asyncio.sleep(0.5)
    EVENTS["disconnects"] += (await receive())["type"] == "http.disconnect"


async def big(scope, receive, send):
    await answer(send, b"y" * 5_000_000)


async def crash(scope, receive, send):
    raise RuntimeError("boom")


async def crash_late(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"some", "more_body": True})
    raise RuntimeError("boom")


async def own_id(scope, receive, send):
    await answer(send, b"{}", headers=[(b"X-Request-Id", b"mine")])


async def sleep(scope, receive, send):
    await asyncio.sleep(60)


async def events(scope, receive, send):
    await answer(send, json.dumps(EVENTS).encode())


async def hello(scope, receive, send):
    await answer(send, b"hello")


async def split(scope, receive, send):
    await answer(send, b"{}", headers=[(b"x-a", b"1\r\nset-cookie: evil")])


async def split_stream(scope, receive, send):
    headers = [(b"x-a", b"1\nset-cookie: evil")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"1", "more_body": True})


async def wrong_length(scope, receive, send):
    await answer(send, b"12345", headers=[(b"content-length", scope["query_string"])])


async def websocket(scope, receive, send):
    await receive()
    if scope["path"] == "/ws/no":
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/ws/crash":
        raise RuntimeError("boom")
    await send({"type": "websocket.accept"})
    if scope["path"] == "/ws/flood":
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 16384})
            EVENTS["sent"] += 16384
            await asyncio.sleep(0)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            EVENTS["disconnects"] += 1
            return
        text = json.dumps([message.get("text"), scope["root_path"], scope["request_id"]])
        await send({"type": "websocket.send", "text": text})


ROUTES = {
    "/openai/v1/echo": echo,
    "/fal/echo": echo,
    "/api/echo": echo,
    "/echo": echo,
    "/endless": endless,
    "/ticks": ticks,
    "/watch": watch,
    "/deaf": deaf,
    "/big": big,
    "/crash": crash,
    "/openai/crash": crash,
    "/crash-late": crash_late,
    "/own-id": own_id,
    "/sleep": sleep,
    "/events": events,
    "/hello": hello,
    "/split": split,
    "/split-stream": split_stream,
    "/wrong-length": wrong_length,
}


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await ROUTES.get(scope["path"], echo)(scope, receive, send)


def config(**changes):
    return GuardConfig(
        body_caps=lambda path: 100_000 if path.startswith("/openai") else 10_000_000,
        public=lambda path, method: not path.startswith(("/openai", "/fal", "/api")),
        is_known=lambda path: path in ROUTES,
        plausible_credential=lambda value: b"csl_" in value,
        **changes,
    )


def build():
    """The configuration that the web command is pointed at in tests."""
    return config(**json.loads(os.environ.get("GUARD_CHANGES", "{}")))


def main():
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listening.getsockname()[1]
    changes = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    server = GuardedServer(
        application,
        config(**changes),
        sockets=[listening],
        ready_callable=lambda: print(port, flush=True),
    )
    server.run()
    sys.stdout.flush()
    os._exit(0 if threading.active_count() else 1)


if __name__ == "__main__":
    main()
