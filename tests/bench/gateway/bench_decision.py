"""How long our gateway takes to learn the length of a JSON body: one line of JSON, seconds.

`python bench_decision.py FILE --times N`: the decision alone, in process, on the body in FILE.
"""

import argparse
import json
import time
from pathlib import Path

from router import length


def main() -> None:
    """Time the decision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("body", type=Path)
    parser.add_argument("--times", type=int, default=50)
    options = parser.parse_args()
    body = options.body.read_bytes()
    taken: list[float] = []
    for _ in range(options.times):
        began = time.perf_counter()
        found = length.of_predict(body, max_length=2000)
        taken.append(time.perf_counter() - began)
    print(json.dumps({"length": found.length, "seconds": taken}))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
