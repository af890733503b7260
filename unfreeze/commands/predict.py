"""`unfreeze predict`: images in, labels out."""

import argparse
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG

import grpc

from unfreeze.bounds import MOST_32, MOST_64
from unfreeze.client import TIMEOUT_S, Client
from unfreeze.commands.shared import (
    FAILED,
    OK,
    Commands,
    UsageError,
    above_zero,
    add_address,
    add_command,
    add_json,
    say,
    show_fields,
    show_json,
    whole,
)
from unfreeze.predictions import Prediction

SUFFIXES = {".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"}

EXAMPLES = """\
  unfreeze predict cell.png --model solar
  unfreeze predict photos/ --model solar --tta-views 8
  unfreeze predict *.jpg --model pets --top-k 3
  unfreeze predict photos/ --model solar --json | jq -r 'select(.error) | .image'
"""


def add_to(commands: Commands) -> None:
    parser = add_command(commands, "predict", "classify images, files or whole folders", EXAMPLES)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", type=Path, help="JPEG, PNG or WebP, or a folder of them"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="one of the server's models")
    parser.add_argument(
        "--model-version",
        type=whole(1, MOST_64),
        metavar="N",
        help="a version other than the promoted one",
    )
    parser.add_argument(
        "--top-k",
        type=whole(1, MOST_32),
        metavar="K",
        help="labels to print per image (those chosen: the most probable one, or of a multi-label "
        "model each that reaches its threshold)",
    )
    parser.add_argument(
        "--tta-views",
        type=whole(0, MOST_32),
        metavar="N",
        help="views to average (test-time augmentation), 0 for none (the model's default)",
    )
    parser.add_argument(
        "--timeout",
        type=above_zero,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="for each request of up to 32 images (60)",
    )
    add_address(parser)
    parser.add_argument(
        "--ca",
        type=Path,
        default=os.environ.get("UNFREEZE_CA") or None,
        metavar="FILE",
        help="use TLS, and trust the CA certificates in this PEM file (UNFREEZE_CA)",
    )
    add_json(parser, "JSON lines, one object per image, as the answers arrive")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if any image could not be classified."""
    images = list(_images(options.files))
    with Client(options.address, credentials=_credentials(options.ca)) as client:
        answers = client.classify_each(
            images,
            model=options.model,
            version=options.model_version,
            top_k=options.top_k,
            tta_views=options.tta_views,
            timeout_s=options.timeout,
        )
        if options.top_k is None:
            answers = (replace(answer, labels=answer.chosen) for answer in answers)
        n_failed = _show(answers, as_json=options.json)
    if n_failed:
        say(
            f"{n_failed} of {len(images)} {'image' if len(images) == 1 else 'images'} could not be "
            "classified"
        )
    return FAILED if n_failed else OK


def _credentials(authorities: Path | None) -> grpc.ChannelCredentials | None:
    if authorities is None:
        return None
    try:
        content = authorities.read_bytes()
    except OSError as error:
        raise UsageError(f"--ca {authorities}: {error.strerror}") from error
    if b"BEGIN CERTIFICATE" not in content:  # gRPC would not connect, and not say why
        raise UsageError(f"--ca {authorities}: no certificate in PEM form in this file")
    return grpc.ssl_channel_credentials(content)


def _images(given: Iterable[Path]) -> Iterator[Path]:
    """Files as given, and every regular file below a folder that is named like an image.

    Raises:
        UsageError: a path does not exist, or a folder contains no image.
    """
    for path in given:
        if path.is_dir():
            named = (each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
            found = sorted(each for each in named if _is_regular(each))
            if not found:
                raise UsageError(f"{path}: no JPEG, PNG or WebP in this folder")
            yield from found
        elif path.exists():
            yield path
        else:
            raise UsageError(f"{path}: no such file or folder")


def _is_regular(path: Path) -> bool:
    """It is no folder, and no pipe, socket or device, which might never be read to its end."""
    try:
        return S_ISREG(path.stat().st_mode)
    except OSError:
        return True  # the client will report what is wrong with it


def _show(answers: Iterable[Prediction], *, as_json: bool) -> int:
    """Prints each answer; returns the number of images that failed."""
    n_failed = 0
    for answer in answers:
        n_failed += answer.error is not None
        if as_json:
            show_json(answer)
        else:
            show_fields([answer.image, *_in_words(answer)])
    return n_failed


def _in_words(answer: Prediction) -> list[str]:
    if answer.error is not None:
        return [f"error: {answer.error}"]
    return [f"{label.name} {label.probability:.3f}" for label in answer.labels] or ["no label"]
