"""Lists the images of a folder, with their labels.

PATH/train/<class>/…, PATH/valid/<class>/…     the split is given; test/ may be beside them; or
                                               training/, validation/ or val/, and testing/
PATH/train/<class>/…                           the same, but held-out images are drawn at random
PATH/<class>/…                                 split at random

Hidden files and folders are skipped: macOS leaves `._1.jpg` beside 1.jpg, Jupyter keeps copies in
`.ipynb_checkpoints`.
"""

import os
import re
from pathlib import Path
from typing import NoReturn

from registry.counted import counted
from registry.errors import DataError
from training.data.items import PARTS, PLAIN, TABLES, Item, Layout, Part
from training.data.paths import check_there

SUFFIXES = {".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"}
OTHERS = {".avif", ".bmp", ".dcm", ".gif", ".heic", ".heif", ".jp2", ".tif", ".tiff"}
ALSO_CLASSES = {"training", "testing"}  # where other class folders stand beside them
LIKE_PARTS = {*PARTS, "holdout", "dev", "eval", "evaluation"}  # as a word of a folder's name


def list_folder(root: Path, layout: Layout = PLAIN) -> list[Item]:
    """Every image in class folders, and in the test folder if there is one; none is opened.

    Images to be split are ordered by file name, whatever their class; others by path.

    Raises:
        DataError: there are none, or the layout is not one of those above.
    """
    check_there(root)
    given = _part_folders(root)
    test = root / layout.test if layout.test else given.get("test")
    tests = list_test(test) if test else []
    if "valid" in given:
        return (
            _list_classes(given["train"], "train") + _list_classes(given["valid"], "valid") + tests
        )
    if not given:
        _check_classes(root, [folder for folder in _folders(root) if folder != test])
    drawn = _list_classes(given.get("train", root), None, test)
    drawn.sort(key=lambda item: (_natural(item.path.name), item.path))
    return drawn + tests


def _part_folders(root: Path) -> dict[Part, Path]:
    """The folders of the parts in `root`, case-insensitively; none if it has class folders, some of
    which may be called train, like the vehicle, or training and testing."""
    folders = _folders(root)
    found: dict[Part, list[Path]] = {}
    for folder in folders:
        if part := PARTS.get(folder.name.casefold()):
            found.setdefault(part, []).append(folder)
    if "train" not in found:
        return {}
    others = [folder.name for folder in folders if folder.name.casefold() not in PARTS]
    train = found["train"][0]
    names = {folder.name.casefold() for both in found.values() for folder in both}
    if others and "train" not in names:
        return {}
    if not any(_folders(folder) for folder in found["train"]):
        if others and names <= {"train", *ALSO_CLASSES}:
            return {}
        itself = "; or, if train is a class itself, put all class folders into one called train"
        raise DataError(
            f"{train}: no class folders; put the images of each class into one, or name "
            f"them in a CSV of file,label, with the setting images={train.name}{itself}"
        )
    if "valid" not in found and others:
        raise DataError(
            f"{root}: {train.name}/ stands beside {others[0]}/, but there is no valid/; "
            "rename the held-out part to valid, or put all class folders side by side"
        )
    for part, both in found.items():
        if len(both) > 1:
            raise DataError(
                f"{root}: {' and '.join(f'{folder.name}/' for folder in both)} are names of one "
                f"part; put all its images into {part}/, or move those that are not its own away"
            )
    return {part: folder for part, (folder,) in found.items()}


def _check_classes(root: Path, folders: list[Path]) -> None:
    """Raises DataError if `folders`, those of the classes, seem to be the parts of a data set."""
    names = ", ".join(f"{folder.name}/" for folder in folders[:3])
    if folders and all(folder.name.casefold() in PARTS for folder in folders):
        raise DataError(
            f"{root}: has only {names}, which by name are parts of a data set, and no train/; call "
            f"the part to train on train; or, if each is a class, put them into {root / 'train'}/"
        )
    parts = [
        folder
        for folder in folders
        if LIKE_PARTS & set(re.findall(r"[a-z]+", folder.name.casefold()))
    ]
    if len(parts) < 2 or len(inner := _classes_within(parts[0])) < 2:
        return
    if all(_classes_within(folder) == inner for folder in parts[1:]):
        names = ", ".join(f"{folder.name}/" for folder in parts[:3])
        raise DataError(
            f"{root}: {names} hold the same folders, such as {inner[0]}/; call them train and "
            f"valid if they are parts of the data set; or, if each is a class, put them into "
            f"{root / 'train'}/"
        )


def _classes_within(folder: Path) -> list[str]:
    """The names of the folders in `folder`; none where it has images of its own beside them."""
    try:
        if any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
            return []
        return [inner.name for inner in _folders(folder)]
    except OSError as error:
        _closed(error)


def passed_over(source: Path) -> tuple[Path, ...]:
    """Images in a folder in formats that are not supported. None for a table, which names its
    files; and none behind links, as these may lead outside the folders that may be trained on."""
    return tuple(_files(source, OTHERS, links=False)) if source.is_dir() else ()


def empty_classes(source: Path) -> tuple[Path, ...]:
    """Class folders without a single image of a supported format. None for a table."""
    if not source.is_dir():
        return ()
    parts = [folder for part, folder in _part_folders(source).items() if part != "test"]
    classes = [folder for root in parts or [source] for folder in _folders(root)]
    return tuple(folder for folder in classes if not _images(folder))


def list_test(folder: Path) -> list[Item]:
    """The images to predict at the end; a subfolder of `folder` is the label of its images."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of test images; change the setting test")
    return [Item(path, path.relative_to(folder).parts[:-1][:1], "test") for path in _images(folder)]


def _list_classes(root: Path, part: Part | None, without: Path | None = None) -> list[Item]:
    folders = [folder for folder in _folders(root) if folder != without]
    items = [Item(path, (folder.name,), part) for folder in folders for path in _images(folder)]
    if not items:
        beside = sum(path.suffix.lower() in SUFFIXES for path in root.iterdir())
        there = f"{counted(beside, 'image')}, but none in a class folder" if beside else "no images"
        if other := next((path for folder in folders for path in _files(folder)), None):
            there += f": {other} is none by the end of its name"
        raise DataError(
            f"{root}: {there}; put JPEG, PNG or WebP files into one folder for each class, or name "
            f"them in a CSV of file,label{table_hint(root)}"
        )
    return items


def table_hint(folder: Path) -> str:
    """What may be meant by a folder that has a table in it."""
    found = folder.iterdir() if folder.is_dir() else ()
    tables = sorted(each for each in found if each.suffix.lower() in TABLES and each.name[0] != ".")
    return f"; if {tables[0].name} names the images, give {tables[0]}" if tables else ""


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _images(folder: Path) -> list[Path]:
    return _files(folder, SUFFIXES, links=True)


def _files(folder: Path, suffixes: set[str] | None = None, *, links: bool = False) -> list[Path]:
    """Files with one of the suffixes, or all, sorted; with `links` also in linked folders, each
    folder once. Hidden files and folders are skipped.

    Raises:
        DataError: a folder cannot be listed.
    """
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=links, onerror=_closed):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        paths = (Path(where, name) for name in names if name[0] != ".")
        found += [path for path in paths if suffixes is None or path.suffix.lower() in suffixes]
    return sorted(found)


def _closed(error: OSError) -> NoReturn:
    raise DataError(
        f"{error.filename}: cannot be listed ({error.strerror}); make it readable for this user, "
        "or move it away"
    ) from error


def _natural(name: str) -> list[tuple[int, str]]:
    """A key for natural order: cell2 before cell10."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]
