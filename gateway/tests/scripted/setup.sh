#!/bin/sh
# Makes (or completes) the virtual environment for the scripted control plane and the judge.
# Usage: setup.sh DIRECTORY        then: DIRECTORY/bin/python run.py ...
set -eu
directory=${1:?usage: setup.sh DIRECTORY}
[ -x "$directory/bin/python" ] || python3 -m venv "$directory"
exec "$directory/bin/pip" install --quiet --disable-pip-version-check -r "$(dirname "$0")/requirements.txt"
