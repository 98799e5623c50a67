#!/bin/sh
# `make clean`: say what goes and how large it is, ask where somebody sits at a terminal, then remove it.
# It removes runs/ and what artifacts/ holds that is not in git. .venv, data/ and DVC's cache stay.
set -eu
cd "$(dirname "$0")/.."

list() {
    if [ -e runs ] || [ -L runs ]; then printf 'runs\0'; fi
    git ls-files -z --others --ignored --exclude-standard --directory artifacts
}

if [ "$(list | wc -c)" -eq 0 ]; then
    echo "clean: there is nothing to remove"
    exit
fi
if command -v flock > /dev/null; then
    for lock in runs/*/driver.lock; do
        if [ -e "$lock" ] && ! flock --nonblock "$lock" true; then
            echo "clean: ${lock%/driver.lock} is being trained; end that first" >&2
            exit 1
        fi
    done
fi

echo "This removes:"
list | xargs -0 du -shc -- | sed 's/^/  /'
if [ -d runs ]; then
    echo "runs/ holds the checkpoints, and MLflow's runs and registered models where they are on no server: with it"
    echo "they are gone for good. runs/README.txt says what else is in it."
fi
echo "artifacts/ comes back: what DVC has in its cache by \`dvc checkout\`, all else by \`make repro\`."
if [ -t 0 ]; then
    printf 'Remove it? [y/N] '
    read -r answer
    case $answer in [yY]*) ;; *) echo "clean: nothing was removed"; exit ;; esac
fi
list | xargs -0 rm -rf --
echo "clean: removed"
