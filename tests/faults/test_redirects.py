"""Promise 20, what is left of it: an answer of a backend sends a gateway nowhere.

Whom a gateway calls stands in its settings; no request and no answer names an address to it. That
files of models execute nothing is shown in tests/unit/backends/test_stored.py.
"""

from pathlib import Path

import pytest
from load import fire, request
from stage import ONE, backend, edge

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_backend_that_redirects_is_not_followed(tmp_path: Path, status: int) -> None:
    with backend(tmp_path / "b") as one, backend(tmp_path / "b") as elsewhere:
        await one.behave(status=status, location=f"{elsewhere.url}/v2/models/lvm/infer")
        await elsewhere.behave()
        with edge(tmp_path / "e", {"phase1": one.url}, tiers=ONE) as on:
            shots = await fire(on.client, request(), rate=50, seconds=1)
        asked, reached = (await one.seen())["infers"], await elsewhere.seen()
    print(
        f"\na backend answers {status}: {asked} calls of it for {len(shots)} requests, "
        f"{reached['infers']} of where it points, {len(shots)} times 502"
    )
    assert {shot.status for shot in shots} == {502}
    assert all("location" not in shot.headers for shot in shots)
    assert asked > 0
    assert (reached["infers"], reached["open"]) == (0, 1)  # the one is who asks for it here
