"""Callers whose calls end at a proxy, which answers with a status of HTTP."""

import socketserver
import struct
import threading
from collections.abc import Callable, Iterator

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


@pytest.fixture
def proxy() -> Iterator[Callable[[int], str]]:
    """The address of one that answers with this status."""
    with Proxy(("127.0.0.1", 0), Refusing) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()

        def answering(status: int) -> str:
            server.status = str(status).encode()
            return f"127.0.0.1:{server.server_address[1]}"

        yield answering
        server.shutdown()
        serving.join()


def test_a_proxy_without_its_server_is_told_from_no_server(proxy: Callable[[int], str]) -> None:
    with unfreeze.Client(proxy(502), attempts=2) as client:
        told = "a proxy answered instead of the server, with HTTP status 502$"
        with pytest.raises(unfreeze.Unavailable, match=told):
            client.classify(b"one", model="m")


def test_an_image_too_large_for_a_proxy_is_told_so(proxy: Callable[[int], str]) -> None:
    with unfreeze.Client(proxy(413)) as client:
        (prediction,) = client.classify(b"one", model="m")
    assert isinstance(prediction.error, unfreeze.ImageError)
    assert "a proxy refuses requests of this size (HTTP status 413)" in str(prediction.error)
