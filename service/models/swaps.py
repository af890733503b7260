"""Every change of the versions that answer, with its log events and metrics.

Nothing here awaits, so every change is atomic for requests.
"""

import logging
from collections.abc import Callable

from registry.errors import UnfreezeError
from registry.pointers import Candidate
from service.models.comparison import Comparison
from service.models.loaded_version import LoadedVersion
from service.models.model_state import LoadFailure, ModelState, Promoted
from service.models.shadow import Shadow
from service.models.trial import Trial
from service.observability.metrics import Metrics

log = logging.getLogger(__name__)


class Swaps:
    """Gives loaded versions their place in a `ModelState`. Pointers may come in any order: one
    older than the one that is followed changes nothing."""

    def __init__(
        self, metrics: Metrics, on_ready: Callable[[str], None], on_gone: Callable[[str], None]
    ) -> None:
        self._metrics = metrics
        self._on_ready = on_ready
        self._on_gone = on_gone

    # The version that answers

    def go_live(self, state: ModelState, promoted: Promoted, loaded: LoadedVersion) -> None:
        """Directs requests to `loaded`, and ends the trial of a candidate."""
        if promoted.number <= state.pointer or state.unloaded:
            return
        state.follows = promoted
        self.clear_problem(state)
        self.clear_candidate_problem(state)
        if state.trial and state.trial.beside != promoted.number:
            self._end_trial(state, state.trial)
        old, older = state.live, state.previous
        if old and old.version == loaded.version:
            return
        loaded.keep()
        state.live, state.previous = loaded, old
        state.release(older, state.pinned.pop(loaded.version, None))
        facts = {"model": state.name, "version": loaded.version, "replaced": old and old.version}
        log.info("version_live", extra=facts | _noted(state.label_note))
        self._count_swap(old, loaded)
        self._on_ready(state.name)

    def keep_previous(self, state: ModelState, number: int, loaded: LoadedVersion) -> None:
        """Keeps `loaded` as what to roll back to, instead of what was kept before, if pointer
        `number` is still the one followed."""
        if state.pointer == number:
            loaded.keep()
            older, state.previous = state.previous, loaded
            state.release(older, state.pinned.pop(loaded.version, None))

    def unload(self, state: ModelState) -> None:
        """Stops answering for the model and following its pointers, until it is loaded again."""
        if state.trial:
            self._end_trial(state, state.trial)
        self.clear_problem(state)
        self.clear_candidate_problem(state)
        if state.live:
            self._metrics.model_info.remove(*self._info(state.live))
            self._metrics.live_version.remove(state.name)
        let_go = set(state.versions())
        state.unloaded = True
        state.live = state.previous = None
        state.pinned.clear()
        state.follows, state.previous_sought, state.candidate_pointer = None, 0, 0
        state.release(*let_go)
        log.info("model_unloaded", extra={"model": state.name})
        self._on_gone(state.name)

    def _count_swap(self, old: LoadedVersion | None, new: LoadedVersion) -> None:
        self._metrics.swaps.labels(new.model).inc()
        self._metrics.live_version.labels(new.model).set(new.version)
        if old:
            self._metrics.model_info.remove(*self._info(old))
        self._metrics.model_info.labels(*self._info(new)).set(1)

    def _info(self, loaded: LoadedVersion) -> tuple[str, str, str, str, str]:
        kind = loaded.kind
        return loaded.model, str(loaded.version), kind.provider, kind.precision, str(loaded.plan)

    # The candidate

    def try_out(
        self, state: ModelState, number: int, wanted: Candidate, loaded: LoadedVersion
    ) -> None:
        """Gives `loaded` its share of requests, if the version that it is tried beside is live."""
        live = state.live
        if number <= state.candidate_pointer or live is None or wanted.beside != state.pointer:
            return
        state.candidate_pointer = number
        self.clear_candidate_problem(state)
        trial = state.trial
        if trial and trial.candidate.version == loaded.version:  # its comparison goes on
            trial.mode, trial.percent = wanted.mode, wanted.percent
        else:
            if trial:
                self._end_trial(state, trial)
            loaded.keep()
            comparison = Comparison(
                live.bundle, loaded.bundle, loaded.version, self._metrics.candidates
            )
            trial = state.trial = Trial(
                beside=wanted.beside,
                mode=wanted.mode,
                percent=wanted.percent,
                live=live,
                candidate=loaded,
                comparison=comparison,
                shadow=Shadow(live, loaded, comparison),
            )
            state.release(state.pinned.pop(loaded.version, None))
        self._metrics.candidates.begin(state.name, loaded.version, wanted.mode, wanted.percent)
        facts = {"model": state.name, "version": loaded.version, "mode": wanted.mode}
        log.info("candidate_tried", extra=facts | {"percent": wanted.percent} | _noted(trial.note))

    def clear_candidate(self, state: ModelState, number: int) -> None:
        """Ends the trial of a candidate, if there is one."""
        self.clear_candidate_problem(state)
        if number <= state.candidate_pointer:
            return
        state.candidate_pointer = number
        if state.trial:
            self._end_trial(state, state.trial)

    def _end_trial(self, state: ModelState, ended: Trial) -> None:
        state.trial = None
        state.release(ended.candidate)
        self._metrics.candidates.end(state.name, ended.candidate.version)
        facts = {"model": state.name, "version": ended.candidate.version}
        counts = {"compared": ended.comparison.compared, "agreed": ended.comparison.agreed}
        log.info("candidate_ended", extra=facts | counts)

    # Pointers that cannot be followed

    def set_problem(self, state: ModelState, number: int, error: Exception) -> None:
        if 0 < number <= state.pointer or state.unloaded:  # no longer relevant
            return
        self._note("load_failed", state, state.failure, number, error)
        self._metrics.load_problem.labels(state.name).set(1)

    def clear_problem(self, state: ModelState) -> None:
        if state.failure.problem:
            state.failure.forget()
        self._metrics.load_problem.labels(state.name).set(0)

    def set_candidate_problem(self, state: ModelState, number: int, error: Exception) -> None:
        if 0 < number <= state.candidate_pointer:
            return
        self._note("candidate_failed", state, state.candidate_failure, number, error)
        self._metrics.candidates.problem.labels(state.name).set(1)

    def clear_candidate_problem(self, state: ModelState) -> None:
        if state.candidate_failure.problem:
            state.candidate_failure.forget()
            self._metrics.candidates.problem.remove(state.name)

    def _note(
        self, what: str, state: ModelState, failure: LoadFailure, number: int, error: Exception
    ) -> None:
        expected = isinstance(error, UnfreezeError)
        problem = str(error) if expected else f"{type(error).__name__}: {error}"
        if problem != failure.problem:
            facts = {"model": state.name, "problem": problem}
            log.error(what, extra=facts, exc_info=None if expected else error)
        failure.note(number, problem)


def _noted(note: str) -> dict[str, str]:
    return {"note": note} if note else {}
