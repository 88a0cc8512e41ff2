#!/usr/bin/env bash
# The paper's AISD recipe from end to end at its full size: a miniature of AISD, ViT-B/16 with random weights.
# It shows that shapes, memory and commands are right, and says nothing about accuracy. One step sees more
# pairs than the miniature has training cases: it is an epoch. About 10 minutes on 2 idle cores.
#
#   tests/studies/aisd_recipe.sh OUT [options of trainer train]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${STROKECORE_PYTHON:-.venv/bin/python}
[ -x "$python" ] || { echo "no $python: run ./deploy/test once, it makes the virtual environment" >&2; exit 1; }
[ $# -ge 1 ] || { echo "usage: tests/studies/aisd_recipe.sh OUT [options of trainer train]" >&2; exit 2; }
out=$1
shift
[ ! -e "$out" ] || { echo "$out is there already; give another folder" >&2; exit 2; }
recipe=trainer/recipes/aisd_dinov3_vitb16.yaml

"$python" -c "
import sys
from pathlib import Path
from tests.unit.trainer.prepare.miniature_aisd import write_miniature
write_miniature(Path(sys.argv[1]))
" "$out/aisd"
"$python" -m trainer prepare aisd "$out/aisd" "$out/data"
"$python" -m trainer train --config "$recipe" --data "$out/data" --run "$out/run" --weights random --max-steps 1 "$@"
"$python" -m trainer evaluate "$out/run" --data "$out/data" --split test
