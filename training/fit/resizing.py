"""The bench at each size in turn: the same network and images at another size."""

from dataclasses import replace
from pathlib import Path

from training.bench import Bench
from training.data.decoded import decode, larger
from training.network.classifier import try_size


def at_each_size(bench: Bench, cache: Path) -> list[Bench]:
    """The bench of each size, `bench` itself last.

    Raises:
        BadRequest: the backbone does not take images of a size.
    """
    *earlier, _ = bench.settings.size_phases()
    if earlier:
        total = 2 * len(bench.dataset.items) * len(earlier)
        bench.stages.begin("decode at the other sizes", total)
    return [*(replace(at_size(bench, phase.size, cache), phase=phase) for phase in earlier), bench]


def at_size(bench: Bench, size: int, cache: Path) -> Bench:
    """The same network and images at another size; both benches share their results.

    Raises:
        BadRequest: the backbone does not take images of this size.
    """
    try_size(bench.network.name, bench.network.body, size)
    settings = bench.settings.model_copy(update={"size": size})
    items, spec, stages = bench.dataset.items, settings.image_spec(), bench.stages
    enlarged = larger(spec, settings.cache_size)
    return replace(
        bench,
        settings=settings,
        decoded=decode(items, spec, cache, stages.advance, stages.note),
        enlarged=decode(items, enlarged, cache, stages.advance, stages.note),
    )
