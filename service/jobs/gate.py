"""The promotion gate: whether a newly trained version goes live. A pure function, with a reason."""

from registry.counted import counted
from registry.jobs import GateDecided, PromotionPolicy, Score, Scored


def decide(policy: PromotionPolicy, scored: Scored | None, promoted: int | None) -> GateDecided:
    """Compares the candidate with `promoted`, the version that is promoted now."""
    if policy is PromotionPolicy.NEVER:
        return GateDecided(promote=False, reason="the request said never to promote")
    if policy is PromotionPolicy.ALWAYS:
        return GateDecided(promote=True, reason="the request said always to promote")
    if promoted is None:
        return GateDecided(promote=True, reason="no version was promoted before")
    if scored is None or scored.promoted is None:
        return GateDecided(promote=False, reason=f"it was not compared with version {promoted}")
    if scored.promoted_version != promoted:
        return GateDecided(
            promote=False,
            reason=f"version {promoted} was promoted while this one was compared with version "
            f"{scored.promoted_version}; compare them and promote by hand",
        )
    return _compare(scored.candidate, scored.promoted, scored)


def _compare(candidate: Score, promoted: Score, scored: Scored) -> GateDecided:
    """Promotes if the metric is strictly better, or equal with a lower log loss."""
    if candidate.metric != promoted.metric:
        return GateDecided(
            promote=False, reason=f"{candidate.metric} cannot be compared with {promoted.metric}"
        )
    equal = candidate.value == promoted.value
    better = candidate.value > promoted.value or (equal and candidate.log_loss < promoted.log_loss)
    reason = (
        f"{candidate.metric} {candidate.value:.4f} against {promoted.value:.4f} of version "
        f"{scored.promoted_version} on {counted(scored.images, 'image')}, log loss "
        f"{candidate.log_loss:.4f} against {promoted.log_loss:.4f}; "
        f"{counted(scored.gained, 'image')} gained, {scored.lost} lost"
    )
    return GateDecided(promote=better, reason=reason)
