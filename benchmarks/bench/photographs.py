"""Images to send: crops of the two colour photographs that come with scikit-learn."""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

WIDTH, HEIGHT = 500, 375
QUALITY = 90


def jpegs(n: int) -> list[bytes]:
    """`n` different JPEG files of 500x375 at quality 90, the same ones every time.

    Each is a crop of a photograph, some of them flipped, with varying brightness.
    """
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    draw = np.random.default_rng(0)
    return [_encode(_window(photographs[i % len(photographs)], draw)) for i in range(n)]


def _window(photograph: Image.Image, draw: np.random.Generator) -> Image.Image:
    height = draw.uniform(0.6, 1.0) * photograph.height
    width = min(height * WIDTH / HEIGHT, photograph.width)
    left = draw.uniform(0, photograph.width - width)
    top = draw.uniform(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    window = photograph.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=box)
    if draw.random() < 0.5:
        window = ImageOps.mirror(window)
    return ImageEnhance.Brightness(window).enhance(draw.uniform(0.8, 1.2))


def _encode(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
