"""Plots memory, open files and latency of a soak over time."""

from collections.abc import Sequence
from pathlib import Path

from load.flat import Usage


def draw(
    path: Path,
    samples: Sequence[Usage],
    latencies: Sequence[tuple[float, float, float, float]],
) -> None:
    """`latencies` has (seconds, answers per second, p50 ms, p99 ms)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (top, middle, bottom) = pyplot.subplots(3, sharex=True, figsize=(9, 8))
    minutes = [(one.at_s - samples[0].at_s) / 60 for one in samples]
    top.plot(minutes, [one.memory_mb for one in samples])
    top.set(ylabel="resident memory (MB)", ylim=(0, None))
    middle.plot(minutes, [one.files for one in samples], label="open files")
    middle.plot(minutes, [one.threads for one in samples], label="threads")
    middle.set(ylim=(0, None))
    middle.legend()
    at_minutes = [at_s / 60 for at_s, *_ in latencies]
    bottom.plot(at_minutes, [p99 for *_, p99 in latencies], label="p99")
    bottom.plot(at_minutes, [p50 for _, _, p50, _ in latencies], label="p50")
    bottom.set(ylabel="latency (ms)", xlabel="minutes", ylim=(0, None))
    bottom.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
