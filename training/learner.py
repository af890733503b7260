"""The recipe for a notebook: its steps one by one, with hyperparameters of your own.

What each step does is in `training/steps.py` and `training/evaluation_steps.py`; `fit` is the
recipe's own `learn` and `publish` its `make_bundle`. `training/looking.py`, `training/plots.py` and
`training/tiles.py` show the results.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from registry.counted import counted
from registry.images import Float32Array, UInt8Array
from registry.store import Registry
from training import evaluation_steps, steps
from training.bench import Bench
from training.classify_file import ask
from training.evaluation.compare import keep_label_order
from training.evaluation.evaluate import Evaluation, predict
from training.evaluation.learning_curve import Curve, measure_learning_curve
from training.export.publishing import assign, publish
from training.fastai_names import meant
from training.fit.activations import Parts, check_current
from training.fit.epoch import Epoch
from training.fit.keeping import copy_state
from training.fit.lr_finder import RateSearch
from training.fit.rates import resolved_decay
from training.fit.resizing import at_size
from training.learnt_before import begin_with
from training.network.backbone import Backbone
from training.network.head import reorder_outputs
from training.network.saving import restore
from training.network.weights import weights_digest
from training.overrides import refuse_none, use_rate, with_settings
from training.recipe import learn, make_bundle
from training.report.preview import augmented


@dataclass(frozen=True)
class Learner:
    """A network with the images that it learns from. Training changes the network in place; what a
    step finds is returned, to look at and to pass to the next one."""

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
        return self.bench.results.history

    def __repr__(self) -> str:
        """One line, which a notebook shows for the last value of a cell."""
        named = f"{self.backbone.name} for {', '.join(self.labels[:5])}"
        more = f" and {len(self.labels) - 5} more" if len(self.labels) > 5 else ""
        return f"<{named}{more}; {counted(len(self.history), 'epoch')} so far>"

    if not TYPE_CHECKING:  # the type checker should still report unknown attributes

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(meant(name, [each for each in dir(self) if each[0] != "_"]))

    # Learning

    def fit(self) -> None:
        """Trains as the recipe does, by the settings: the head on activations, the head on
        augmented images, then all layers. Called again, it continues from the current weights.

        Raises:
            TrainingError: the loss is not finite; says at which learning rate.
        """
        learn(self.bench, self._digest(), self.cache)

    def precompute(self) -> Parts:
        """The frozen backbone's features of each image, from the cache if nothing has changed."""
        return steps.precompute_parts(self.bench, self._digest(), self.cache)

    def at_size(self, size: int) -> "Learner":
        """The same network and images at another size, for progressive resizing: small first, and
        the size to publish last. Activations belong to one size; precompute them again.

        Raises:
            BadRequest: the network does not take images of this size.
        """
        bench = with_settings(self.bench, size=size)
        bench.stages.begin(f"decode at {size} pixels", 2 * len(bench.dataset.items))
        return replace(self, bench=at_size(bench, size, self.cache))

    def search_head(self, activations: Parts) -> RateSearch:
        """Learning-rate range test of the head: suggests a rate and leaves the weights as they
        were. From now on only the head is trainable."""
        self._check(activations)
        steps.search_head(self.bench, activations)
        return self.bench.results.searches["head"]

    def fit_head(self, activations: Parts, rate: float, *, epochs: int | None = None) -> None:
        """Trains the head on activations; what is not given is as in the settings."""
        self._check(activations)
        bench = with_settings(self.bench, head_epochs=epochs)
        use_rate(bench, "head", rate)
        steps.fit_head(bench, activations, rate)

    def fit_augmented_head(
        self, activations: Parts, rate: float, *, epochs: int | None = None
    ) -> None:
        """Trains the head on augmented images, one epoch per cycle."""
        self._check(activations)
        bench = with_settings(self.bench, augmented_epochs=epochs)
        refuse_none(bench.settings.augmented_epochs, "epochs")
        use_rate(bench, "head", rate)
        steps.fit_augmented_head(bench, activations, rate)

    def learning_curve(self, activations: Parts, rate: float, *, draws: int = 3) -> Curve:
        """How well heads do that are trained on an eighth, a quarter, half and all of the images:
        the held-out metric, one value per draw. The network stays as it was."""
        self._check(activations)
        return measure_learning_curve(self.bench, activations, rate, draws)

    def search_unfrozen(self, *, group_rates: Sequence[float] | None = None) -> RateSearch:
        """Unfreezes all layers, and runs the same range test on them together.

        Args:
            group_rates: of early layers, late layers and head, as shares of the head's rate.
        """
        bench = with_settings(self.bench, group_rates=group_rates, **self._decay(group_rates))
        steps.search_unfrozen(bench)
        return bench.results.searches["unfrozen"]

    def fit_unfrozen(
        self,
        rate: float,
        *,
        group_rates: Sequence[float] | None = None,
        cycles: int | None = None,
        cycle_len: int | None = None,
        cycle_mult: int | None = None,
    ) -> None:
        """Trains all layers on augmented images, with a learning rate for each layer group.

        Args:
            rate: of the head; `group_rates` are the other groups' shares of it.
            cycles, cycle_len, cycle_mult: the number of cosine cycles, the epochs in the first, and
                how many times longer each is than the one before.
        """
        bench = with_settings(
            self.bench,
            group_rates=group_rates,
            **self._decay(group_rates),
            cycles=cycles,
            cycle_len=cycle_len,
            cycle_mult=cycle_mult,
        )
        refuse_none(bench.settings.cycles, "cycles")
        use_rate(bench, "unfrozen", rate)
        steps.fit_unfrozen(bench, rate)

    def save(self, name: str) -> Path:
        """Saves the network exactly as it is now, as safetensors (no pickle) in the run's folder;
        returns the file."""
        return self.bench.save(f"{name}.safetensors")

    def load(self, saved: str | Path) -> None:
        """Restores the network as it was saved.

        Args:
            saved: the name that was given to `save`, or the path of a file that it wrote, also one
                of another learner: of another size, for example, or with its labels in another
                order, which are matched by name.

        Raises:
            BadRequest: there is no such file, or it is for another network or other labels.
        """
        given, suffix = Path(saved), ".safetensors"
        is_file_name = given.suffix == suffix
        path = self.bench.run / (given if is_file_name else f"{saved}{suffix}")
        # without a folder it is the run's own file, even if the current folder has one, too
        has_folder = given.name != str(saved)
        if is_file_name and given.is_file() and (has_folder or not path.is_file()):
            path = given
        restore(self.bench.network, path, self.labels)
        begin_with(self.bench, path)

    # Predicting

    def augmented(self) -> UInt8Array:
        """Up to eight training images as augmented, [n,s,s,3]."""
        return augmented(self.bench.image_batches())

    def evaluate(self) -> Evaluation:
        """Evaluates on the held-out images, with one view and with several; never on the test
        images. With `thresholds=fitted` those of several labels are fitted first, as in `publish`.
        """
        evaluation_steps.choose_thresholds(self.bench)
        return evaluation_steps.evaluate(self.bench, self._answer)

    def classify(self, image: str | Path, *, views: int = 1) -> dict[str, float]:
        """The network's current predictions for an image file: label -> probability.

        Raises:
            BadImage: the file is not an image.
        """
        settings = self.bench.settings
        spec, tta = settings.image_spec(), settings.tta_spec()
        return ask(self._answer, self.labels, spec, tta, Path(image), views)

    def _answer(self, pixels: UInt8Array) -> Float32Array:
        return predict(self.bench.network, pixels, self.bench.dataset.task)

    # Publishing

    def publish(self, registry: str | Path, model: str, *, promote: bool = False) -> Path:
        """Publishes a new version of `model`: exported to ONNX, verified against the network, with
        its report; returns its folder. The first version of a model is promoted; others on request.
        Labels that the promoted version knows come in its order, as in a retraining.

        Afterwards the network is where it was, with the weights that it had: the setting
        `calibrate` changes the published version only, so that training can go on and be published
        again.

        Raises:
            TrainingError: the ONNX model's outputs differ from the network's.
        """
        store, bench = Registry(Path(registry)), self.bench
        assignment, pointer = assign(store, model, self.source, {}, self.cache, bench.run)
        learnt, thresholds = copy_state(bench.network), bench.results.thresholds
        device = bench.device  # exporting leaves the network on the CPU
        ordered = keep_label_order(bench.dataset, assignment, bench.stages.note)
        network, order = bench.network, ordered.labels
        try:
            network.load_state_dict(reorder_outputs(network.head, learnt, self.labels, order))
            bundle, _ = make_bundle(replace(bench, dataset=ordered), assignment, self.backbone)
        finally:
            network.load_state_dict(learnt)
            network.to(device)
            if order != self.labels:
                bench.results.thresholds = thresholds
        version, _ = publish(
            store, assignment.stage, bundle, pointer=pointer, promote=promote, by="notebook"
        )
        shutil.rmtree(assignment.stage)
        return store.folder(model, version)

    def _decay(self, group_rates: Sequence[float] | None) -> dict[str, float]:
        """Rates of groups that are given replace those block by block that a family has."""
        decay = resolved_decay(self.backbone.name, self.bench.settings.layer_decay)
        return {"layer_decay": 1.0} if group_rates is not None and decay != 1 else {}

    def _digest(self) -> str:
        """Of the backbone as it is now, perhaps fine-tuned."""
        return weights_digest(self.bench.network.body)

    def _check(self, activations: Parts) -> None:
        """Raises BadRequest if they are not of the current backbone and images."""
        bench = self.bench
        check_current(activations.train, bench.network, bench.decoded, bench.rows("train"))
