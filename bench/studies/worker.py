"""What a process of `bench ablate` does: take jobs from its input, tell how they go, until the input ends.

A job is a line of JSON, an answer too: `{"doing", "done", "count", "loss"}` while it goes on, then
`{"end": null}`, or the reason of a failure in the place of null.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from registry.errors import UsageError, reason


def serve() -> None:
    """Do jobs one after the other; whatever libraries print goes to the error output."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(doing: str, done: int = 0, count: int = 0, *, loss: float = math.nan) -> None:
        told = {"doing": doing, "done": done, "count": count, "loss": loss if math.isfinite(loss) else None}
        out.write(json.dumps(told) + "\n")

    for line in sys.stdin:
        out.write(json.dumps({"end": _do(json.loads(line), tell)}) + "\n")


def _do(job: dict[str, Any], tell: Any) -> str | None:
    """Do a job; why it failed, None where it did not."""
    from bench.studies.measuring import Stopped, measure_cost, measure_quality
    from bench.training.protocols import Protocol

    results = Path(job.pop("results"))
    try:
        if job["asked"]["measure"] == "cost":
            tell("counting")
            measure_cost(job["asked"], results)
        else:
            protocol, run = Protocol.model_validate(job.pop("protocol")), Path(job.pop("run"))
            measure_quality(protocol=protocol, run=run, results=results, tell=tell, **job)
    except Stopped:
        sys.exit(0)
    except BrokenPipeError:  # nobody listens any more
        sys.exit(1)
    except UsageError as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return reason(error)
    return None
