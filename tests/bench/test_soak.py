"""The soak itself: a short one finds nothing wrong, and says so."""

from __future__ import annotations

from bench.soak import Plan, report, soak


async def test_a_short_soak_finds_nothing_wrong():
    """Each call of a second under faults ends right, in an error, or with a client that left."""
    plan = Plan(seconds=1.0, client_count=8)

    findings = await soak(plan)

    assert (findings.wrong, findings.leaks) == ([], [])
    assert findings.verdicts["whole"] > 0
    assert report(plan, findings).endswith("OK")
