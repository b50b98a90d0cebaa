#!/bin/sh
# Makes (or completes) the virtual environment for the scripted control plane and the judge.
# Usage: setup.sh DIRECTORY        then: DIRECTORY/bin/python run.py ...
set -eu
directory=${1:?usage: setup.sh DIRECTORY}
[ -x "$directory/bin/python" ] || python3 -m venv "$directory"
"$directory/bin/pip" install --quiet --disable-pip-version-check -r "$(dirname "$0")/requirements.txt"
# In a place of its own: xds-protos brings an old copy of the same modules, and a mixture of both would be neither.
if ! [ -e "$directory/otlp/opentelemetry/__init__.py" ]; then
  "$directory/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$directory/otlp" opentelemetry-proto==1.45.2
  touch "$directory/otlp/opentelemetry/__init__.py"
fi
