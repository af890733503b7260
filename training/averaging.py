"""Whether the network goes on with its own weights or with their exponential mean."""

from training.batches import ImageBatches
from training.bench import Bench
from training.ema import Ema
from training.fitting import augmented_features, judge, settle
from training.keeping import DIRECTIONS, copy_state


def begin_ema(bench: Bench) -> Ema | None:
    """The mean that follows the network from here on, if the settings ask for one; at a size
    before the last one it would be of a network that answers to other pixels."""
    wanted = bench.settings.ema and bench.turn.last
    return Ema(bench.network, bench.settings.ema) if wanted else None


def keep_better(bench: Bench, ema: Ema, batches: ImageBatches) -> None:
    """The network has the mean's weights if they are the better ones, else its own; it is told.

    Images set apart from the training part judge. Where the settings want the mean in any case, or
    no image could be spared, nothing is compared and the mean is kept, as who sets `ema` expects:
    held-out images would flatter the score that they are there for.
    """
    settings = bench.settings
    always = settings.ema_kept == "always"
    if always or not len(bench.judged):
        _load_mean(bench, ema, batches)
        few = "too few images to set some apart for it; add images, or raise judge_share"
        why = "as the settings say" if always else few
        bench.note("ema", f"kept the mean of the weights without a comparison: {why}")
        return
    own, own_value = copy_state(bench.network), judge(bench)
    _load_mean(bench, ema, batches)
    mean_value = judge(bench)
    lower = DIRECTIONS[settings.judge_by] == "lower"
    better = mean_value < own_value if lower else mean_value > own_value
    better = bench.network.world.told(better)  # so that all processes go on with the same
    if not better:
        bench.network.load_state_dict(own)
    kept = "mean of the weights" if better else "weights themselves"
    bench.note(
        "ema",
        f"kept the {kept}: {settings.judge_by} of {len(bench.judged)} images set apart "
        f"{mean_value:.4f} with the mean, {own_value:.4f} without",
    )


def _load_mean(bench: Bench, ema: Ema, batches: ImageBatches) -> None:
    """Batch statistics of the head are not averaged but computed for the features it now gets."""
    bench.network.load_state_dict(ema.mean())
    settle(bench, augmented_features(bench, batches))
