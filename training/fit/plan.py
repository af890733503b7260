"""What the settings make of a stage's batches: rates, momentum and decay, each a value a batch."""

from dataclasses import dataclass
from itertools import accumulate

from training.fit.schedule import (
    Shares,
    constant,
    cosine_cycle_momenta,
    cosine_cycles,
    cosine_restarts,
    decays,
    one_cycle_momenta,
    one_cycles,
)
from training.settings import Settings


@dataclass(frozen=True)
class Plan:
    """One value a batch each; None: as the optimizer has it, see `Optimizer.step`."""

    shares: Shares  # of each group's base rate
    momenta: Shares | None
    decays: Shares | None
    cycle_ends: tuple[int, ...]  # the epochs, counted from 1, with which a cycle ends

    @property
    def n_epochs(self) -> int:
        return self.cycle_ends[-1]

    def momentum(self, step: int) -> float | None:
        return None if self.momenta is None else float(self.momenta[step])

    def decay(self, step: int) -> float | None:
        return None if self.decays is None else float(self.decays[step])

    def part(self, epochs: range, n_batches: int) -> "Plan":
        """Of these epochs only, counted from 0, of so many batches each; their end ends a cycle."""

        def cut(values: Shares | None) -> Shares | None:
            return None if values is None else values[steps]

        steps = slice(epochs.start * n_batches, epochs.stop * n_batches)
        ends = {end - epochs.start for end in self.cycle_ends if end in epochs} | {len(epochs)}
        return Plan(
            self.shares[steps],
            cut(self.momenta),
            cut(self.decays),
            cycle_ends=tuple(sorted(ends - {0})),
        )


def plan_head(settings: Settings, n_batches: int) -> Plan:
    """`head_epochs` on activations: one cosine, or a constant rate as in 2018."""
    epochs = [settings.head_epochs]
    constantly = settings.head_schedule == "constant"
    shares = constant(n_batches, *epochs) if constantly else cosine_restarts(n_batches, epochs)
    return Plan(shares, None, _decays(settings, n_batches, epochs), tuple(epochs))


def plan_cycles(settings: Settings, n_batches: int, epochs: list[int]) -> Plan:
    """Cycles of so many epochs each on augmented images."""
    div, rise, tail = settings.cycle_div, settings.cycle_rise, settings.cycle_tail
    momenta: Shares | None = None
    if settings.schedule == "cosine":
        shares = cosine_restarts(n_batches, epochs)
    elif settings.schedule == "cosine_cycle":
        shares = cosine_cycles(n_batches, epochs, div, rise)
        momenta = cosine_cycle_momenta(n_batches, epochs, settings.cycle_momenta, rise)
    else:
        shares = one_cycles(n_batches, epochs, div, tail)
        momenta = one_cycle_momenta(n_batches, epochs, settings.cycle_momenta, tail)
    taken_off = _decays(settings, n_batches, epochs)
    return Plan(shares, momenta, taken_off, tuple(accumulate(epochs)))


def _decays(settings: Settings, n_batches: int, epochs: list[int]) -> Shares | None:
    if settings.decay == "optimizer":
        return None
    per_cycle = settings.decay == "per_cycle"
    return decays(n_batches, epochs, settings.weight_decay, per_cycle=per_cycle)
