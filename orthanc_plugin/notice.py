"""Write the NOT SCORED picture of a head CT whose scoring process died: ``notice.py IN OUT CODE DATETIME``.

Run by the virtual environment's python like the scorer, never inside Orthanc. It reads headers only, so
that what killed the scorer does not kill it too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from strokecore.config import ScoringConfig
from strokecore.reports.outputs import failed_run, write_all


def main(arguments: list[str]) -> int:
    folder, out, code, content_datetime = arguments
    error = type(code, (Exception,), {})()  # the picture names the kind of the failure
    scored = failed_run(ScoringConfig(), error, content_datetime=content_datetime)
    write_all(scored, Path(folder), Path(out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
