"""Chooses the weights to go on with: the last, the best, their mean or their moving average."""

from registry.counted import counted
from training.bench import Bench
from training.evaluation.overfitting import last_stage
from training.fit.activations import compute
from training.fit.batches import ImageBatches
from training.fit.ema import Ema
from training.fit.keeping import DIRECTIONS, KEPT, Keeper, copy_state, recompute_statistics
from training.fit.passes import augmented_features, score_head, settle, whole
from training.fit.plan import Plan

MEAN = "exponential moving average of the weights"


def make_keeper(bench: Bench, plan: Plan) -> Keeper:
    """The keeper for the epochs of `plan`, as the settings say; at a size before the last one it
    keeps the last weights."""
    settings, last = bench.settings, bench.phase.last
    return Keeper(
        bench.network,
        settings.keep if last else "last",
        plan.cycle_ends,
        lambda: judge(bench),
        direction=DIRECTIONS[settings.judge_by],
        patience=settings.patience if last and settings.can_stop_early else 0,
        snapshots=settings.snapshots and last,
    )


def judge(bench: Bench) -> float:
    """The network's score on the images set apart, by `judge_by`."""
    features = compute(bench.network, bench.decoded, bench.selection_rows)
    loss, metric = score_head(bench, features, bench.selection_rows)
    return loss if bench.settings.judge_by == "log_loss" else metric


def keep_chosen(bench: Bench, keeper: Keeper, batches: ImageBatches) -> None:
    """Gives the network the weights that the settings ask for, and the bench the snapshots."""
    keeper.restore()
    bench.results.snapshots.extend(keeper.at_cycle_ends)
    stage = last_stage(bench.results.history)
    if keeper.keep == "best" and keeper.best_epoch < len(stage):
        bench.results.facts[KEPT] = f"weights of epoch {keeper.best_epoch} of {stage[-1].stage}"
    if keeper.best_epoch:
        kept = "" if keeper.keep == "best" else f"; it is not kept, because keep={keeper.keep}"
        bench.note(
            "best_epoch",
            f"epoch {keeper.best_epoch} was the best by {bench.settings.judge_by} of "
            f"{counted(len(bench.selection_rows), 'image')} set apart{kept}",
        )
    if keeper.keep == "swa":
        if not bench.settings.keeps_statistics:
            bench.network.train_unfrozen(freeze_batchnorm=False)
            pixels = (pixels for pixels, _ in batches.epoch(0))
            recompute_statistics(bench.network, whole(bench), pixels)
        settle(bench, augmented_features(bench, batches))
        bench.results.facts[KEPT] = "mean of the weights of all unfrozen epochs"
        bench.note(
            "averaged",
            "the weights are the mean over all unfrozen epochs, with recomputed batch statistics",
        )


def begin_ema(bench: Bench) -> Ema | None:
    """Starts a moving average of the weights, if the settings ask for one; only at the last size,
    as at others the network adapts to other pixels."""
    wanted = bench.settings.ema and bench.phase.last
    return Ema(bench.network, bench.settings.ema) if wanted else None


def keep_better(bench: Bench, ema: Ema, batches: ImageBatches) -> None:
    """Gives the network the moving average if that is better, else leaves its weights; reports it.

    Images set apart from the training part decide. If the settings always want the average, or no
    image could be spared, it is kept without a comparison, as whoever sets `ema` expects: comparing
    on held-out images would bias the score that they are for.
    """
    settings = bench.settings
    always = settings.ema_kept == "always"
    if always or not len(bench.selection_rows):
        _load_mean(bench, ema, batches)
        few = "too few images to set some apart for it; add images, or raise judge_share"
        why = "as the settings say" if always else few
        _say_mean(bench)
        bench.note("ema", f"kept the moving average of the weights without a comparison: {why}")
        return
    own, own_value = copy_state(bench.network), judge(bench)
    _load_mean(bench, ema, batches)
    mean_value = judge(bench)
    lower = DIRECTIONS[settings.judge_by] == "lower"
    better = mean_value < own_value if lower else mean_value > own_value
    better = bench.network.world.broadcast(better)  # so that all processes decide alike
    if better:
        _say_mean(bench)
    else:
        bench.network.load_state_dict(own)
    kept = "moving average of the weights" if better else "weights themselves"
    bench.note(
        "ema",
        f"kept the {kept}: {settings.judge_by} of {counted(len(bench.selection_rows), 'image')} "
        f"set apart {mean_value:.4f} with the average, {own_value:.4f} without",
    )


def _say_mean(bench: Bench) -> None:
    """In the provenance, the moving average is kept in place of whatever was kept before."""
    bench.results.facts[KEPT] = MEAN
    bench.results.facts.pop("averaged", None)


def _load_mean(bench: Bench, ema: Ema, batches: ImageBatches) -> None:
    """The head's batch statistics are not averaged, but recomputed for the new features."""
    bench.network.load_state_dict(ema.mean())
    settle(bench, augmented_features(bench, batches))
