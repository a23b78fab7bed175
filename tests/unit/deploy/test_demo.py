"""The demo's plan: what a few hundred requests can decide, and what is known before it starts."""

from deploy.demo import BEFORE, shortened
from rollout.marks import marks_of, quantiles
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import latency_bin


def test_the_traffic_before_the_start_makes_every_latency_mark_of_the_plan_known() -> None:
    plan = shortened(DEFAULT_PLAN)
    known = quantiles({latency_bin(0.05): BEFORE})
    assert set(marks_of(plan, known)) == {"budget", *plan.latency_margins}
    assert plan.latency_margins
