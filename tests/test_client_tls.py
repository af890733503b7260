"""Callers whose server is behind something that speaks TLS, as deploy/README.md proposes."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import tiny
from conftest import RunningServer

import unfreeze
from unfreeze.cli import main


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of localhost, signed by itself; the file holds its key as well."""
    return new_certificate(tmp_path / "certificate.pem")


def new_certificate(file: Path) -> Path:
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("openssl is not here")
    key = file.with_suffix(".key")
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", file, "-subj", "/CN=localhost"]
    valid = ["-days", "2", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([openssl, "req", "-x509", *made, *valid], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + key.read_bytes())
    return file


@pytest.fixture
def encrypted(server: RunningServer, certificate: Path) -> Iterator[str]:
    """Where the server is reached through TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    host, port = server.address.split(":")
    at: Future[int] = Future()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def pass_on(*caller: Any) -> None:
        server = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pump(caller[0], server[1]), pump(server[0], caller[1]))
        finally:
            caller[1].transport.abort()
            server[1].transport.abort()

    async def stand_in_front() -> None:
        async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as front:
            at.set_result(front.sockets[0].getsockname()[1])
            await ended.wait()

    with ThreadPoolExecutor(1) as thread, asyncio.Runner(loop_factory=lambda: loop) as runner:
        standing = thread.submit(runner.run, stand_in_front())
        yield f"localhost:{at.result(20)}"
        loop.call_soon_threadsafe(ended.set)
        standing.result(20)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_a_client_with_credentials_is_answered(encrypted: str, certificate: Path) -> None:
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with unfreeze.Client(encrypted, credentials=credentials) as client:
        (prediction,) = client.classify([tiny.picture("red")], model="colours")
    assert prediction.label.name == "red"


def test_the_command_trusts_the_authority_that_it_is_given(
    encrypted: str, certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "red.jpg"
    image.write_bytes(tiny.picture("red"))
    command = ["predict", str(image), "--model", "colours", "--address", encrypted]
    assert main([*command, "--ca", str(certificate)]) == 0
    assert "red" in capsys.readouterr().out
    assert main([*command, "--timeout", "1"]) == 4  # unencrypted, it is not understood


def test_a_certificate_that_is_not_trusted_is_said(encrypted: str, tmp_path: Path) -> None:
    other = new_certificate(tmp_path / "other.pem")
    assert "the server's certificate is not trusted" in refusal(at(encrypted), other)


def test_a_certificate_of_another_host_is_said(encrypted: str, certificate: Path) -> None:
    assert "certificate is for another host name" in refusal(at(encrypted), certificate)


def test_a_port_that_is_not_encrypted_is_said(server: RunningServer, certificate: Path) -> None:
    assert "this port does not speak TLS" in refusal(server.address, certificate)


def at(encrypted: str) -> str:
    """The same by number: of `localhost`, which may have two, gRPC reports either one."""
    return encrypted.replace("localhost", "127.0.0.1")


def refusal(address: str, authorities: Path) -> str:
    credentials = grpc.ssl_channel_credentials(authorities.read_bytes())
    asked = unfreeze.Client(address, credentials=credentials)
    with asked as client, pytest.raises(unfreeze.Unavailable) as refused:
        client.classify([tiny.picture("red")], model="colours")
    return str(refused.value)


def test_an_authority_without_a_certificate_is_said(
    certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """gRPC would try to connect, and say only that no server answers."""
    image, key = tmp_path / "red.jpg", certificate.with_suffix(".key")
    image.touch()
    assert main(["predict", str(image), "--model", "colours", "--ca", str(key)]) == 2
    assert f"--ca {key}: no certificate in PEM form" in capsys.readouterr().err


def test_an_authority_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "red.jpg").touch()
    asked = ["predict", str(tmp_path / "red.jpg"), "--model", "colours", "--ca", "none.pem"]
    assert main(asked) == 2
    assert capsys.readouterr().err == "unfreeze: --ca none.pem: No such file or directory\n"
