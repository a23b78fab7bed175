"""Plans that are simulated in tests: short, and with little in them."""

from rollout.plan import Plan, Stage

HOUR = 3600.0


def short_plan(**changes: object) -> Plan:
    """Half an hour in each of three stages."""
    usual: dict[str, object] = {
        "name": "short",
        "candidate": "phase2",
        "latency_quantile": "p95",
        "label_window_s": 300,
        "stages": tuple(
            Stage(
                name=name, mode=mode, weight=weight, shadow_sample=sample,
                min_duration_s=HOUR / 2, max_duration_s=HOUR, min_requests=100, min_pairs=50,
            )
            for name, mode, weight, sample in (
                ("shadow", "shadow", 50, 0), ("half", "ab", 50, 20), ("full", "ab", 100, 20),
            )
        ),
    }  # fmt: skip
    return Plan.model_validate({**usual, **changes})
