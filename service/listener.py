"""gRPC servers: their options and ports."""

import resource

import grpc

from registry.errors import Unavailable

MEGABYTE = 1 << 20
MAX_METADATA_BYTES = 16_384
WINDOW_BYTES = 8 * MEGABYTE
FRAME_BYTES = 4 * MEGABYTE
READ_BYTES = 1 << 18
MAX_PENDING = 8192  # calls that the event loop has not seen yet; some 13 kB each
SPEAK_WITHIN_MS = 10_000  # a silent connection takes up one of a limited number
PING_EVERY_MS = 10_000  # gRPC's own clients do not ping more often
INT_MAX = (1 << 31) - 1
MAX_FILES = 1 << 16


def new_server(
    max_message_mb: int, max_connection_age_s: float, max_streams: int
) -> grpc.aio.Server:
    """A server with our options.

    Args:
        max_message_mb: largest message to receive or send, in megabytes.
        max_connection_age_s: after which clients are made to reconnect; 0: never.
        max_streams: concurrent calls per connection; clients hold back any more.
    """
    options: list[tuple[str, int]] = [
        ("grpc.max_receive_message_length", max_message_mb * MEGABYTE),
        ("grpc.max_send_message_length", max_message_mb * MEGABYTE),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", max_streams),
        ("grpc.max_allowed_incoming_connections", max_connections()),
        # by default gRPC cancels calls beyond a thousand before anything here can say why
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ("grpc.server_handshake_timeout_ms", SPEAK_WITHIN_MS),
        # or clients that send a keepalive on a silent stream every half minute would be cut off
        ("grpc.http2.min_ping_interval_without_data_ms", PING_EVERY_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # or two servers could share a port unnoticed
        # so that an image arrives in one go, not in windows of 64 KB and frames of 16 KB
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),  # pings, by which gRPC would find a window that large
        ("grpc.http2.max_frame_size", FRAME_BYTES),
        ("grpc.experimental.tcp_min_read_chunk_size", READ_BYTES),
    ]
    if max_connection_age_s:
        options.append(("grpc.max_connection_age_ms", int(1000 * max_connection_age_s)))
    return grpc.aio.server(options=options)


def raise_file_limit() -> None:
    """Raises the soft limit on open files to the hard limit, at most MAX_FILES. Every connection is
    an open file, and the default of 1024 is meant for old programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def max_connections() -> int:
    """Half of the limit on open files; the rest is for models, jobs and metrics."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return INT_MAX if files == resource.RLIM_INFINITY else min(files // 2, INT_MAX)


async def listen(server: grpc.aio.Server, host: str, port: int, flag: str) -> int:
    """Starts the server on `port`, which `flag` sets; returns the actual port.

    Raises:
        Unavailable: it cannot listen there.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        actual: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {address}: the port is in use, this user may not open it, or this "
            f"machine does not have that address; choose another port with {flag}"
        ) from error
    await server.start()
    return actual
