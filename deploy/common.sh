# Shared by the scripts in deploy/: sourced, never run.
# shellcheck shell=bash

set -euo pipefail
export LC_ALL=C.UTF-8
unset CDPATH PYTHONPATH PYTHONHOME
# Debian's Orthanc lies where ordinary users do not look.
PATH="$PATH:/usr/sbin:/sbin"

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
STATE="$ROOT/.strokecore"
# A script may set another: the packages for a GPU exclude those for a CPU.
ENVIRONMENT="${ENVIRONMENT:-.venv}"
PYTHON="$ROOT/$ENVIRONMENT/bin/python"

NODE_PACKAGES=(orthanc orthanc-python orthanc-gdcm python3 python3-venv)
TEST_PACKAGES=("${NODE_PACKAGES[@]}" dicom3tools dcmtk)

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

prepare_state_folder() {
    mkdir -p -- "$STATE/log"
    chmod 700 "$STATE"
}

# only_one NAME MESSAGE: hold a lock until this script ends, or end with MESSAGE.
only_one() {
    exec 9>"$STATE/$1.lock"
    flock --nonblock 9 || fail "$2"
}

# install_packages PACKAGE...: Debian packages that are missing; nothing when none is.
install_packages() {
    command -v dpkg-query >/dev/null || {
        command -v Orthanc >/dev/null || fail "This is no Debian system and Orthanc is not installed; see deploy/README.md."
        return 0
    }
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Installing Debian packages: ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null ||
            fail "These Debian packages are missing and neither root nor sudo is at hand: ${missing[*]}. Ask an administrator to run: bash $ROOT/deploy/install_packages.sh ${missing[*]}"
        as_root=(sudo --)
    fi
    "${as_root[@]}" bash "$ROOT/deploy/install_packages.sh" "${missing[@]}" >"$STATE/log/packages.log" 2>&1 || {
        tail -n 15 "$STATE/log/packages.log" >&2
        fail "The packages could not be installed; the whole log is $STATE/log/packages.log"
    }
}

# make_environment EXTRA: the virtual environment with this checkout installed; EXTRA is "", "cpu" (trained models),
# "gpu" or "dev".
make_environment() {
    local extra=$1 wanted stamp
    exec 8>"$STATE/environment.lock"
    flock --nonblock 8 || {
        say "Waiting for another installation in this checkout"
        flock 8
    }
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed as /usr/bin/python3; this is $(/usr/bin/python3 -V 2>&1)."
    # The folder is part of the stamp: an environment does not survive being moved.
    wanted=$({
        printf '%s\n' "$ROOT" "$(/usr/bin/python3 -V)"
        cat -- "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$ROOT/deploy/constraints.txt"
    } | sha256sum | cut -d' ' -f1)
    for stamp in "$ROOT/$ENVIRONMENT/stamp-$extra" "$ROOT/$ENVIRONMENT/stamp-dev"; do
        if [ "$(cat -- "$stamp" 2>/dev/null)" = "$wanted" ] && "$PYTHON" -c '' 2>/dev/null; then
            exec 8>&-
            return 0
        fi
    done
    say "Installing Python packages into $ENVIRONMENT"
    local log="$STATE/log/environment.log"
    {
        "$PYTHON" -m pip --version || /usr/bin/python3 -m venv --clear -- "$ROOT/$ENVIRONMENT"
        cd -- "$ROOT"
        "$PYTHON" -m pip install --disable-pip-version-check --no-input --no-cache-dir --constraint deploy/constraints.txt \
            --editable ".${extra:+[$extra]}"
    } >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        fail "The Python packages could not be installed; the whole log is $log"
    }
    printf '%s\n' "$wanted" >"$ROOT/$ENVIRONMENT/stamp-$extra"
    exec 8>&-
}
