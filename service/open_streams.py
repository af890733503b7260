"""The limit on streams that clients may leave open for ever: those of health and reflection."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import Overloaded

# Of one connection, whatever the others have: or one client could keep all others from watching,
# and gRPC's clients do not call a server whose health they cannot watch.
ALWAYS_OPEN = 8
RETRY_S = 1.0


class OpenStreams:
    """Counts the streams of one listener, all of them and by connection."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._n_open = 0
        self._by_connection: Counter[str] = Counter()

    @contextmanager
    def another(self, connection: str) -> Iterator[None]:
        """A stream is open during the block.

        Raises:
            Overloaded: there are too many, and this connection has some of them.
        """
        if self._n_open >= self._most and self._by_connection[connection] >= ALWAYS_OPEN:
            raise Overloaded(
                f"{self._most} streams of health and reflection are open, which is the limit; "
                "close some of yours",
                RETRY_S,
                "streams",
            )
        self._n_open += 1
        self._by_connection[connection] += 1
        try:
            yield
        finally:
            self._n_open -= 1
            self._by_connection[connection] -= 1
            if not self._by_connection[connection]:
                del self._by_connection[connection]
