"""The caller's trace, for the server to go on with; only where OpenTelemetry is in use already."""

import sys

Metadata = tuple[tuple[str, str], ...]


def trace_metadata() -> Metadata | None:
    """What tells a server of the span that is current here (W3C `traceparent`); None without."""
    if "opentelemetry.trace" not in sys.modules:  # nobody can have begun a span
        return None
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items()) or None
