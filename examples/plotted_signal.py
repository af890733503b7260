"""Classifies a signal by plotting it as an image: is this bearing worn?

A second of vibration becomes a spectrogram, with time to the right and frequency upwards, and a
network pretrained on photographs learns to read it. The same works for heartbeats, sales or mouse
movements: anything a person can tell from a plot. The vibrations here are synthetic; yours come
from a sensor.

    python examples/plotted_signal.py
"""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import numpy.typing as npt
from PIL import Image

from training import Learner, pretrained, read_images

Float64Array = npt.NDArray[np.float64]

RATE_HZ = 8000
WINDOW, STEP = 128, 64  # samples per column of the image, and from one column to the next
QUIETEST_DB, LOUDEST_DB = 0, 40  # black and white
CLASSES = ("sound", "worn")

SETTINGS: dict[str, object] = {
    # no augmentation: a flipped or rotated spectrogram would be of a different sound
    "augmentation": "none",
    "max_zoom": 1,
    "crop": "squash",
    "tta_views": 1,
    "split": "stratified",
    "batch_size": 16,
    "cycles": 1,
}


def vibration(worn: bool, random: np.random.Generator) -> Float64Array:
    """One second of a rotating shaft, [RATE_HZ]: hum and noise; a worn bearing knocks too."""
    time = np.arange(RATE_HZ) / RATE_HZ
    turns_hz, ring_hz = random.uniform(3, 6), random.uniform(1500, 3000)
    signal = np.sin(2 * np.pi * turns_hz * time) + random.normal(0, 0.1, len(time))
    if worn:
        since_knock = (time + random.uniform()) % (1 / (3.5 * turns_hz))
        loudness = random.uniform(1, 3)
        signal += loudness * np.exp(-since_knock * 200) * np.sin(2 * np.pi * ring_hz * since_knock)
    return signal


def spectrogram(signal: Float64Array) -> Image.Image:
    """Power in decibels as grey levels: time to the right, high frequencies on top."""
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::STEP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2
    loudness_db = 10 * np.log10(power.T[::-1] + 1e-9)
    grey = np.interp(loudness_db, (QUIETEST_DB, LOUDEST_DB), (0, 255))
    return Image.fromarray(grey.astype(np.uint8))


def draw(folder: Path, per_class: int, seed: int) -> Path:
    """Fills `folder` with one folder of spectrograms per class, and returns it."""
    random = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = spectrogram(vibration(name == "worn", random))
            picture.save(folder / name / f"{number:03d}.png")
    return folder


def learn(folder: Path, size: int, cache: Path) -> Learner:
    """Trains a network to tell the classes in `folder` apart."""
    images = read_images(folder, size, settings=SETTINGS, cache=cache)
    learner = pretrained("efficientnet_lite0", images)
    learner.fit()
    return learner


def main() -> None:
    work = Path(mkdtemp(prefix="signal-"))
    learner = learn(draw(work / "data", per_class=100, seed=0), 128, work / "cache")
    measures = learner.evaluate().plain_measures
    print(f"{measures.metric} on held-out signals: {measures.value:.3f}")
    fresh = draw(work / "fresh", per_class=1, seed=1)
    for name in CLASSES:
        said = learner.classify(fresh / name / "000.png")
        print(f"a new signal that is {name}: worn with probability {said['worn']:.2f}")


if __name__ == "__main__":
    main()
