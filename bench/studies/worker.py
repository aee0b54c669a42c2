"""What a process of `bench ablate` does: take jobs from its input, tell how they go, until the input ends.

A job is a line of JSON, an answer too: `{"description", "done", "total"}` while it goes on, then
`{"end": null}`, or the reason of a failure in the place of null.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from bench.utils.progress import Progress
from registry.errors import CodeError, UsageError, reason, user_frame


def serve() -> None:
    """Do jobs one after the other; whatever libraries print goes to the error output."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def progress(description: str, done: int, total: int) -> None:
        out.write(json.dumps({"description": description, "done": done, "total": total}) + "\n")

    for line in sys.stdin:
        out.write(json.dumps({"end": _do(json.loads(line), progress)}) + "\n")


def _do(job: dict[str, Any], progress: Progress) -> str | None:
    """Do a job; why it failed, None where it did not."""
    from bench.records.schema import CostRequest, QualityRequest
    from bench.studies.measuring import Stopped, measure_cost, measure_quality
    from bench.training.protocols import Protocol

    results = Path(job.pop("results"))
    try:
        if "cost" in job:
            progress("counting", 0, 0)
            measure_cost(CostRequest.model_validate(job["cost"]), results)
        else:
            request = QualityRequest.model_validate(job.pop("quality"))
            protocol, run = Protocol.model_validate(job.pop("protocol")), Path(job.pop("run"))
            measure_quality(request, protocol=protocol, run=run, results=results, progress=progress, **job)
    except Stopped:
        sys.exit(0)
    except BrokenPipeError:  # nobody listens any more
        sys.exit(1)
    except (UsageError, CodeError) as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()  # into the log, whole
        frame = user_frame(error)
        place = f" ({frame.filename}, line {frame.lineno}, in {frame.name})" if frame else ""
        return reason(error) + place
    return None
