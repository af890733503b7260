"""A signal that is no photograph, classified by its picture: is this bearing worn?

A second of vibration becomes a spectrogram, time to the right and pitch upwards, and a network that
has only seen photographs learns to read it. The same goes for heartbeats, sales or the paths of a
mouse: whatever a person can tell from a plot. The vibrations are made up; yours come from a sensor.

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
WINDOW, STEP = 128, 64  # samples of one column of the picture, and from one to the next
QUIETEST_DB, LOUDEST_DB = 0, 40  # black and white
CLASSES = ("sound", "worn")

SETTINGS: dict[str, object] = {
    # a mirrored or slanted spectrogram is one of something else: no augmentation
    "augmentation": "none",
    "max_zoom": 1,
    "crop": "squash",
    "tta_views": 1,
    "split": "stratified",
    "batch_size": 16,
    "cycles": 1,
    "learning_rate": 0.05,  # the task is so plain that the finder would suggest a reckless one
}


def vibration(worn: bool, random: np.random.Generator) -> Float64Array:
    """A second of a turning shaft, [RATE_HZ]: hum and noise; a worn bearing knocks as it turns."""
    time = np.arange(RATE_HZ) / RATE_HZ
    turns_hz, ring_hz = random.uniform(3, 6), random.uniform(1500, 3000)
    signal = np.sin(2 * np.pi * turns_hz * time) + random.normal(0, 0.1, len(time))
    if worn:
        since_knock = (time + random.uniform()) % (1 / (3.5 * turns_hz))
        loudness = random.uniform(1, 3)
        signal += loudness * np.exp(-since_knock * 200) * np.sin(2 * np.pi * ring_hz * since_knock)
    return signal


def spectrogram(signal: Float64Array) -> Image.Image:
    """The power of each pitch at each time in decibels, as grey levels; high pitches on top."""
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::STEP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2
    loudness_db = 10 * np.log10(power.T[::-1] + 1e-9)
    grey = np.interp(loudness_db, (QUIETEST_DB, LOUDEST_DB), (0, 255))
    return Image.fromarray(grey.astype(np.uint8))


def draw(folder: Path, per_class: int, seed: int) -> Path:
    """`folder` has a folder of spectrograms for each class."""
    random = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = spectrogram(vibration(name == "worn", random))
            picture.save(folder / name / f"{number:03d}.png")
    return folder


def learn(folder: Path, size: int, cache: Path) -> Learner:
    """A network that has learnt to tell the classes of `folder` apart."""
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
        print(f"a new one that is {name}: worn with probability {said['worn']:.2f}")


if __name__ == "__main__":
    main()
