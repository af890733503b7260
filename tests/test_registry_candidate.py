"""A version is tried beside the promoted one: who may set it, and what ends it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny

from registry.candidates import candidate_of, clear_candidate, set_candidate
from registry.errors import BadRequest, BundleError, Conflict, NotFound
from registry.prune import prune
from registry.store import Registry


@pytest.fixture
def registry(root: Path) -> Registry:
    """Versions 1 (promoted), 2 and 3 of `colours`."""
    tiny.publish(root, promote=True)
    tiny.publish(root)
    tiny.publish(root)
    return Registry(root)


def set_(registry: Registry, version: int, percent: float = 10) -> int:
    return set_candidate(
        registry, "colours", version, "shadow", percent, by="me", reason="new data"
    )[0]


def promote(registry: Registry, version: int) -> None:
    registry.promote("colours", version, by="me", reason="")


def tried(registry: Registry) -> int | None:
    found = candidate_of(registry, "colours")
    return found and found.pointer.version


def test_a_model_has_no_candidate_until_one_is_set(registry: Registry) -> None:
    assert candidate_of(registry, "colours") is None
    assert set_(registry, 2) == 1
    number, candidate = candidate_of(registry, "colours")
    assert (number, candidate.version, candidate.mode, candidate.percent) == (1, 2, "shadow", 10)
    assert (candidate.by, candidate.reason, candidate.beside) == ("me", "new data", 1)


def test_the_last_candidate_that_was_set_counts(registry: Registry) -> None:
    assert [set_(registry, 2), set_(registry, 3, 50), set_(registry, 2)] == [1, 2, 3]
    assert tried(registry) == 2


def test_clearing_is_a_pointer_too(registry: Registry, root: Path) -> None:
    set_(registry, 2)
    number, cleared = clear_candidate(registry, "colours", by="you", reason="worse")
    assert (number, cleared.version, tried(registry)) == (2, 2, None)
    files = sorted(path.name for path in (root / "colours/aliases/candidate").iterdir())
    assert files == ["000001.json", "000002.json"]


def test_clearing_without_a_candidate_writes_nothing(registry: Registry, root: Path) -> None:
    assert clear_candidate(registry, "colours", by="you", reason="") is None
    assert not (root / "colours/aliases/candidate").exists()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_whatever_is_promoted_ends_the_candidacy(registry: Registry, version: int) -> None:
    set_(registry, 2)
    promote(registry, version)
    assert tried(registry) is None


def test_a_rollback_ends_the_candidacy_for_good(registry: Registry) -> None:
    promote(registry, 2)
    set_(registry, 3)
    promote(registry, registry.rollback_target("colours")[1])
    assert tried(registry) is None
    promote(registry, 2)  # what it was tried beside, and yet another promotion
    assert tried(registry) is None


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan"), float("inf")])
def test_a_share_is_above_nothing_and_at_most_all(registry: Registry, percent: float) -> None:
    with pytest.raises(BadRequest, match="use more than 0 and at most 100"):
        set_(registry, 2, percent)
    assert tried(registry) is None


def test_what_cannot_be_a_candidate_is_refused(registry: Registry, root: Path) -> None:
    with pytest.raises(NotFound, match="no version 9 of colours"):
        set_(registry, 9)
    with pytest.raises(Conflict, match="version 1 is already promoted; try another"):
        set_(registry, 1)
    tiny.publish(root, model="other")
    with pytest.raises(Conflict, match="other: no version is promoted to compare with"):
        set_candidate(registry, "other", 1, "split", 5, by="me", reason="")


def test_a_candidate_set_by_one_who_died_never_was(registry: Registry, root: Path) -> None:
    set_(registry, 2)
    (root / "colours/aliases/candidate/000002.json").touch()
    assert tried(registry) == 2
    assert set_(registry, 3) == 3


def test_a_damaged_pointer_is_named(registry: Registry, root: Path) -> None:
    set_(registry, 2)
    (root / "colours/aliases/candidate/000002.json").write_text('{"version": 2}')
    problem = r"candidate/000002\.json: not a pointer: .*; remove the file"
    with pytest.raises(BundleError, match=problem):
        candidate_of(registry, "colours")


def test_of_many_who_set_one_at_once_every_number_has_one_winner(registry: Registry) -> None:
    def attempt(version: int) -> bool:
        try:
            set_(registry, version)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(attempt, [2, 3] * 20))
    numbers = [number for number, _ in registry.candidates("colours").history()]
    assert numbers == list(range(1, won + 1))


def test_prune_keeps_a_candidate_and_only_while_it_is_one(registry: Registry, root: Path) -> None:
    for _ in range(2):
        tiny.publish(root)
    set_(registry, 2)
    assert prune(registry, "colours", keep=1) == [3, 4]
    clear_candidate(registry, "colours", by="me", reason="")
    assert prune(registry, "colours", keep=1) == [2]
