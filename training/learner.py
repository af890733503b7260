"""A network at work on a notebook's bench: the recipe's steps one by one, with numbers of your own.

What each step does is in `training/steps.py` and `training/judging_steps.py`; `fit` is the recipe's
own `learn` and `publish` its `prove`. `training/looking.py`, `training/plots.py` and
`training/tiles.py` show what comes of it.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from registry.errors import BadRequest
from registry.images import Float32Array, UInt8Array
from registry.schema import explain
from registry.store import Registry
from training import judging_steps, steps
from training.activations import Parts, check_current
from training.asking import ask
from training.backbone import Backbone
from training.bench import Bench
from training.elsewhere import meant
from training.evaluate import Evaluation, predict
from training.finder import RateSearch
from training.fit import Epoch
from training.keeping import copy_state
from training.learning_curve import Curve, draw_curve
from training.preview import augmented
from training.publishing import assign, publish
from training.reading_settings import write_setting
from training.recipe import learn, prove
from training.resizing import at_size
from training.saving import restore
from training.settings import Settings
from training.weights import weights_digest


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
        bench = self._with(size=size)
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
        bench = self._with(head_epochs=epochs)
        self._use("head", rate)
        steps.fit_head(bench, activations, rate)

    def fit_augmented_head(
        self, activations: Parts, rate: float, *, epochs: int | None = None
    ) -> None:
        """The head has learnt from augmented images, a cycle an epoch."""
        self._check(activations)
        bench = self._with(augmented_epochs=epochs)
        _refuse_none(bench.settings.augmented_epochs, "epochs")
        self._use("head", rate)
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
        bench = self._with(group_rates=group_rates)
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
        bench = self._with(
            group_rates=group_rates, cycles=cycles, cycle_len=cycle_len, cycle_mult=cycle_mult
        )
        _refuse_none(bench.settings.cycles, "cycles")
        self._use("unfrozen", rate)
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
        restore(self.bench.network, self.bench.run / name)

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
        return predict(self.bench.network, pixels, self.bench.dataset.task, self.bench.device)

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
        rows = bench.rows("train")
        check_current(activations.train, bench.network, bench.decoded, rows, bench.device)

    def _with(self, **changed: object) -> Bench:
        """The same bench with these settings, unless they are None; the provenance says so.
        Steps by hand are steps at one size."""
        told = {name: value for name, value in changed.items() if value is not None}
        try:
            one_size: dict[str, object] = {"sizes": (), "size_epochs": ()}
            settings = Settings.model_validate(self.bench.settings.model_dump() | one_size | told)
        except ValidationError as error:
            raise BadRequest(f"settings: {explain(error)}") from error
        said = [f"{name}={write_setting(value)}" for name, value in told.items()]
        before = [self.bench.facts["by_hand"]] if "by_hand" in self.bench.facts else []
        if said:
            self.bench.facts["by_hand"] = ", ".join(before + said)
        return replace(self.bench, settings=settings, turn=settings.turns()[0])

    def _use(self, stage: str, rate: float) -> None:
        """The report marks the rate that is used, which need not be the one suggested.

        Raises:
            BadRequest: it is no rate; `slice(low, high)`, for example, is said otherwise here.
        """
        if not (isinstance(rate, Real) and 0 < rate < math.inf):
            raise BadRequest(
                f"a rate of {rate!r:.80}: say one number above 0, that of the head; where all "
                "layers learn, group_rates=(0.01, 0.1, 1) gives the others their shares of it"
            )
        search = self.bench.searches.get(stage)
        if search and search.suggestion != rate:
            self.bench.searches[stage] = replace(search, suggestion=rate, reason="chosen by hand")


def _refuse_none(number: int, name: str) -> None:
    if not number:
        raise BadRequest(
            f"{name}=0: nothing would be learnt; say {name}, as the settings have none"
        )
