"""Propagates the caller's trace to the server, if the caller already uses OpenTelemetry."""

import sys

Metadata = tuple[tuple[str, str], ...]


def trace_metadata() -> Metadata | None:
    """Metadata with the current span (W3C `traceparent`); None if there is none."""
    if "opentelemetry.trace" not in sys.modules:  # nobody can have started a span
        return None
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items()) or None
