"""Preprocesses encoded images for the peers' models: the same crop and fast decoding as ours."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 224
MEAN = STD = 127.5


def normalised(encoded: bytes) -> npt.NDArray[np.float32]:
    """The largest centred square as float32 [1,3,224,224], decoded no larger than needed."""
    image = Image.open(io.BytesIO(encoded))
    scale = min(1.0, SIZE / min(image.size))
    image.draft("RGB", (round(image.width * scale), round(image.height * scale)))
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(small, np.float32).transpose(2, 0, 1)[None]
    return (pixels - np.float32(MEAN)) / np.float32(STD)
