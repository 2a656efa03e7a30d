#!/usr/bin/env bash
# Install a wheel into an empty environment, away from the checkout, and use it as a new user would.
#   check_wheel.sh WHEEL [PYTHON]
set -euo pipefail
wheel=$(realpath "$1")
python=${2:-python3}
constraints=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../constraints.txt")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export DISTMETA_HOME="$scratch/home"

"$python" -m venv venv
venv/bin/pip install --quiet -c "$constraints" torch
venv/bin/pip install --quiet -c "$constraints" "$wheel"
venv/bin/distmeta --version
venv/bin/distmeta jobs init work
cd work
../venv/bin/distmeta train first_job.py --set train.steps=5 --set tracking.kind=none
../venv/bin/distmeta evaluate runs/first_job --tasks 8

code=0
message=$(../venv/bin/distmeta bench engine 2>&1) || code=$?
if [[ $code -ne 2 || $(wc -l <<<"$message") -ne 1 ]]; then
    echo "distmeta bench without a checkout: exit code $code instead of 2, or not one line: $message" >&2
    exit 1
fi
echo "the wheel installs clean and runs"
