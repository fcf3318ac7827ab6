"""An OpenID Connect provider on this machine: everybody who comes is the same person."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@contextmanager
def provider(person: dict) -> Iterator[str]:
    """Its address; `person` is what it tells about whoever comes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/.well-known/openid-configuration":
                base = f"http://127.0.0.1:{self.server.server_port}"
                names = ("authorization", "token", "userinfo")
                self._json({"issuer": base, **{f"{n}_endpoint": f"{base}/{n}" for n in names}})
            elif parts.path == "/authorization":
                asked = parse_qs(parts.query)
                self.send_response(302)
                target = f"{asked['redirect_uri'][0]}?code=c0de&state={asked['state'][0]}"
                self.send_header("Location", target)
                self.end_headers()
            elif self.headers["Authorization"] == "Bearer t0ken":
                self._json(person)
            else:
                self.send_error(401)

        def do_POST(self) -> None:
            sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if (sent["code"], sent["client_secret"]) != (["c0de"], ["s3cret"]):
                self.send_error(400)
                return
            self._json({"access_token": "t0ken", "token_type": "Bearer"})

        def _json(self, body: dict) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
