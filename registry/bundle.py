"""A bundle: one published version of a model, an immutable folder with everything serving needs.

model.onnx    input `image` uint8 [n,s,s,3] RGB, output `probabilities` float32 [n,classes]
model.int8.onnx, model.fp16.onnx   reduced-precision variants, if they cost next to nothing
golden.npz    a few encoded images and their answers
report/       the evaluation report, for people
bundle.json   everything else, and the SHA-256 of every file above; written last
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import from_json

from registry.errors import BundleError
from registry.files import read_json, sha256_file, write_durably
from registry.images import ImageSpec
from registry.record import Record, explain
from registry.tta import TtaSpec

SCHEMA = 2
MANIFEST = "bundle.json"
MAX_MANIFEST = 16 << 20  # bytes; a hundred thousand labels take 2 MB
MODEL = "model.onnx"
GOLDEN = "golden.npz"

Task = Literal["single", "multi"]
Precision = Literal["fp32", "int8", "fp16"]
Reduced = Literal["int8", "fp16"]

FILES: dict[Precision, str] = {"fp32": MODEL, "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}
# Fields that schema 1 does not have.
SINCE_2 = ("fixed_batch", "variants")

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Variant(Record):
    """What a reduced-precision variant costs and gains, measured when it was made."""

    metric: str
    metric_change: float  # in points: for accuracy, -0.3 is three in a thousand fewer images right
    images: int = Field(ge=1)  # number of held-out images that it was measured on
    # throughput relative to model.onnx, on one thread of the CPU that made it, or on its GPU if the
    # variant is for GPUs; None if there was no GPU
    speedup: float | None = None


class Bundle(Record):
    """The content of `bundle.json`.

    It declares the lowest schema version that can express it, so that an older program reads every
    bundle that it understands and refuses the others by their number. 2 added `fixed_batch` and
    `variants`.
    """

    # the only batch size that the network accepts; None: any
    fixed_batch: int | None = Field(default=None, ge=1)
    # the accepted ones; each has its own file
    variants: dict[Reduced, Variant] = Field(default_factory=dict)
    schema_version: Literal[1, 2] = Field(
        default_factory=lambda given: 2 if any(given.get(name) for name in SINCE_2) else 1
    )
    model: str
    created_at: datetime
    task: Task
    labels: tuple[str, ...] = Field(min_length=2)
    image: ImageSpec
    tta: TtaSpec = TtaSpec()
    # one per label, multi-label models only
    thresholds: tuple[float, ...] = ()
    # largest allowed difference from the golden answers, by file and provider ("model.onnx/cpu")
    tolerances: dict[str, float]
    metrics: dict[str, float] = Field(default_factory=dict)
    provenance: dict[str, str] = Field(default_factory=dict)
    files: dict[str, Digest]

    @model_validator(mode="after")
    def _consistent(self) -> "Bundle":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("duplicate labels")
        expected = len(self.labels) if self.task == "multi" else 0
        if len(self.thresholds) != expected:
            raise ValueError(f"{len(self.thresholds)} thresholds, expected {expected}")
        for name in SINCE_2:
            if getattr(self, name) and self.schema_version == 1:
                raise ValueError(f"schema 1 has no field {name}")
        for required in (MODEL, GOLDEN, *(FILES[precision] for precision in self.variants)):
            if required not in self.files:
                raise ValueError(f"no {required} among the files")
        return self

    def onnx_metadata(self) -> dict[str, str]:
        """The metadata of the ONNX file, so that it cannot be served with another manifest."""
        return {
            "unfreeze.labels": json.dumps(self.labels),
            "unfreeze.task": self.task,
            "unfreeze.thresholds": json.dumps(self.thresholds),
            "unfreeze.image_spec": self.image.digest(),
        }


def seal(folder: Path, bundle: Bundle) -> None:
    """Makes `folder` a bundle by writing its manifest; from then on the version exists.

    Raises:
        BundleError: the manifest is larger than any that is read.
    """
    unset = {name for name in SINCE_2 if not getattr(bundle, name)}
    content = bundle.model_dump_json(indent=2, exclude=unset).encode() + b"\n"
    if len(content) > MAX_MANIFEST:
        raise BundleError(
            f"{_where(folder)}: {MANIFEST} would have {len(content)} bytes, and at most "
            f"{MAX_MANIFEST} are read; use shorter labels, or fewer"
        )
    write_durably(folder / MANIFEST, content)


def read_bundle(folder: Path) -> Bundle:
    """The manifest of a bundle, validated; the other files are not checked.

    Raises:
        BundleError: there is none, or this program cannot read it.
        OSError: the disk reports an error, which may be temporary and is no damage.
    """
    where = _where(folder)
    try:
        # refuses text that is not Unicode, which neither a message nor the metrics could hold
        content = from_json(read_json(folder / MANIFEST, MAX_MANIFEST))
    except FileNotFoundError as error:
        raise BundleError(f"{where}: no {MANIFEST}; this version was never published") from error
    except (PermissionError, ValueError) as error:
        raise BundleError(f"{where}: {MANIFEST} cannot be read: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise BundleError(
            f"{where}: {MANIFEST} has schema {version}, and this program reads up to {SCHEMA}; "
            "upgrade unfreeze"
        )
    try:
        return Bundle.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{where}: {MANIFEST} is not valid: {explain(error)}") from error


def verify_bundle(folder: Path) -> Bundle:
    """The manifest, after checking every file against it, and that there are no others.

    Raises:
        BundleError: a file is missing, changed, added or a link.
    """
    bundle = read_bundle(folder)
    where = _where(folder)
    found = files_of(folder)
    for name, digest in bundle.files.items():
        if name not in found:
            raise BundleError(f"{where}: {name} is missing; publish again")
        if sha256_file(folder / name) != digest:
            raise BundleError(f"{where}: {name} differs from {MANIFEST}; publish again")
    if extra := sorted(found - set(bundle.files)):
        raise BundleError(f"{where}: {extra[0]} is not listed in {MANIFEST}; remove it")
    return bundle


def files_of(folder: Path) -> set[str]:
    """Paths of all files below `folder` except the manifest, relative to it, with forward slashes.

    Raises:
        BundleError: one of them is a symbolic link, or not a regular file.
    """
    names = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"{_where(folder)}: {name} is not a plain file; remove it")
        if path.is_file() and name != MANIFEST and not name.startswith(f".{MANIFEST}."):
            names.add(name)
    return names


def _where(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
