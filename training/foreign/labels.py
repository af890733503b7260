"""The file that names a foreign model's classes, one a line, in the order of its outputs."""

from pathlib import Path

from registry.errors import BadRequest


def read_labels(path: Path) -> tuple[str, ...]:
    """The label of every output. Spaces around a label and blank lines at the end do not count.

    Raises:
        BadRequest: it cannot be read, a line is blank, a label repeats, or it has less than two.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8, a label a line"
        ) from error
    labels = [line.strip() for line in text.rstrip().split("\n")]
    first: dict[str, int] = {}
    for number, label in enumerate(labels, start=1):
        if not label:
            raise BadRequest(f"{path}: line {number} is blank; every line must name a class")
        if label in first:
            raise BadRequest(
                f"{path}: {label!r} is on lines {first[label]} and {number}; make the two differ, "
                "as in 'crane (bird)' and 'crane (machine)'"
            )
        first[label] = number
    if len(labels) < 2:
        raise BadRequest(f"{path}: a classifier needs at least two labels, a line each")
    return tuple(labels)


def check_width(labels: tuple[str, ...], width: int, model: Path) -> None:
    """Checks that there are as many labels as the model gives numbers for an image.

    Raises:
        BadRequest: there are more or fewer.
    """
    if width == 1:
        raise BadRequest(
            f"{model}: gives one number for an image; a bundle has at least two classes, so export "
            "it with an output for each of them"
        )
    if len(labels) != width:
        hint = ""
        if width == len(labels) + 1:
            hint = " (some models begin with a class for the background: it needs a label, too)"
        raise BadRequest(
            f"{model}: gives {width} numbers for an image, and there are {len(labels)} labels{hint}"
        )
