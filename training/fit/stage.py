"""One training stage of the recipe: its epochs trained, validated, reported and checkpointed."""

from collections.abc import Callable, Sequence

from torch import nn

from registry.counted import counted
from registry.errors import TrainingError
from registry.jobs import EpochFinished
from training.bench import Bench
from training.fit.ema import Ema
from training.fit.epoch import Diverged, Epoch, Stage, Step, Tally, train_epoch
from training.fit.keeping import KEPT, Keeper, copy_changing
from training.fit.optimizer import Optimizer

LAST_GOOD = "last-good.safetensors"  # in the folder of a training that diverged


def fit_stage(
    bench: Bench,
    stage: Stage,
    groups: Sequence[list[nn.Parameter]],
    validate: Callable[[], tuple[float, float]],
    keeper: Keeper | None = None,
    ema: Ema | None = None,
) -> bool:
    """Trains the groups for the epochs of the stage's plan, and reports each epoch.

    Resumes where a killed process stopped. False: that process was already in a later stage, so
    there was nothing to do, and the network is restored only there.

    Args:
        groups: the trainable parameters, in the order of the stage's rates.
        validate: gives the loss and the metric on held-out images.
        keeper: evaluates the network after each epoch, and may end the stage early.
        ema: is updated after every step.

    Raises:
        TrainingError: the loss is not finite; says which setting to lower. The run has the last
            good weights.
    """
    network, n_epochs = bench.network, stage.plan.n_epochs
    bench.stages.begin(stage.name, n_epochs * stage.batches.n_images)
    before = bench.results.n_batches  # of the stages so far
    bench.results.n_batches += len(stage.plan.shares)
    bench.results.schedules[stage.name] = stage.plan.shares
    if not bench.checkpoint.begin(stage.name):
        bench.stages.note(f"{stage.name}: was complete before the interruption")
        return False
    bench.results.facts.pop(KEPT, None)  # outdated by further training
    optimizer = Optimizer(groups, bench.settings.optimizer_spec())
    tally = bench.checkpoint.enter(
        {
            "network": network,
            "optimizer": optimizer,
            "keeper": keeper,
            "ema": ema,
            "room": bench.splitter,  # its name in checkpoints that must still be read
        }
    )
    report_resumed(bench, stage, tally)

    def stepped() -> None:
        if ema:
            ema.update()

    def report_steps(steps: Sequence[Step]) -> None:
        bench.checkpoint.save_if_due(tally)
        for step in steps:
            bench.event_file.batch(before + step.number, step)
            bench.stages.advance(step.n_images)

    while tally.epoch < n_epochs:
        network.world.broadcast_state(network)
        good = copy_changing(network)
        network.train_unfrozen(freeze_batchnorm=bench.settings.keeps_statistics)
        try:
            train_epoch(
                stage,
                optimizer,
                tally,
                stepped=stepped,
                counted=report_steps,
                splitter=bench.splitter,
            )
            epoch = tally.row(stage.name, *validate())
            worth_it = keeper is None or keeper.goes_on(tally.epoch + 1)
        except TrainingError as error:
            network.load_state_dict(good, strict=False)
            kept = f"the weights before this epoch are in {bench.save(LAST_GOOD)}"
            advice = f"{stage.advice}; " if isinstance(error, Diverged) else ""
            raise TrainingError(f"{error}; {advice}{kept}") from error
        bench.results.history.append(epoch)
        report_epoch(bench, tally.epoch + 1, n_epochs, epoch)
        last = before + (tally.epoch + 1) * len(stage.batches) - 1
        bench.event_file.epoch(last, epoch, bench.metric)
        goes_on = network.world.broadcast(worth_it)
        tally = Tally(tally.epoch + 1 if goes_on else n_epochs)
        bench.checkpoint.save_if_due(tally, at_once=tally.epoch == n_epochs)
    return True


def report_resumed(bench: Bench, stage: Stage, tally: Tally) -> None:
    """Reports which part of the stage an earlier process has done already."""
    if not tally.epoch and not tally.n_batches:
        return
    over = tally.epoch == stage.plan.n_epochs
    done = (
        "after its last epoch"
        if over
        else f"after {tally.epoch} of {counted(stage.plan.n_epochs, 'epoch')}"
    )
    within = f" and {tally.n_batches} of {len(stage.batches)} batches" if tally.n_batches else ""
    bench.note("resumed", f"{stage.name}: resumed {done}{within}")
    bench.stages.advance(tally.epoch * stage.batches.n_images + tally.n_images)


def report_epoch(bench: Bench, number: int, n_epochs: int, epoch: Epoch) -> None:
    """Reports an epoch, the `number`-th of its stage, counted from 1."""
    bench.stages.tell(
        EpochFinished(
            stage=epoch.stage,
            epoch=number,
            epochs=n_epochs,
            train_loss=epoch.train_loss,
            valid_loss=epoch.valid_loss,
            metric=bench.metric,
            metric_value=epoch.metric_value,
            images_per_second=epoch.images_per_second,
        )
    )
