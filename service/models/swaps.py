"""Every change of the versions that answer, with its log events and metrics.

Nothing here awaits, so every change is atomic for requests.
"""

import logging
from collections.abc import Callable

from registry.errors import UnfreezeError
from registry.pointers import Candidate
from service.models.candidacy import Candidacy
from service.models.comparison import Comparison
from service.models.loaded import Loaded
from service.models.model import Model, Promoted, Trouble
from service.models.shadow import Shadow
from service.observability.metrics import Metrics

log = logging.getLogger(__name__)


class Swaps:
    """Gives loaded versions their place in a `Model`. Pointers may come in any order: one older
    than the one that is followed changes nothing."""

    def __init__(
        self, metrics: Metrics, on_ready: Callable[[str], None], on_gone: Callable[[str], None]
    ) -> None:
        self._metrics = metrics
        self._on_ready = on_ready
        self._on_gone = on_gone

    # The version that answers

    def go_live(self, entry: Model, promoted: Promoted, loaded: Loaded) -> None:
        """Directs requests to `loaded`, and ends the trial of a candidate."""
        if promoted[0] <= entry.pointer or entry.unloaded:
            return
        entry.follows = promoted
        self.no_problem(entry)
        self._end_trial_beside_another(entry)
        old, older = entry.current, entry.previous
        if old and old.version == loaded.version:
            return
        loaded.keep()
        entry.current, entry.previous = loaded, old
        entry.release(older, entry.pinned.pop(loaded.version, None))
        facts = {"model": entry.name, "version": loaded.version, "replaced": old and old.version}
        log.info("version_live", extra=facts)
        self._count_swap(old, loaded)
        self._on_ready(entry.name)

    def unload(self, entry: Model) -> None:
        """Stops answering for the model and following its pointers, until it is loaded again."""
        if entry.candidate:
            self._end_trial(entry, entry.candidate)
        self.no_problem(entry)
        self.no_candidate_problem(entry)
        if entry.current:
            self._metrics.model_info.remove(*self._info(entry.current))
            self._metrics.live_version.remove(entry.name)
        let_go = set(entry.versions())
        entry.unloaded = True
        entry.current = entry.previous = None
        entry.pinned.clear()
        entry.follows, entry.candidate_pointer = None, 0
        entry.release(*let_go)
        log.info("model_unloaded", extra={"model": entry.name})
        self._on_gone(entry.name)

    def _end_trial_beside_another(self, entry: Model) -> None:
        if entry.candidate and entry.candidate.beside != entry.pointer:
            self._end_trial(entry, entry.candidate)
        self.no_candidate_problem(entry)

    def _count_swap(self, old: Loaded | None, new: Loaded) -> None:
        self._metrics.swaps.labels(new.model).inc()
        self._metrics.live_version.labels(new.model).set(new.version)
        if old:
            self._metrics.model_info.remove(*self._info(old))
        self._metrics.model_info.labels(*self._info(new)).set(1)

    def _info(self, loaded: Loaded) -> tuple[str, str, str, str, str]:
        kind = loaded.kind
        return loaded.model, str(loaded.version), kind.provider, kind.precision, str(loaded.plan)

    # The candidate

    def try_out(self, entry: Model, number: int, wanted: Candidate, loaded: Loaded) -> None:
        """Gives `loaded` its share of requests, if the version that it is tried beside is live."""
        live = entry.current
        if number <= entry.candidate_pointer or live is None or wanted.beside != entry.pointer:
            return
        entry.candidate_pointer = number
        self.no_candidate_problem(entry)
        before = entry.candidate
        if before and before.loaded.version == loaded.version:  # its comparison goes on
            before.mode, before.percent = wanted.mode, wanted.percent
        else:
            if before:
                self._end_trial(entry, before)
            loaded.keep()
            comparison = Comparison(
                live.bundle, loaded.bundle, loaded.version, self._metrics.candidates
            )
            entry.candidate = live.candidate = Candidacy(
                beside=wanted.beside,
                mode=wanted.mode,
                percent=wanted.percent,
                live=live,
                loaded=loaded,
                comparison=comparison,
                shadow=Shadow(live, loaded, comparison),
            )
            entry.release(entry.pinned.pop(loaded.version, None))
        self._metrics.candidates.begin(entry.name, loaded.version, wanted.mode, wanted.percent)
        facts = {"model": entry.name, "version": loaded.version, "mode": wanted.mode}
        log.info("candidate_tried", extra=facts | {"percent": wanted.percent})

    def clear(self, entry: Model, number: int) -> None:
        """Ends the trial of a candidate, if there is one."""
        self.no_candidate_problem(entry)
        if number <= entry.candidate_pointer:
            return
        entry.candidate_pointer = number
        if entry.candidate:
            self._end_trial(entry, entry.candidate)

    def _end_trial(self, entry: Model, ended: Candidacy) -> None:
        entry.candidate = None
        if entry.current:
            entry.current.candidate = None
        entry.release(ended.loaded)
        self._metrics.candidates.end(entry.name, ended.loaded.version)
        facts = {"model": entry.name, "version": ended.loaded.version}
        counts = {"compared": ended.comparison.compared, "agreed": ended.comparison.agreed}
        log.info("candidate_ended", extra=facts | counts)

    # Pointers that cannot be followed

    def problem(self, entry: Model, number: int, error: Exception) -> None:
        if 0 < number <= entry.pointer or entry.unloaded:  # no longer relevant
            return
        self._note("load_failed", entry, entry.trouble, number, error)
        self._metrics.load_problem.labels(entry.name).set(1)

    def no_problem(self, entry: Model) -> None:
        if entry.trouble.problem:
            entry.trouble.forget()
        self._metrics.load_problem.labels(entry.name).set(0)

    def candidate_problem(self, entry: Model, number: int, error: Exception) -> None:
        if 0 < number <= entry.candidate_pointer:
            return
        self._note("candidate_failed", entry, entry.candidate_trouble, number, error)
        self._metrics.candidates.problem.labels(entry.name).set(1)

    def no_candidate_problem(self, entry: Model) -> None:
        if entry.candidate_trouble.problem:
            entry.candidate_trouble.forget()
            self._metrics.candidates.problem.remove(entry.name)

    def _note(
        self, what: str, entry: Model, trouble: Trouble, number: int, error: Exception
    ) -> None:
        expected = isinstance(error, UnfreezeError)
        problem = str(error) if expected else f"{type(error).__name__}: {error}"
        if problem != trouble.problem:
            facts = {"model": entry.name, "problem": problem}
            log.error(what, extra=facts, exc_info=None if expected else error)
        trouble.note(number, problem)
