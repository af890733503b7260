"""`unfreeze import …`: a foreign ONNX classifier becomes a version.

Exit codes: 0 a version was published, 1 publishing failed, 2 the model or the flags are unusable.
"""

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry.argument_parser import ArgumentParser
from registry.counted import counted
from registry.errors import BadRequest, UnfreezeError

if TYPE_CHECKING:
    from training.foreign.adopt import Adopted

EXAMPLES = """examples:
  # torchvision: any of its ImageNet classifiers, exported by torch.onnx.export
  unfreeze import resnet50.onnx --name imagenet --labels imagenet.txt --logits \\
    --size 224 --crop-fraction 0.875 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

  # Keras by tf2onnx, pixels from -1 to 1, softmax inside, proven on pictures of your own
  unfreeze import birds.onnx --name birds --labels birds.txt --probabilities \\
    --mean 0.5 --std 0.5 --crop squash --golden robin.jpg wren.jpg

Before anything is published, the wrapped model's probabilities are compared with the original's, in
ONNX Runtime. Its graph is simplified by onnxslim, which makes many an export faster, unless that
changes them. The first version of a model is promoted; later ones only with --promote.
"""


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(arguments)
    try:
        return _import(options, shlex.join(arguments))
    except BadRequest as error:
        print(f"unfreeze import: {error}", file=sys.stderr)
        return 2
    except (UnfreezeError, OSError) as error:  # a full disk, no right to write
        print(f"unfreeze import: {error}", file=sys.stderr)
        return 1


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="unfreeze import",
        description="Wraps a foreign ONNX classifier into a bundle and publishes it as a version.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="MODEL.ONNX",
        help="with its weights, or with a file of them beside it (as torch writes MODEL.ONNX.data)",
    )
    add("--name", required=True, metavar="NAME", help="the model to publish a version of")
    add("--labels", required=True, type=Path, metavar="FILE", help="one label per line, in UTF-8")
    gives = parser.add_mutually_exclusive_group()
    for scores in ("logits", "probabilities"):
        what = "needs softmax, or sigmoid with --multi" if scores == "logits" else "needs neither"
        gives.add_argument(
            f"--{scores}", dest="gives", action="store_const", const=scores, help=f"output {what}"
        )
    add("--multi", action="store_true", help="any number of labels can be right at once")
    add("--output", metavar="NAME", help="which output, if there are several")

    seen = parser.add_argument_group("what the network was trained to see")
    add = seen.add_argument
    add("--size", type=int, metavar="PIXELS", help="of its input; default: as its graph says")
    add("--mean", metavar="M[,M,M]", help="subtracted after scaling, one for all channels or three")
    add("--std", metavar="S[,S,S]", help="divided by after that; --mean 0 --std 1 if neither")
    add("--scale", default="255", choices=("255", "1"), help="pixels are divided by it first (255)")
    add("--bgr", action="store_true", help="channels are blue, green, red; so are --mean and --std")
    add("--layout", choices=("nchw", "nhwc"), help="default: as its graph says")
    add(
        "--crop", default="center", choices=("center", "squash"), help="default: the centred square"
    )
    add("--crop-fraction", default=1.0, type=float, metavar="SHARE", help="of the side kept (1)")

    add = parser.add_argument_group("publishing").add_argument
    add(
        "--golden",
        nargs="+",
        default=[],
        type=Path,
        metavar="IMAGE",
        help="images whose answers are checked before a version goes live; default: eight drawn "
        "ones",
    )
    add("--registry", type=Path, default=Path("models"), help="default: models")
    add(
        "--as-is",
        action="store_true",
        help="leave its graph as exported; default: simplified where its answers stay the same",
    )
    add("--promote", action="store_true", help="make it live even if the model has a live version")
    add("--json", action="store_true", help="print one document, what was published")
    return parser


def _import(options: argparse.Namespace, flags: str) -> int:
    from registry.store import Registry, check_name
    from training.export.publishing import label_note_of, publish
    from training.foreign.adopt import adopt
    from training.foreign.flags import image_spec, read_pixels
    from training.foreign.labels import read_labels
    from training.foreign.model import read_foreign

    model = check_name(options.name)
    labels = read_labels(options.labels)
    registry = Registry(options.registry)
    before = registry.promoted(model)
    foreign = read_foreign(
        options.source, output=options.output, layout=options.layout, size=options.size
    )
    pixels = read_pixels(foreign, options.mean, options.std, float(options.scale), options.bgr)
    spec = image_spec(foreign.size, options.crop, options.crop_fraction)
    with tempfile.TemporaryDirectory(prefix="unfreeze-import-") as folder:
        adopted = adopt(
            foreign,
            pixels,
            spec,
            model=model,
            labels=labels,
            task="multi" if options.multi else "single",
            gives=options.gives,
            golden=options.golden,
            flags=flags,
            stage=Path(folder),
            as_is=options.as_is,
        )
        pointer = before.number if before else 0
        version, promoted = publish(
            registry,
            Path(folder),
            adopted.bundle,
            pointer=pointer,
            promote=options.promote,
            by="import",
        )
    if promoted and (note := label_note_of(registry, model)):
        adopted = replace(adopted, notes=(*adopted.notes, note))
    if options.json:
        print(json.dumps(_document(adopted, version, promoted=promoted), ensure_ascii=False))
    else:
        _summarise(adopted, version, registry.root, promoted=promoted)
    return 0


def _document(adopted: "Adopted", version: int, *, promoted: bool) -> dict[str, object]:
    return {
        "model": adopted.bundle.model,
        "version": version,
        "promoted": promoted,
        "labels": len(adopted.bundle.labels),
        "size": adopted.bundle.image.size,
        "fixed_batch": adopted.bundle.fixed_batch,
        "difference": adopted.difference,
        "notes": adopted.notes,
    }


def _summarise(adopted: "Adopted", version: int, root: Path, *, promoted: bool) -> None:
    bundle = adopted.bundle
    for note in adopted.notes:
        print(f"note: {note}", file=sys.stderr)
    batch = f", {counted(bundle.fixed_batch, 'image')} at a time" if bundle.fixed_batch else ""
    print(
        f"{bundle.model} version {version}: {len(bundle.labels)} labels, {bundle.image.size} "
        f"pixels{batch}; differs from the original by {adopted.difference:.1e} at most"
    )
    lives = f"unfreeze promote {bundle.model} {version} makes it live"
    print("promoted" if promoted else f"published, not promoted: {lives}")
    which = "" if promoted else f" --model-version {version}"
    print(f"serve it:  unfreeze serve --registry {shlex.quote(str(root))}")
    print(f"ask it:    unfreeze predict PHOTO.JPG --model {bundle.model}{which}")


if __name__ == "__main__":
    sys.exit(main())
