"""The fetcher of callers' URLs: what it refuses never reaches a listener, what it reads is bounded."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from casola_site.core import fetch as module
from casola_site.core import fetch_target
from casola_site.core.fetch import InvalidDataUrl, UnsafeUrl, fetch
from casola_site.core.fetch_target import Unfit, is_public, origin_of, parse

OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png; a=b\r\nContent-Length: 4\r\n\r\nfine"


class Listener:
    """Answers every connection with what `answers` say in turn, and remembers what it was asked."""

    def __init__(self, family=socket.AF_INET, tls=None):
        self.answers = []
        self.default = OK
        self.connections = 0
        self.asked = []
        self.tls = tls
        self.socket = socket.socket(family)
        self.socket.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self.socket.listen(50)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                self.asked.append(connection.recv(65536).decode())
                answer = self.answers.pop(0) if self.answers else self.default
                for part in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(part)
        except OSError:
            return

    def url(self, path="/a.png", host="127.0.0.1", scheme="http"):
        return f"{scheme}://{host}:{self.port}{path}"

    def close(self):
        self.socket.close()


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def allowed(listener, settings):
    """The listener's origin may be reached."""
    settings.FETCH_ALLOW = [origin_of(listener.url(""))]
    return listener


@pytest.fixture
def usual_port(listener, monkeypatch):
    """Makes the listener's port the one that http has: only addresses can keep others away."""
    monkeypatch.setattr(fetch_target, "PORTS", {"http": listener.port, "https": listener.port})
    return listener


def names(monkeypatch, **table):
    """What names resolve to, in place of the system's resolver; every lookup takes the next."""
    real = socket.getaddrinfo
    lookups = []

    def resolve(host, port, *rest):
        lookups.append(host)
        if host not in table:
            return real(host, port, *rest)
        addresses = table[host]
        if addresses and isinstance(addresses[0], list):
            addresses = addresses[min(lookups.count(host), len(addresses)) - 1]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (one, port),
            )
            for one in addresses
        ]

    monkeypatch.setattr(module.socket, "getaddrinfo", resolve)
    return lookups


HOSTS = [
    "127.0.0.1",
    "127.1.2.3",
    "localhost",
    "LOCALHOST.",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "[ff02::1]",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "ⓛocalhost",
    "user@127.0.0.1",
    "user:password@127.0.0.1",
    "8.8.8.8@127.0.0.1",
    "134744072",
]


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_that_are_not_public_are_never_dialled(usual_port, host):
    for scheme in ("http", "https"):
        with pytest.raises(UnsafeUrl) as caught:
            fetch(f"{scheme}://{host}/secret")
        assert (caught.value.code, caught.value.message) == ("unsafe_url", UnsafeUrl.message)
    assert usual_port.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http",
        "http:",
        "http://",
        "http:///a.png",
        "//127.0.0.1/",
        "127.0.0.1",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1:{port}/_x",
        "unix:///run/redis.sock",
        "blob:http://127.0.0.1/",
        "javascript:alert(1)",
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http://127.0.0.1:80:{port}/",
        "http://127.0.0.1\\@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://exa mple.com/",
        "http://example.com\r\nHost: 127.0.0.1/",
        "http://example.com/\x00",
        " http://127.0.0.1/",
        "http://[127.0.0.1]/",
        "http://[::1/",
        "http://a..b/",
        "http://-a.com/",
        "http://" + "a" * 70 + ".com/",
        "http://" + "a." * 140 + "com/",
        "http://xn--/",
        "http://example.com/" + "a" * 9000,
    ],
)
def test_odd_urls_are_refused_with_the_one_text(listener, url, monkeypatch):
    names(monkeypatch, **{"example.com": ["127.0.0.1"]})
    with pytest.raises(UnsafeUrl) as caught:
        fetch(url.replace("{port}", str(listener.port)))
    assert caught.value.message == UnsafeUrl.message
    assert listener.connections == 0


def test_one_private_address_among_public_ones_is_enough_to_refuse(usual_port, monkeypatch):
    names(monkeypatch, **{"mixed.test": ["93.184.216.34", "127.0.0.1"]})
    with pytest.raises(UnsafeUrl):
        fetch("http://mixed.test/")
    assert usual_port.connections == 0


def test_the_checked_address_is_the_one_that_is_dialled(usual_port, monkeypatch):
    monkeypatch.setattr(module, "is_public", lambda address: str(address) == "127.0.0.1")
    lookups = names(monkeypatch, **{"turns.test": [["127.0.0.1"], ["10.9.9.9"]]})
    assert fetch("http://turns.test/x?y=%20z").content == b"fine"
    assert lookups.count("turns.test") == 1
    (asked,) = usual_port.asked
    assert asked.startswith("GET /x?y=%20z HTTP/1.1\r\n")
    assert "\r\nHost: turns.test\r\n" in asked


def test_the_next_address_is_tried_where_one_does_not_answer(usual_port, monkeypatch):
    monkeypatch.setattr(module, "is_public", lambda address: True)
    names(monkeypatch, **{"two.test": ["::1", "127.0.0.1"]})
    assert fetch("http://two.test/").content == b"fine"


def test_an_open_port_looks_like_a_closed_one(listener):
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    texts = set()
    for port in (listener.port, closed.getsockname()[1]):
        with pytest.raises(UnsafeUrl) as caught:
            fetch(f"http://127.0.0.1:{port}/")
        texts.add((caught.value.code, caught.value.message))
    assert len(texts) == 1
    closed.close()


def redirect(location, status=302):
    return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def test_an_allowed_origin_is_read(allowed):
    found = fetch(allowed.url())
    assert (found.content, found.content_type) == (b"fine", "image/png")


def test_an_allowed_origin_is_that_origin_alone(allowed):
    other = Listener()
    for url in (other.url(), allowed.url(host="localhost"), allowed.url(scheme="https")):
        with pytest.raises(UnsafeUrl):
            fetch(url)
    assert (allowed.connections, other.connections) == (0, 0)
    other.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(allowed, status):
    allowed.answers = [redirect("/b", status), redirect(allowed.url("/c")), redirect("d?e=f")]
    assert fetch(allowed.url()).content == b"fine"
    assert [asked.split()[1] for asked in allowed.asked] == ["/a.png", "/b", "/c", "/d?e=f"]


def test_a_fourth_redirect_is_refused(allowed):
    allowed.default = redirect("/again")
    with pytest.raises(UnsafeUrl):
        fetch(allowed.url())
    assert allowed.connections == 4


def test_no_redirect_is_followed_where_none_is_wanted(allowed):
    allowed.answers = [redirect("/b")]
    with pytest.raises(UnsafeUrl):
        fetch(allowed.url(), redirects=False)
    assert allowed.connections == 1


@pytest.mark.parametrize(
    "place",
    ["http://127.0.0.1:{port}/", "file:///etc/passwd", "//localhost:{port}/", "http://[::1]/"],
)
def test_a_redirect_is_checked_like_the_first_url(allowed, place):
    inside = Listener()
    allowed.answers = [redirect(place.format(port=inside.port))]
    with pytest.raises(UnsafeUrl):
        fetch(allowed.url())
    assert (allowed.connections, inside.connections) == (1, 0)
    inside.close()


def endless(part=b"x" * 65536):
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    while True:
        yield part


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.1 302 Moved\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Moved\r\nLocation: /\xff\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000,
        b"",
    ],
)
def test_answers_that_are_not_what_was_asked_for_are_refused(allowed, answer):
    allowed.default = answer
    with pytest.raises(UnsafeUrl) as caught:
        fetch(allowed.url(), max_bytes=1000)
    assert caught.value.message == UnsafeUrl.message


def test_an_endless_answer_is_cut_at_the_cap(allowed):
    allowed.answers = [endless()]
    with pytest.raises(UnsafeUrl):
        fetch(allowed.url(), max_bytes=1_000_000)


def test_exactly_the_cap_is_read(allowed):
    allowed.default = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    assert len(fetch(allowed.url(), max_bytes=1000).content) == 1000


def dripping():
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999:
        time.sleep(0.02)
        yield bytes([byte])


def silent():
    time.sleep(5)
    yield OK


@pytest.mark.parametrize("answer", [dripping, silent])
def test_slow_answers_end_at_the_deadline(allowed, answer):
    allowed.answers = [answer()]
    began = time.monotonic()
    with pytest.raises(UnsafeUrl):
        fetch(allowed.url(), deadline=time.monotonic() + 0.3)
    assert time.monotonic() - began < 4


def test_a_name_that_never_resolves_ends_at_the_deadline(monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_: asked.wait(20))
    began = time.monotonic()
    with pytest.raises(UnsafeUrl):
        fetch("http://slow.test/", deadline=time.monotonic() + 0.2)
    asked.set()
    assert time.monotonic() - began < 10


def certificate(name):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return built.public_bytes(serialization.Encoding.PEM), private


@contextmanager
def secured(tmp_path, monkeypatch, name):
    public, private = certificate(name)
    file = tmp_path / "both.pem"
    file.write_bytes(public + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    seen = []
    context.sni_callback = lambda _socket, asked, _context: seen.append(asked)
    trusting = ssl.create_default_context(cadata=public.decode())
    monkeypatch.setattr(module, "_trusted", lambda: trusting)
    made = Listener(tls=context)
    monkeypatch.setattr(fetch_target, "PORTS", {"http": 80, "https": made.port})
    monkeypatch.setattr(module, "is_public", lambda address: True)
    names(monkeypatch, **{"secure.test": ["127.0.0.1"]})
    yield seen
    made.close()


def test_tls_is_checked_against_the_name_while_the_address_is_dialled(tmp_path, monkeypatch):
    with secured(tmp_path, monkeypatch, "secure.test") as seen:
        assert fetch("https://secure.test/").content == b"fine"
    assert seen == ["secure.test"]


def test_a_certificate_for_another_name_is_refused(tmp_path, monkeypatch):
    with secured(tmp_path, monkeypatch, "other.test"), pytest.raises(UnsafeUrl):
        fetch("https://secure.test/")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("::ffff:10.0.0.1", False),
        ("0.1.2.3", False),
        ("240.0.0.1", False),
        ("192.0.2.1", False),
        ("203.0.113.1", False),
        ("2001:db8::1", False),
        ("fec0::1", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


def test_parts_of_a_url():
    target = parse("HTTPS://Exämple.com./ä b?q=ü#frag".replace(" ", "%20"))
    assert (target.host, target.port) == ("xn--exmple-cua.com.", 443)
    assert target.path == "/%C3%A4%20b?q=%C3%BC"
    assert parse("http://[2606:4700::1111]").host_header == "[2606:4700::1111]"
    assert origin_of("http://Example.com/") == "http://example.com:80"
    with pytest.raises(Unfit):
        origin_of("http://example.com/path")


def test_data_urls_are_decoded():
    text = base64.b64encode(b"\x00\xffdata").decode()
    assert fetch(f"data:image/png;base64,{text}").content == b"\x00\xffdata"
    assert fetch(f"DATA:image/PNG;x=y;BASE64,{text.rstrip('=')}").content_type == "image/png"
    assert fetch("data:,a%20b").content == b"a b"


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,AAAAA",
        "data:,ä",
        "data:" + "x" * 300 + ",a",
        "data:;base64," + "A" * 2000,
        "data:," + "a" * 1001,
        "data:," + "a" * 100_000,
    ],
)
def test_broken_or_large_data_urls_are_refused(url):
    with pytest.raises(InvalidDataUrl) as caught:
        fetch(url, max_bytes=1000)
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
