"""Whether a newly trained version goes live. A pure decision, with its reason in words."""

from registry.jobs import GateDecided, PromotionPolicy, Score, Scored


def decide(policy: PromotionPolicy, scored: Scored | None, promoted: int | None) -> GateDecided:
    """Judges the candidate against `promoted`, the version in force at this moment."""
    if policy is PromotionPolicy.NEVER:
        return GateDecided(promote=False, reason="the request said never to promote")
    if policy is PromotionPolicy.ALWAYS:
        return GateDecided(promote=True, reason="the request said to promote always")
    if promoted is None:
        return GateDecided(promote=True, reason="nothing was promoted before")
    if scored is None or scored.promoted is None:
        return GateDecided(promote=False, reason=f"it was not compared with version {promoted}")
    if scored.promoted_version != promoted:
        return GateDecided(
            promote=False,
            reason=f"version {promoted} was promoted while this was compared with version "
            f"{scored.promoted_version}; compare them, and promote by hand",
        )
    return _compare(scored.candidate, scored.promoted, scored)


def _compare(candidate: Score, promoted: Score, scored: Scored) -> GateDecided:
    """Strictly better in the metric, or equal in it and of lower log-loss."""
    if candidate.metric != promoted.metric:
        return GateDecided(
            promote=False, reason=f"{candidate.metric} cannot be held against {promoted.metric}"
        )
    equal = candidate.value == promoted.value
    better = candidate.value > promoted.value or (equal and candidate.log_loss < promoted.log_loss)
    reason = (
        f"{candidate.metric} {candidate.value:.4f} against {promoted.value:.4f} of version "
        f"{scored.promoted_version} on {scored.images} images, log-loss {candidate.log_loss:.4f} "
        f"against {promoted.log_loss:.4f}; {scored.gained} images gained, {scored.lost} lost"
    )
    return GateDecided(promote=better, reason=reason)
