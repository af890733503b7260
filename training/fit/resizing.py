"""The bench at each size in turn: the same network and images at another size."""

from dataclasses import replace
from pathlib import Path

from training.bench import Bench
from training.data.decoded import decode, larger
from training.fit.plan import Plan
from training.fit.schedule import Shares
from training.network.classifier import try_size


def at_each_size(bench: Bench, cache: Path) -> list[Bench]:
    """The bench of each turn, `bench` itself last.

    Raises:
        BadRequest: the backbone does not take images of a size.
    """
    *earlier, _ = bench.settings.turns()
    if earlier:
        total = 2 * len(bench.dataset.items) * len(earlier)
        bench.stages.begin("decode at the other sizes", total)
    return [*(replace(at_size(bench, turn.size, cache), turn=turn) for turn in earlier), bench]


def at_size(bench: Bench, size: int, cache: Path) -> Bench:
    """The same network and images at another size; both benches share what they collect.

    Raises:
        BadRequest: the backbone does not take images of this size.
    """
    try_size(bench.network.name, bench.network.body, size)
    settings = bench.settings.model_copy(update={"size": size})
    items, spec, stages = bench.dataset.items, settings.image_spec(), bench.stages
    roomy = larger(spec, settings.cache_size)
    return replace(
        bench,
        settings=settings,
        decoded=decode(items, spec, cache, stages.advance, stages.note),
        roomy=decode(items, roomy, cache, stages.advance, stages.note),
    )


def dealt(plan: Plan, epochs: range, n_batches: int) -> Plan:
    """What `plan` says of `epochs`, counted from 0, of so many batches each; their end ends a
    cycle."""

    def cut(values: Shares) -> Shares:
        return values[epochs.start * n_batches : epochs.stop * n_batches]

    ends = {end - epochs.start for end in plan.cycle_ends if end in epochs} | {len(epochs)}
    return replace(
        plan,
        shares=cut(plan.shares),
        momenta=None if plan.momenta is None else cut(plan.momenta),
        decays=None if plan.decays is None else cut(plan.decays),
        cycle_ends=tuple(sorted(ends - {0})),
    )
