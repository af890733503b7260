"""The contract of every network: its input, output and metadata."""

from typing import Any

from registry.bundle import Bundle
from registry.errors import BundleError
from registry.quoted import quoted


def check_contract(session: Any, bundle: Bundle, where: str, name: str) -> None:
    """Checks that the network opened from the file `name` is the one that the manifest describes.

    Raises:
        BundleError: it is not.
    """
    size, classes = bundle.image.size, len(bundle.labels)
    inputs = [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()]
    outputs = [(one.name, one.type) for one in session.get_outputs()]
    width = session.get_outputs()[0].shape[-1:]
    if inputs != [("image", "tensor(uint8)", [size, size, 3])]:
        raise BundleError(f"{where}: input is {inputs}, not image uint8 [n,{size},{size},3]")
    # an exporter may leave the width dynamic; the golden answers check it
    if outputs != [("probabilities", "tensor(float)")] or width not in ([classes], [None]):
        raise BundleError(
            f"{where}: output is {outputs} of width {width}, not probabilities float32 "
            f"[n,{classes}]"
        )
    stated = session.get_modelmeta().custom_metadata_map
    for key, value in bundle.onnx_metadata().items():
        if stated.get(key) != value:
            raise BundleError(
                f"{where}: {name} says {key} is {quoted(stated.get(key), 200)}, but bundle.json "
                f"says {quoted(value, 200)}; publish again"
            )
