"""Versions and pointers, also when many write at once or one dies half-way."""

import codecs
import json
import os
import resource
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny

from registry.errors import BadRequest, BundleError, Conflict, NotFound
from registry.prune import prune
from registry.store import Registry, check_name


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(root)


def promote(registry: Registry, version: int, expected: int | None = None) -> int:
    number, _ = registry.promote("colours", version, by="me", reason="why", expected=expected)
    return number


def test_versions_count_from_one(registry: Registry, root: Path) -> None:
    assert [tiny.publish(root) for _ in range(3)] == [1, 2, 3]
    assert registry.versions("colours") == [1, 2, 3]
    assert registry.models() == ["colours"]


def test_a_version_is_found_without_looking_at_the_others(root: Path) -> None:
    """Else to list a thousand of them takes a million looks."""

    class Listed(Registry):
        def versions(self, model: str) -> list[int]:
            raise AssertionError("all were looked at")

    assert tiny.publish(root) == 1
    assert Listed(root).bundle("colours", 1).labels == tiny.LABELS


def test_a_url_is_not_taken_for_an_empty_registry() -> None:
    with pytest.raises(BadRequest, match=r"s3:/bucket/models is a URL; only folders are read"):
        Registry(Path("s3://bucket/models"))


def test_an_absent_registry_is_empty(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "absent")
    assert registry.models() == []
    assert registry.versions("colours") == []
    assert registry.promoted("colours") is None


def test_concurrent_publishers_get_a_number_each(registry: Registry, root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: tiny.publish(root), range(16)))
    assert sorted(versions) == list(range(1, 17)) == registry.versions("colours")


def test_a_publisher_that_died_leaves_no_version_and_its_number_is_not_reused(
    registry: Registry, root: Path
) -> None:
    tiny.publish(root)
    (root / "colours" / "2").mkdir()
    (root / "colours" / "2" / "model.onnx").write_bytes(b"half")
    assert registry.versions("colours") == [1]
    assert tiny.publish(root) == 3
    with pytest.raises(NotFound, match="no version 2 of colours; published: 1, 3"):
        registry.folder("colours", 2)


def test_files_that_differ_from_the_manifest_are_not_published(
    registry: Registry, root: Path, tmp_path: Path
) -> None:
    bundle = tiny.stage(tmp_path / "stage")
    (tmp_path / "stage" / "report.txt").write_text("added later")
    with pytest.raises(BundleError, match=r"report\.txt changed while it was being published"):
        registry.publish(tmp_path / "stage", bundle)
    assert registry.versions("colours") == []


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """A file can have no more bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_is_published_nowhere_and_takes_no_room(
    registry: Registry, root: Path, tmp_path: Path
) -> None:
    bundle = tiny.stage(tmp_path / "stage")
    with room_for(100), pytest.raises(OSError, match="File too large"):
        registry.publish(tmp_path / "stage", bundle)
    assert list((root / "colours").iterdir()) == []


def test_a_pointer_that_does_not_fit_is_not_there(registry: Registry, root: Path) -> None:
    tiny.publish(root, promote=True)
    with room_for(60), pytest.raises(OSError, match="File too large"):
        promote(registry, 1)
    assert [path.name for path in (root / "colours/aliases/promoted").iterdir()] == ["000001.json"]
    assert promote(registry, 1) == 2


def test_nothing_is_promoted_by_publishing(registry: Registry, root: Path) -> None:
    tiny.publish(root)
    assert registry.promoted("colours") is None
    assert registry.history("colours") == []


def test_the_highest_pointer_wins_and_remembers_what_it_replaced(
    registry: Registry, root: Path
) -> None:
    for _ in range(2):
        tiny.publish(root)
    assert [promote(registry, 2), promote(registry, 1)] == [1, 2]
    number, pointer = registry.promoted("colours")
    assert (number, pointer.version, pointer.replaced) == (2, 1, 2)
    assert (pointer.by, pointer.reason) == ("me", "why")
    assert [pointer.version for _, pointer in registry.history("colours")] == [2, 1]


def test_a_pointer_whose_writer_died_never_took_effect(registry: Registry, root: Path) -> None:
    tiny.publish(root, promote=True)
    pointers = root / "colours" / "aliases" / "promoted"
    (pointers / "000002.json").touch()
    assert registry.promoted("colours").number == 1
    assert promote(registry, 1) == 3


def test_a_pointer_that_an_editor_saved_with_a_byte_order_mark_is_in_force(
    registry: Registry, root: Path
) -> None:
    tiny.publish(root, promote=True)
    pointer = root / "colours" / "aliases" / "promoted" / "000001.json"
    pointer.write_bytes(codecs.BOM_UTF8 + pointer.read_bytes())
    assert registry.promoted("colours").pointer.version == 1


def test_a_damaged_pointer_is_named(registry: Registry, root: Path) -> None:
    tiny.publish(root, promote=True)
    (root / "colours" / "aliases" / "promoted" / "000002.json").write_text("{}")
    with pytest.raises(BundleError, match=r"000002\.json: not a pointer: version: Field required"):
        registry.promoted("colours")


NO_POINTERS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe, which nobody writes to": os.mkfifo,
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a version that no message can hold": lambda path: path.write_text(
        json.dumps(dict(version=10**30, replaced=None, at="2026-01-01T00:00Z", by="", reason=""))
    ),
    "a file of a terabyte": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


@pytest.mark.parametrize("what", NO_POINTERS)
def test_what_is_no_pointer_is_named(registry: Registry, root: Path, what: str) -> None:
    tiny.publish(root, promote=True)
    NO_POINTERS[what](root / "colours" / "aliases" / "promoted" / "000002.json")
    with pytest.raises(BundleError, match=r"000002\.json: not a pointer"):
        registry.promoted("colours")


def test_a_reason_that_no_reader_would_take_is_refused(registry: Registry, root: Path) -> None:
    tiny.publish(root, promote=True)
    with pytest.raises(BadRequest, match="the reason is too long"):
        registry.promote("colours", 1, by="me", reason="x" * 2_000_000)
    assert promote(registry, 1) == 2


def test_a_folder_whose_number_is_beyond_all_versions_is_none(
    registry: Registry, root: Path
) -> None:
    tiny.publish(root)
    for name in ("9" * 19, "٣"):
        shutil.copytree(root / "colours" / "1", root / "colours" / name)
    assert registry.versions("colours") == [1]
    assert tiny.publish(root) == 2


def test_a_look_at_many_pointers_takes_little_memory(registry: Registry, root: Path) -> None:
    tiny.publish(root, promote=True)
    pointers, n = root / "colours" / "aliases" / "promoted", 1000
    for number in range(2, n + 1):
        os.link(pointers / "000001.json", pointers / f"{number:06d}.json")
    tracemalloc.start()
    try:
        assert registry.promoted("colours").number == n
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / n < 200  # bytes; a server looks every second, for as long as it lives


def test_a_promotion_expects_the_pointer_that_it_was_decided_on(
    registry: Registry, root: Path
) -> None:
    tiny.publish(root)
    assert promote(registry, 1, expected=0) == 1
    with pytest.raises(Conflict, match=r"another version was promoted in the meantime"):
        promote(registry, 1, expected=0)
    assert promote(registry, 1, expected=1) == 2


def attempt(action: Callable[[], object]) -> bool:
    try:
        action()
    except Conflict:
        return False
    return True


def test_of_many_who_expect_the_same_pointer_one_wins(registry: Registry, root: Path) -> None:
    tiny.publish(root)
    with ThreadPoolExecutor(8) as pool:
        for expected in range(10):
            outcomes = pool.map(
                lambda _: attempt(lambda: promote(registry, 1, expected)),  # noqa: B023
                range(8),
            )
            assert sum(outcomes) == 1
    assert [number for number, _ in registry.history("colours")] == list(range(1, 11))


def test_an_unknown_version_cannot_be_promoted(registry: Registry, root: Path) -> None:
    tiny.publish(root)
    with pytest.raises(NotFound):
        promote(registry, 2)


def test_rollback_returns_to_what_was_replaced_and_back(registry: Registry, root: Path) -> None:
    for _ in range(2):
        tiny.publish(root, promote=True)
    for replaced in (1, 2, 1):
        number, version = registry.rollback_target("colours")
        assert version == replaced
        promote(registry, version, expected=number)


def test_what_is_promoted_twice_is_rolled_back_to_what_was_before_and_prune_keeps_that(
    registry: Registry, root: Path
) -> None:
    for _ in range(3):
        tiny.publish(root)
    for version in (1, 3, 3):
        promote(registry, version)
    assert registry.rollback_target("colours") == (3, 1)
    assert prune(registry, "colours", keep=1) == [2]


def test_a_registry_that_can_be_written_to_has_no_problem(registry: Registry, root: Path) -> None:
    tiny.publish(root, promote=True)
    assert registry.write_problem("colours") == registry.write_problem("other") == ""


def write_problem(root: Path, model: str, mount_below: str = "true") -> str:
    """What the registry says of itself where `root` is mounted read-only, but for what
    `mount_below` mounts in it."""
    alone = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-e", "-c")
    mount = f'mount --bind "$0" "$0"; {mount_below}; mount -o remount,bind,ro "$0"; exec "$@"'
    if subprocess.run([*alone, mount, root, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only who may mount can try")
    ask = (
        "from pathlib import Path; from registry.store import Registry; "
        f"print(Registry(Path({str(root)!r})).write_problem({model!r}))"
    )
    command = [*alone, mount, root, sys.executable, "-c", ask]
    here = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here)
    return done.stdout.strip()


@pytest.mark.parametrize("model", ["colours", "other"])
def test_a_registry_that_is_mounted_read_only_says_that_it_cannot_be_written_to(
    root: Path, model: str
) -> None:
    tiny.publish(root, promote=True)
    told = write_problem(root, model)
    place = "colours" if model == "colours" else "the registry"
    assert told.startswith(f"{place} cannot be written to")


def test_a_model_may_be_published_to_below_a_registry_that_is_read_only(root: Path) -> None:
    tiny.publish(root, promote=True)
    assert write_problem(root, "colours", 'mount --bind "$0/colours" "$0/colours"') == ""


def test_rollback_needs_something_to_go_back_to(registry: Registry, root: Path) -> None:
    tiny.publish(root, promote=True)
    promote(registry, 1)
    with pytest.raises(Conflict, match="nothing to roll back to"):
        registry.rollback_target("colours")


def test_prune_keeps_the_newest_the_promoted_and_its_rollback(
    registry: Registry, root: Path
) -> None:
    for _ in range(6):
        tiny.publish(root)
    promote(registry, 2)
    promote(registry, 1)
    assert prune(registry, "colours", keep=2) == [3, 4]
    assert registry.versions("colours") == [1, 2, 5, 6]
    assert prune(registry, "colours", keep=10) == []


def abandoned(root: Path, version: int) -> Path:
    """The folder of a version that was never published, or whose deletion was cut short."""
    folder = root / "colours" / str(version)
    (folder / "report").mkdir(parents=True)
    for name in ("model.onnx", "report/index.html"):
        (folder / name).write_bytes(b"half")
    return folder


def test_prune_empties_what_was_left_half_done_and_keeps_its_number(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.publish(root)
    left = [abandoned(root, version) for version in (2, 5)]
    monkeypatch.setattr("registry.prune.ABANDONED_S", -1.0)  # whatever is there is old enough
    assert prune(registry, "colours", keep=1) == []
    assert [list(folder.iterdir()) for folder in left] == [[], []]
    assert registry.versions("colours") == [1]
    assert registry.bundle("colours", 1).labels == tiny.LABELS
    assert tiny.publish(root) == 6


def test_prune_leaves_what_is_being_published_and_what_a_pointer_names(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        tiny.publish(root)
    promote(registry, 1)
    under_way = abandoned(root, 3)
    os.utime(under_way / "model.onnx", (0, 0))  # as a copy that keeps times has it
    prune(registry, "colours", keep=1)
    assert (under_way / "model.onnx").is_file()
    (root / "colours" / "1" / "bundle.json").unlink()  # to be put back by somebody
    monkeypatch.setattr("registry.prune.ABANDONED_S", -1.0)
    prune(registry, "colours", keep=1)
    assert (root / "colours" / "1" / "model.onnx").is_file()
    assert list(under_way.iterdir()) == []


def test_the_number_of_a_pruned_version_is_not_given_out_again(
    registry: Registry, root: Path
) -> None:
    for _ in range(2):
        tiny.publish(root)
    promote(registry, 2)
    shutil.rmtree(root / "colours" / "2")
    assert tiny.publish(root) == 3


def damage(root: Path, *numbers: int) -> None:
    for number in numbers:
        (root / f"colours/aliases/promoted/{number:06d}.json").write_text("{}")


def test_a_damaged_pointer_holds_up_no_publishing_if_the_next_one_names_what_it_meant(
    registry: Registry, root: Path
) -> None:
    for _ in range(2):
        tiny.publish(root)
    for version in (1, 2, 1):
        promote(registry, version)
    shutil.rmtree(root / "colours" / "2")
    damage(root, 2)
    assert tiny.publish(root) == 3
    assert [number for number, _ in registry.history("colours")] == [1, 3]


@pytest.mark.parametrize("damaged", [(1, 2), (3,)])
def test_no_number_is_given_out_that_a_damaged_pointer_may_have_meant(
    registry: Registry, root: Path, damaged: tuple[int, ...]
) -> None:
    tiny.publish(root)
    for _ in range(3):
        promote(registry, 1)
    damage(root, *damaged)
    for call in (lambda: registry.next_version("colours"), lambda: tiny.publish(root)):
        with pytest.raises(BundleError, match=r"00000\d\.json: not a pointer: .*remove the file"):
            call()
    assert registry.versions("colours") == [1]


GOOD_NAMES = ["a", "resnet34", "solar.v2", "A_b-c", "9", "x" * 128, "tensor"]
BAD_NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "-flag",
    "a/b",
    "../a",
    "/etc",
    "a b",
    "a\0",
    "a\n",
    "grün",
    "x" * 129,
    "solar-tensor",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_be_a_path_is_refused_everywhere(registry: Registry, name: str) -> None:
    for call in (check_name, registry.versions, registry.promoted, registry.history):
        with pytest.raises(BadRequest, match="is not a valid model name"):
            call(name)


def test_what_is_not_a_model_is_passed_over(registry: Registry, root: Path) -> None:
    tiny.publish(root)
    (root / "README").write_text("hello")
    (root / ".cache").mkdir()
    (root / "empty").mkdir()
    shutil.copytree(root / "colours", root / "colours-tensor")
    assert registry.models() == ["colours"]


def test_numbers_that_are_used_up_are_an_error_and_no_endless_search(tmp_path: Path) -> None:
    last = "9" * 18
    (tmp_path / "colours" / last).mkdir(parents=True)
    with pytest.raises(BundleError, match=f"no version can follow number {last}"):
        Registry(tmp_path).next_version("colours")
