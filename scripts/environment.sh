#!/bin/sh
# Makes .venv from requirements.lock, or brings it up to date; silent and quick when there is nothing to do.
# uv does it when it is on PATH, venv and pip otherwise. PYTHON=… chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
ready=$venv/.ready            # what the environment was made from; written last
unfinished=$venv/.unfinished  # there while packages are being installed: an interrupted run leaves it behind

fail() {
  printf 'streamgauge: %s\n' "$1" >&2
  exit 1
}

is_suitable() {
  "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    is_suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.11 or newer; name another one, or leave PYTHON out."
    echo "$PYTHON"
    return
  fi
  for name in python3.13 python3.12 python3.11 python3 python; do
    if is_suitable "$name"; then
      echo "$name"
      return
    fi
  done
  if command -v uv >/dev/null 2>&1 && uv python find --no-project '>=3.11' 2>/dev/null; then
    return
  fi
  fail "found no Python 3.11 or newer on PATH; install one (Debian, Ubuntu: apt install python3 python3-venv) or name one with PYTHON=/path/to/python3."
}

# Two makes at once would install into each other's half-made environment.
if command -v flock >/dev/null 2>&1; then
  exec 9<"$0"
  flock 9
fi

# The folder is part of it: a virtual environment does not survive being moved. So is the interpreter, when one is named.
made_with=$(sed -n 3p "$ready" 2>/dev/null || true)
wanted=$(cat requirements.lock pyproject.toml scripts/environment.sh | cksum; pwd; echo "${PYTHON:-${made_with:-any}}")

if [ -e "$unfinished" ]; then
  echo "The last set-up of $venv did not finish; starting again." >&2
  rm -rf "$venv"
elif [ -e "$venv" ] && ! is_suitable "$venv/bin/python"; then
  echo "$venv has no working Python 3.11 or newer; making it again." >&2
  rm -rf "$venv"
elif [ -e "$ready" ]; then
  [ "$(cat "$ready")" != "$wanted" ] || exit 0
  if [ "$(tail -n 2 "$ready")" != "$(printf '%s\n' "$wanted" | tail -n 2)" ]; then
    echo "The folder or PYTHON has changed; making $venv again." >&2
    rm -rf "$venv"
  fi
fi

if command -v uv >/dev/null 2>&1; then
  tool=uv
else
  tool=pip
  # An environment that uv made has no pip.
  if [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
  fi
fi

if [ ! -e "$venv" ]; then
  python=$(find_python)
  echo "Making $venv: $("$python" --version), $tool, packages of requirements.lock (a few minutes and 1.5 GB the first time)." >&2
  mkdir "$venv"
  touch "$unfinished"
  if [ $tool = uv ]; then
    uv venv --quiet --no-project --allow-existing --python "$python" "$venv"
  elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    rm -rf "$venv"
    fail "$python comes without its venv module; install it (Debian, Ubuntu: apt install python3-venv), or uv, and run make again."
  else
    "$python" -m venv "$venv"
  fi
else
  echo "Bringing $venv up to date with requirements.lock ($tool)." >&2
  touch "$unfinished"
fi
rm -f "$ready"

# A person sees progress, a log file only what goes wrong.
quiet=--quiet
[ ! -t 2 ] || quiet=

# The lock holds the build backend too: installing the project itself downloads nothing.
if [ $tool = uv ]; then
  uv pip sync $quiet --python "$venv/bin/python" --require-hashes requirements.lock
  uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
else
  # PIP_USER in the environment would send the packages elsewhere, or stop.
  export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
  "$venv/bin/python" -m pip install $quiet --no-deps --require-hashes --requirement requirements.lock
  "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
fi

printf '%s\n' "$wanted" >"$ready"
rm "$unfinished"
