"""Callers whose calls end at a proxy, which answers with a status of HTTP."""

import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

import unfreeze

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, PING = 1, 4, 6
ACK, WHOLE = 1, 5  # flags; a whole answer ends its headers and its stream
STATUS = b"\x08\x03"  # in HPACK, the name `:status` and a value of three bytes


class Refusing(socketserver.StreamRequestHandler):
    """Answers every call with the server's `status`, as a proxy does that does not pass it on."""

    def handle(self) -> None:
        self.rfile.read(len(PREFACE))
        self._send(SETTINGS, 0, 0)
        while head := self.rfile.read(9):
            size, kind, flags, stream = struct.unpack(">IBBI", b"\0" + head)
            payload = self.rfile.read(size)
            if kind in (SETTINGS, PING) and not flags & ACK:
                self._send(kind, ACK, 0, payload if kind == PING else b"")
            elif kind == HEADERS:
                self._send(HEADERS, WHOLE, stream, STATUS + self.server.status)

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.wfile.write(struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload)


class Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    status: bytes


@contextmanager
def serving(handler: Callable[..., object], status: int = 0) -> Iterator[str]:
    """Yields the address of one that answers so."""
    with Proxy(("127.0.0.1", 0), handler) as server:
        server.status = str(status).encode()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def refusal(address: str) -> str:
    asked = unfreeze.Client(address, attempts=2)
    with asked as client, pytest.raises(unfreeze.Unavailable) as refused:
        client.classify(b"one", model="m")
    return str(refused.value)


def test_a_proxy_without_its_server_is_told_from_no_server() -> None:
    with serving(Refusing, 502) as at:
        assert refusal(at).endswith("a proxy answered instead of the server, with HTTP status 502")


def test_an_image_too_large_for_a_proxy_is_told_so() -> None:
    with serving(Refusing, 413) as at, unfreeze.Client(at) as client:
        (prediction,) = client.classify(b"one", model="m")
    assert isinstance(prediction.error, unfreeze.ImageError)
    assert "a proxy refuses requests of this size (HTTP status 413)" in str(prediction.error)


def test_a_proxy_of_the_environment_that_does_not_connect_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC obeys `http_proxy` for servers on this machine as well."""
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(BaseHTTPRequestHandler) as at:  # which has no CONNECT
        monkeypatch.setenv("http_proxy", f"http://{at}")
        assert "add it to no_proxy" in refusal("127.0.0.1:8001")
