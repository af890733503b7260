"""How a network was trained to see pixels, as people write it, and what they commonly get wrong."""

import math

from onnx import TensorProto
from pydantic import ValidationError

from registry.errors import BadRequest
from registry.images import ImageSpec
from registry.record import explain
from training.foreign.model import Foreign
from training.foreign.wrap import Pixels


def image_spec(size: int, crop: str, crop_fraction: float) -> ImageSpec:
    """How images are prepared for it.

    Raises:
        BadRequest: a number is out of its range.
    """
    given = {"size": size, "crop": crop, "crop_fraction": crop_fraction}
    try:
        return ImageSpec.model_validate(given)
    except ValidationError as error:
        raise BadRequest(explain(error)) from error


def read_pixels(
    foreign: Foreign, mean: str | None, std: str | None, scale: float, bgr: bool
) -> Pixels:
    """What happens to pixels before the network sees them.

    Raises:
        BadRequest: not said, not numbers, or in other units than --scale says.
    """
    if foreign.dtype == TensorProto.UINT8:
        if mean is not None or std is not None:
            raise BadRequest(
                f"{foreign.path}: takes bytes and scales them itself; leave out --mean and --std"
            )
        return Pixels(bgr=bgr)
    if mean is None or std is None:
        raise BadRequest(
            "say --mean and --std, those the model was trained with: torchvision's are --mean "
            "0.485,0.456,0.406 --std 0.229,0.224,0.225; --mean 0 --std 1 if it had none"
        )
    pixels = Pixels(scale, _numbers("--mean", mean), _numbers("--std", std), bgr)
    if min(pixels.std) <= 0:
        raise BadRequest(f"--std {std}: must be above 0")
    _check_units(pixels, mean, std)
    return pixels


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRequest(f"{flag} {text}: write it as 0.5 or as 0.485,0.456,0.406") from error
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise BadRequest(f"{flag} {text}: needs one number, or three, one a channel")
    return values


def _check_units(pixels: Pixels, mean: str, std: str) -> None:
    if pixels.scale == 255 and (max(pixels.mean) > 1 or max(pixels.std) > 1):
        raise BadRequest(
            f"--mean {mean} --std {std} are for pixels from 0 to 255, and --scale 255 makes them 0 "
            "to 1 first; say --scale 1, or divide both by 255"
        )
    if pixels.scale == 1 and (max(pixels.std) < 1 or 0 < max(pixels.mean) <= 1):
        raise BadRequest(
            f"--mean {mean} --std {std} are for pixels from 0 to 1, and --scale 1 leaves them 0 to "
            "255; say --scale 255, or multiply both by 255"
        )
