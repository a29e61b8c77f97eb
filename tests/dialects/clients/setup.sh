#!/usr/bin/env bash
# Install the client libraries that these tests run, pinned, each kind in a folder of its own: into
# .venv, or where CLIENT_LIBRARIES says. Does nothing if they are there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
into=${CLIENT_LIBRARIES:-$root/.venv}
python=$root/.venv/bin/python

if ! cmp -s "$here/requirements.txt" "$into/clients-python/installed.txt"; then
  rm -rf "$into/clients-python"
  "$python" -m venv --without-pip "$into/clients-python"
  # Everything is pinned, so nothing is resolved; and only what is imported is compiled, when it is.
  "$python" -m pip --python "$into/clients-python/bin/python" install --disable-pip-version-check -q \
    --no-deps --no-compile -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$into/clients-python/installed.txt"
fi

if ! cmp -s "$here/package-lock.json" "$into/clients-npm/installed.json"; then
  command -v npm >/dev/null || { echo "the tests of Node's clients fail without npm" >&2; exit 0; }
  rm -rf "$into/clients-npm"
  mkdir -p "$into/clients-npm"
  cp "$here/package.json" "$here/package-lock.json" "$into/clients-npm/"
  (cd "$into/clients-npm" && npm ci --silent --no-audit --no-fund --ignore-scripts)
  cp "$here/package-lock.json" "$into/clients-npm/installed.json"
fi
