"""A process that runs many clients: `python -m load.crowd ADDRESS PACE KIND=WEIGHT ...`.

PACE 2 sends half as many requests. Each second it prints its clients' counts as one line of JSON,
and once more when its standard input has closed and every request in flight has ended. The kind
`crash` never stops: it is there to be killed.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable

from load.bad import Bad, large_request
from load.good import Good
from load.protocol import Protocol
from load.tally import Tally

PRINT_EVERY_S = 1.0
# Seconds between two requests of a client, so that the clients do not starve the server of CPU.
PAUSE_S = {"half_open": 0.5, "crash": 0.02}
USUAL_PAUSE_S = 0.1
PIXELS = {"protocol_tensor"}  # kinds that send pixels, which nobody decodes

Ask = Callable[[], Awaitable[object]]


def asks(address: str) -> tuple[dict[str, Ask], list[Good | Bad | Protocol]]:
    """What each kind of client repeats, and the connections to close at the end."""
    good, bad, protocol = Good(address), Bad(address), Protocol(address)
    kinds: dict[str, Ask] = {
        "unary": good.unary,
        "many": good.many,
        "tta": good.tta,
        "pinned": good.pinned,
        "stream": good.stream,
        "library": good.library,
        "health_check": good.health_check,
        "health_watch": good.health_watch,
        "protocol": protocol.infer,
        "protocol_tensor": protocol.tensor,
        "protocol_stream": protocol.stream,
        "protocol_metadata": protocol.metadata,
        "malformed": bad.malformed,
        "bad_images": bad.bad_images,
        "cancelling": bad.cancelling,
        "impatient": bad.impatient,
        "slow_reader": bad.slow_reader,
        "half_open": bad.half_open,
        "crash": lambda: bad.stub.Classify(large_request()),
    }
    return kinds, [good, bad, protocol]


async def repeat(
    ask: Ask, pause_s: float, encoded: bool, tally: Tally, ended: asyncio.Event
) -> None:
    """Sends requests with pauses and counts the answers, until the end."""
    while not ended.is_set():
        began = time.perf_counter()
        try:
            answered = await ask()
        except Exception as error:
            tally.add_failure(f"{type(error).__name__}: {error}")
        else:
            versions = answered if isinstance(answered, dict) else {}
            bad_images = answered if isinstance(answered, int) else 0
            tally.add_answer(time.perf_counter() - began, versions, bad_images, encoded)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))


async def crowd(address: str, pace: float, weights: dict[str, int]) -> None:
    kinds, connections = asks(address)
    tallies = {kind: Tally() for kind in weights}
    ended = asyncio.Event()

    def print_counts() -> None:
        counted = {kind: tally.as_json() for kind, tally in tallies.items()}
        print(json.dumps(counted), flush=True)

    async def print_each_second() -> None:
        while True:
            print_counts()
            await asyncio.sleep(PRINT_EVERY_S)

    def pause_s(kind: str) -> float:
        return pace * PAUSE_S.get(kind, USUAL_PAUSE_S)

    printing = asyncio.create_task(print_each_second())
    clients = [
        asyncio.create_task(
            repeat(kinds[kind], pause_s(kind), kind not in PIXELS, tallies[kind], ended)
        )
        for kind, weight in weights.items()
        for _ in range(weight)
    ]
    await asyncio.to_thread(sys.stdin.read)
    ended.set()
    await asyncio.gather(*clients)
    printing.cancel()
    for connection in connections:
        await connection.close()
    print_counts()


if __name__ == "__main__":
    pairs = (pair.split("=") for pair in sys.argv[3:])
    weights = {kind: int(weight) for kind, weight in pairs}
    asyncio.run(crowd(sys.argv[1], float(sys.argv[2]), weights))
