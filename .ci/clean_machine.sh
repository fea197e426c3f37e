#!/usr/bin/env bash
# A clean machine: the wheel by pip, then every first command in an empty folder. Needs the network; not part of .ci/run.
#
#     .ci/clean_machine.sh [OPTION…]      # pip's, such as --constraint constraints.txt for the tested versions
#
# PYTHON names the interpreter; DETECTOR_DATASETS a folder with COCO8, where it cannot be downloaded. Everything goes to a
# temporary folder, downloads and W&B's files too.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT

unset PYTHONPATH VIRTUAL_ENV
export XDG_CACHE_HOME="$place/cache"
"${PYTHON:-python3}" -m venv "$place/venv"
export PATH="$place/venv/bin:$PATH"
pip wheel --quiet --no-deps --wheel-dir "$place/dist" "$project"
pip install --quiet "$@" "$place"/dist/*.whl

mkdir "$place/empty"
cd "$place/empty"
set -x
detector --version
detector init mylab
detector train
detector train --config no_residual
detector compare runs --html report.html
cd mylab
detector check data.yaml
detector train --config lab.yaml train.epochs=5 run.dir=runs/lab
detector train --config ablations/no_shortcut.yaml train.epochs=5 run.dir=runs/no_shortcut
detector compare runs
cd ..
set +x

test -s report.html
test "$(ls | xargs)" = "mylab report.html runs"  # nothing is left behind besides what was asked for
python - <<'PYTHON'
import json
from pathlib import Path

import detector

assert "site-packages" in detector.__file__, detector.__file__  # the wheel, and not a clone
runs = sorted(Path().rglob("summary.json"))
assert len(runs) == 4, runs
for run in runs:
    assert json.loads(run.read_text())["status"] == "finished", run
PYTHON
echo "a clean machine: every command works"
