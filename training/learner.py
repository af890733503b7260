"""A network at work on a notebook's bench: the recipe's steps one by one, with numbers of your own.

What each step does is in `training/steps.py` and `training/judging_steps.py`; `fit` is the recipe's
own `learn` and `publish` its `prove`. `training/looking.py`, `training/plots.py` and
`training/tiles.py` show what comes of it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from registry.images import Float32Array, UInt8Array
from registry.store import Registry
from training import judging_steps, steps
from training.bench import Bench
from training.classify_file import ask
from training.evaluation.evaluate import Evaluation, predict
from training.evaluation.learning_curve import Curve, draw_curve
from training.export.publishing import assign, publish
from training.fastai_names import meant
from training.fit.activations import Parts, check_current
from training.fit.epoch import Epoch
from training.fit.keeping import copy_state
from training.fit.lr_finder import RateSearch
from training.fit.resizing import at_size
from training.network.backbone import Backbone
from training.network.saving import restore
from training.network.weights import weights_digest
from training.overrides import refuse_none, use_rate, with_settings
from training.recipe import learn, prove
from training.report.preview import augmented


@dataclass(frozen=True)
class Learner:
    """A network beside the images that it learns from. The network learns in place; what a step
    finds is a value, to be looked at and given to the next one."""

    bench: Bench
    backbone: Backbone
    source: Path
    cache: Path

    @property
    def labels(self) -> tuple[str, ...]:
        return self.bench.dataset.labels

    @property
    def history(self) -> list[Epoch]:
        """Every epoch so far."""
        return self.bench.history

    def __repr__(self) -> str:
        """A line for a notebook, where a last line is shown."""
        told = f"{self.backbone.name} for {', '.join(self.labels[:5])}"
        more = f" and {len(self.labels) - 5} more" if len(self.labels) > 5 else ""
        return f"<{told}{more}; {len(self.history)} epochs so far>"

    if not TYPE_CHECKING:  # which is to know what a learner has not

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(meant(name, [each for each in dir(self) if each[0] != "_"]))

    # Learning

    def fit(self) -> None:
        """All that the recipe learns, as the settings say: the head from activations, the head from
        augmented images, then every layer. Again, it goes on with what has been learnt.

        Raises:
            TrainingError: the loss is no longer a number; says at which rate.
        """
        learn(self.bench, self._digest(), self.cache)

    def precompute(self) -> Parts:
        """What the frozen backbone makes of each image, from the cache if nothing has changed."""
        return steps.precompute_parts(self.bench, self._digest(), self.cache)

    def at_size(self, size: int) -> "Learner":
        """The same network beside the same images in another size: small first, for example, and
        at last as it is to be published. Activations are of one size; precompute them anew.

        Raises:
            BadRequest: the network does not take images of this size.
        """
        bench = with_settings(self.bench, size=size)
        bench.stages.begin(f"decode at {size} pixels", 2 * len(bench.dataset.items))
        return replace(self, bench=at_size(bench, size, self.cache))

    def search_head(self, activations: Parts) -> RateSearch:
        """How the head's loss answers to ever higher rates; it suggests one, and changes nothing.
        Only the head learns from now on."""
        self._check(activations)
        steps.search_head(self.bench, activations)
        return self.bench.searches["head"]

    def fit_head(self, activations: Parts, rate: float, *, epochs: int | None = None) -> None:
        """The head has learnt from activations; unsaid numbers are those of the settings."""
        self._check(activations)
        bench = with_settings(self.bench, head_epochs=epochs)
        use_rate(bench, "head", rate)
        steps.fit_head(bench, activations, rate)

    def fit_augmented_head(
        self, activations: Parts, rate: float, *, epochs: int | None = None
    ) -> None:
        """The head has learnt from augmented images, a cycle an epoch."""
        self._check(activations)
        bench = with_settings(self.bench, augmented_epochs=epochs)
        refuse_none(bench.settings.augmented_epochs, "epochs")
        use_rate(bench, "head", rate)
        steps.fit_augmented_head(bench, activations, rate)

    def learning_curve(self, activations: Parts, rate: float, *, draws: int = 3) -> Curve:
        """How well heads do that learnt from an eighth, a quarter, half and all of the images: the
        metric on the held-out part, a value a draw. The network is as before."""
        self._check(activations)
        self.bench.curve.clear()
        draw_curve(self.bench, activations, rate, draws)
        return self.bench.curve

    def search_unfrozen(self, *, group_rates: Sequence[float] | None = None) -> RateSearch:
        """All layers learn from now on, and the same search for them together.

        Args:
            group_rates: of early layers, late layers and head, as shares of the head's rate.
        """
        bench = with_settings(self.bench, group_rates=group_rates)
        steps.search_unfrozen(bench)
        return bench.searches["unfrozen"]

    def fit_unfrozen(
        self,
        rate: float,
        *,
        group_rates: Sequence[float] | None = None,
        cycles: int | None = None,
        cycle_len: int | None = None,
        cycle_mult: int | None = None,
    ) -> None:
        """All layers have learnt from augmented images, with a rate for each layer group.

        Args:
            rate: of the head; `group_rates` says which share of it the others have.
            cycles, cycle_len, cycle_mult: so many cosines, the first of `cycle_len` epochs, each
                `cycle_mult` times as long as the one before.
        """
        bench = with_settings(
            self.bench,
            group_rates=group_rates,
            cycles=cycles,
            cycle_len=cycle_len,
            cycle_mult=cycle_mult,
        )
        refuse_none(bench.settings.cycles, "cycles")
        use_rate(bench, "unfrozen", rate)
        steps.fit_unfrozen(bench, rate)

    def save(self, name: str) -> Path:
        """The file in the run's folder that holds the network as it is now, bit for bit; without
        pickle."""
        return self.bench.save(f"{name}.safetensors")

    def load(self, saved: str | Path) -> None:
        """The network is as it was when it was saved.

        Args:
            saved: the name that was given to `save`, or the file that it gave, perhaps of another
                learner: of another size, for example.

        Raises:
            BadRequest: there is no such file, or it is of another network or for other labels.
        """
        name = saved if Path(saved).suffix == ".safetensors" else f"{saved}.safetensors"
        restore(self.bench.network, self.bench.run / name, self.labels)

    # Answering

    def augmented(self) -> UInt8Array:
        """Up to eight training images as the network meets them, [n,s,s,3]."""
        return augmented(self.bench.image_batches())

    def evaluate(self) -> Evaluation:
        """The held-out images, answered once plainly and once with views; never the test images."""
        return judging_steps.evaluate(self.bench, self._answer)

    def classify(self, image: str | Path, *, views: int = 1) -> dict[str, float]:
        """What the network now says of an image file: label -> probability.

        Raises:
            BadImage: the file is not an image.
        """
        settings = self.bench.settings
        spec, tta = settings.image_spec(), settings.tta_spec()
        return ask(self._answer, self.labels, spec, tta, Path(image), views)

    def _answer(self, pixels: UInt8Array) -> Float32Array:
        return predict(self.bench.network, pixels, self.bench.dataset.task)

    # Handing on

    def publish(self, registry: str | Path, model: str, *, promote: bool = False) -> Path:
        """The folder of a new version of `model`: exported to ONNX, proven to answer as the network
        does, with its report. The first one of a model is promoted; others if it is said.

        The network is afterwards on the CPU, with the weights that it had: what `calibrate` makes
        of them is the version's alone, so that it can learn on and be published again.

        Raises:
            TrainingError: the ONNX model does not answer as the network does.
        """
        store, bench = Registry(Path(registry)), self.bench
        assignment, pointer = assign(store, model, self.source, {}, self.cache, bench.run)
        learnt = copy_state(bench.network)
        try:
            bundle, _ = prove(bench, assignment, self.backbone)
        finally:
            bench.network.load_state_dict(learnt)
        version, _ = publish(
            store, assignment.stage, bundle, pointer=pointer, promote=promote, by="notebook"
        )
        shutil.rmtree(assignment.stage)
        return store.folder(model, version)

    def _digest(self) -> str:
        """Of the backbone as it is, which may have learnt."""
        return weights_digest(self.bench.network.body)

    def _check(self, activations: Parts) -> None:
        """Raises BadRequest: they are not of the backbone and the images at hand."""
        bench = self.bench
        check_current(activations.train, bench.network, bench.decoded, bench.rows("train"))
