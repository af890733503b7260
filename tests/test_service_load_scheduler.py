"""How versions come into memory."""

import asyncio
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from conftest import wait_until

from registry.errors import BundleError, Unavailable
from registry.store import Registry
from service.models.load_scheduler import LoadScheduler
from service.models.model_state import ModelState

PINNED = 2


class OneOfAKind:
    """A loaded version as far as the scheduler looks at it."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.is_retired = False

    def __enter__(self) -> "OneOfAKind":
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is counted."""

    def retire(self) -> None:
        self.is_retired = True


class StandIn:
    """A loader that takes no time."""

    def __init__(self) -> None:
        self.loads = 0

    def load(self, folder: Path, version: int) -> Any:
        self.loads += 1
        return OneOfAKind(version)


async def ask_twice(registry: Registry, loader: StandIn) -> None:
    """A version is taken away, and asked for again, before its load is quite over."""
    scheduler, state = LoadScheduler(registry, loader, PINNED), ModelState(tiny.MODEL_NAME)  # type: ignore[arg-type]
    again: asyncio.Task[Any] | None = None
    pin = state.pin

    def pin_and_lose(loaded: Any) -> None:
        nonlocal again
        state.pin = pin  # type: ignore[method-assign]
        again = asyncio.create_task(scheduler.find(state, 1))

    state.pin = pin_and_lose  # type: ignore[method-assign]
    await scheduler.find(state, 1)
    assert again
    await again
    await scheduler.close()


def test_a_load_that_has_just_ended_is_not_waited_for(root: Path) -> None:
    """It hung the whole server: whoever waits for what has ended gives nobody else a turn."""
    tiny.publish(root)
    loader = StandIn()
    asking = threading.Thread(
        target=lambda: asyncio.run(ask_twice(Registry(root), loader)), daemon=True
    )
    asking.start()
    asking.join(20)
    assert not asking.is_alive()
    assert loader.loads == 2


class Gated(StandIn):
    """A loader whose loads of the model `colours` wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: set[tuple[str, int]] = set()
        self.go = threading.Event()

    def load(self, folder: Path, version: int) -> Any:
        self.under_way.add((folder.parent.name, version))
        if folder.parent.name == tiny.MODEL_NAME:
            self.go.wait(20)
        return super().load(folder, version)


async def test_whoever_asks_for_one_number_after_the_other_holds_up_no_other_model(
    root: Path,
) -> None:
    for model in ("colours", "colours", "colours", "other"):
        tiny.publish(root, model=model)
    loader = Gated()
    scheduler = LoadScheduler(Registry(root), loader, PINNED)  # type: ignore[arg-type]
    colours, other = ModelState("colours"), ModelState("other")
    asked = [asyncio.create_task(scheduler.find(colours, version)) for version in (1, 2, 3)]
    await asyncio.wait_for(scheduler.find(other, 1), 20)
    await asyncio.to_thread(wait_until, lambda: ("colours", 1) in loader.under_way)
    assert loader.under_way == {("colours", 1), ("other", 1)}
    loader.go.set()
    assert [loaded.version for loaded in await asyncio.gather(*asked)] == [1, 2, 3]
    await scheduler.close()


async def test_a_version_that_went_live_before_its_turn_is_not_loaded_again(root: Path) -> None:
    tiny.publish(root)
    tiny.publish(root)
    loader = Gated()
    scheduler, state = LoadScheduler(Registry(root), loader, PINNED), ModelState(tiny.MODEL_NAME)  # type: ignore[arg-type]
    first = asyncio.create_task(scheduler.find(state, 1))
    second = asyncio.create_task(scheduler.find(state, 2))  # waits for its turn
    await asyncio.sleep(0)
    live: Any = OneOfAKind(2)
    state.live = live
    loader.go.set()
    await first
    assert await second is live
    assert loader.loads == 1
    await scheduler.close()


async def given_up(
    scheduler: LoadScheduler, state: ModelState, versions: range, loader: Gated
) -> None:
    """All of them were asked for, those who did have gone, and then they were loaded."""
    asked = [asyncio.create_task(scheduler.find(state, version)) for version in versions]
    await asyncio.sleep(0)
    for caller in asked:
        caller.cancel()
    await asyncio.wait(asked)
    loader.go.set()
    async with asyncio.timeout(20):
        while scheduler._under_way:
            await asyncio.sleep(0.001)


async def test_of_versions_whose_callers_have_gone_no_more_stay_than_of_others(root: Path) -> None:
    versions = range(1, PINNED + 4)
    for _ in versions:
        tiny.publish(root)
    loader = Gated()
    scheduler, state = LoadScheduler(Registry(root), loader, PINNED), ModelState(tiny.MODEL_NAME)  # type: ignore[arg-type]
    await given_up(scheduler, state, versions, loader)
    assert loader.loads == len(versions)
    assert list(state.pinned) == list(versions)[-PINNED:]
    await scheduler.close()


class Refusing(Gated):
    """A loader that finds every version broken."""

    def load(self, folder: Path, version: int) -> Any:
        super().load(folder, version)
        raise BundleError("golden answers differ")


async def test_a_version_that_did_not_load_is_left_alone_also_when_its_callers_have_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.model_state.FIRST_RETRY_S", 3600.0)
    tiny.publish(root)
    loader = Refusing()
    scheduler, state = LoadScheduler(Registry(root), loader, PINNED), ModelState(tiny.MODEL_NAME)  # type: ignore[arg-type]
    await given_up(scheduler, state, range(1, 2), loader)
    with pytest.raises(BundleError, match="golden answers differ"):
        await scheduler.find(state, 1)
    assert loader.loads == 1
    await scheduler.close()


async def test_what_waits_for_its_turn_when_the_server_stops_says_so(root: Path) -> None:
    tiny.publish(root)
    tiny.publish(root)
    loader = Gated()
    scheduler, state = LoadScheduler(Registry(root), loader, PINNED), ModelState(tiny.MODEL_NAME)  # type: ignore[arg-type]
    asked = [asyncio.create_task(scheduler.find(state, version)) for version in (1, 2)]
    async with asyncio.timeout(20):
        while not loader.under_way:
            await asyncio.sleep(0.001)
    closing = asyncio.create_task(scheduler.close())
    await asyncio.sleep(0)
    loader.go.set()
    await closing
    first, second = await asyncio.gather(*asked, return_exceptions=True)
    assert first.version == 1
    assert isinstance(second, Unavailable)


@pytest.mark.parametrize("place", ["live", "trial", "pinned"])
def test_a_version_that_two_loads_bring_is_in_memory_once(place: str) -> None:
    state, first, second = ModelState(tiny.MODEL_NAME), OneOfAKind(1), OneOfAKind(1)
    trial = SimpleNamespace(candidate=first)
    setattr(
        state,
        place,
        {"live": first, "trial": trial, "pinned": OrderedDict({1: first})}[place],
    )
    state.pin(second)  # type: ignore[arg-type]
    assert list(state.versions()) == [first]
    assert (first.is_retired, second.is_retired) == (False, True)
