"""Golden images for models that come without any: drawn here, the same every time."""

import io

import numpy as np
from PIL import Image, ImageDraw

from registry.images import UInt8Array

WIDTH, HEIGHT = 320, 240  # neither square nor the size of a network, so that preparation is seen


def draw_pictures() -> list[bytes]:
    """Eight encoded pictures, half PNG and half JPEG: gradients, noise, shapes and patterns."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ramp = np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, 255 - x * 255 // WIDTH], axis=-1)
    glow = 255 * np.exp(-((x - 100) ** 2 + (y - 90) ** 2) / 8000)
    checks = 255 * ((x // 20 + y // 20) % 2)
    stripes = 127.5 + 127.5 * np.sin((x + 2 * y) / 9)
    coarse = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    pictures = [
        Image.fromarray(ramp.astype(np.uint8)),
        Image.fromarray(draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)),
        smooth,
        _shapes("white", ["crimson", "gold", "navy"]),
        _shapes("black", ["lime", "white", "teal"]).rotate(90, expand=True),
        _tinted(glow, (1.0, 0.8, 0.5)),
        _tinted(checks, (0.2, 0.9, 0.4)),
        _tinted(stripes, (0.6, 0.5, 1.0)),
    ]
    formats = ["PNG", "JPEG"] * 4
    return [_encode(one, form) for one, form in zip(pictures, formats, strict=True)]


def _shapes(background: str, colours: list[str]) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), background)
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 30, 160, 150), fill=colours[0])
    pen.rectangle((150, 90, 290, 200), fill=colours[1])
    pen.polygon([(20, 230), (120, 110), (220, 230)], fill=colours[2])
    return image


def _tinted(grey: np.ndarray, tint: tuple[float, float, float]) -> Image.Image:
    pixels: UInt8Array = (grey[..., None] * np.array(tint)).astype(np.uint8)
    return Image.fromarray(pixels)


def _encode(image: Image.Image, form: str) -> bytes:
    content = io.BytesIO()
    image.save(content, form, quality=90)
    return content.getvalue()
