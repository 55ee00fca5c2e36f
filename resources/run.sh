#!/usr/bin/env bash
# Runs the job of this folder on a machine without network:
#
#     bash run.sh
#
# The machine has bash, sha256sum and Python 3.11 or newer with pip, and what parcel.json says under "expects".
# PYTHON names another Python than python3. With several GPUs all are used; CUDA_VISIBLE_DEVICES chooses.
# Whatever has ended it, started again it goes on where it was. Nothing is written beside this folder.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

python=${PYTHON:-python3}
command -v sha256sum >/dev/null || fail "There is no sha256sum on this machine, which GNU coreutils has"
command -v "$python" >/dev/null || fail "There is no $python on this machine; name another: PYTHON=... bash run.sh"

echo "checking that every file is as it was sent"
if ! faults=$(LC_ALL=C sha256sum --check --strict --quiet SHA256SUMS 2>/dev/null); then
    name=${faults%%: FAILED*}
    fail "File ${name:-SHA256SUMS} is missing or was changed on the way; copy it here again."
fi

# The last line is of parcel.json, without which the list has lost its end.
[[ $(tail -n 1 SHA256SUMS) == *"  parcel.json" ]] || fail "List SHA256SUMS is not whole; copy it here again."

"$python" - <<'PYTHON' || exit 2
import importlib.util, json, platform, sys

facts = json.load(open("parcel.json", encoding="utf-8"))
here, wanted, fault = "{}.{}".format(*sys.version_info), facts["python"], None
if len(open("SHA256SUMS", encoding="utf-8").readlines()) != facts["lines"]:
    sys.exit("error: List SHA256SUMS is not whole; copy the folder here again.")
if sys.version_info < (3, 11) or wanted not in (None, here):
    fault = f"This folder needs Python {wanted or '3.11 or newer'} and {sys.executable} is {here}"
elif facts["machine"] not in (None, platform.machine()):
    fault = f"The wheels of this folder are for {facts['machine']} and this machine is {platform.machine()}"
elif not importlib.util.find_spec("pip"):
    fault = f"{sys.executable} has no pip"
if fault:
    way_out = "name another Python (PYTHON=... bash run.sh), or set python and machine in the launcher file"
    sys.exit(f"error: {fault}; {way_out}.")
PYTHON

find inputs wheels -name '*.part-00000' | while IFS= read -r first; do
    whole=${first%.part-00000}
    if [[ ! -e $whole ]]; then
        cat "$whole".part-* >"$whole.joining"
        mv "$whole.joining" "$whole"
    fi
done

if [[ ! -d work/site ]]; then
    echo "installing the packages that travelled along into work/site"
    rm -rf work/site.new
    PIP_CONFIG_FILE=/dev/null "$python" -m pip --isolated install --quiet --disable-pip-version-check \
        --no-index --no-deps --no-warn-script-location --target work/site.new wheels/*.whl
    mv work/site.new work/site
fi

export PYTHONPATH="$PWD/work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
exec "$python" -m symtune_pipeline.jobs.in_folder
