#!/bin/sh
# The command `ssd`: `make setup` copies this file to .venv/bin/ssd.
# It runs the code of the project that the user stands in or below; elsewhere that of the project of this .venv.
bin=$(dirname "$(readlink -f "$0")")
here=$(pwd -P)
root=$here
while [ -n "$root" ] && ! { [ -f "$root/dvc.yaml" ] && [ -f "$root/pipelines/__main__.py" ]; }; do
    root=${root%/*}
done
cd "${root:-$bin/../..}" || exit
exec "$bin/python" -m pipelines --from "$here" "$@"
