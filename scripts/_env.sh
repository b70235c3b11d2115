# Shared by the scripts beside it: finding Pythons and making virtual environments. Sourced, never run.
#
# An environment is made once and kept until what it was made from changes: its stamp is a digest of the Python, of
# pyproject.toml and of the arguments given to pip. Several may be made at the same time.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit 1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=
mkdir -p .cache

say() { printf '%s\n' "$*"; }
warn() { printf '\n*** %s\n\n' "$*" >&2; }

# python_version PATH -> "3.11", nothing when it does not run
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# find_python 3.11 -> the path of such a Python; fails when there is none
find_python() {
    local candidate
    for candidate in "$(command -v "python$1" 2>/dev/null)" "$HOME"/.pyenv/versions/"$1"*/bin/python \
        /opt/python/*/bin/"python$1" /usr/local/bin/"python$1" "$(command -v python3 2>/dev/null)"; do
        [ -x "$candidate" ] && [ "$(python_version "$candidate")" = "$1" ] || continue
        "$candidate" -c 'import venv, ensurepip' 2>/dev/null || continue
        "$candidate" -c 'import sys; print(sys.executable)'
        return 0
    done
    return 1
}

# first_python 3.12 3.13 ... -> the first of these that exists
first_python() {
    local version
    for version in "$@"; do
        find_python "$version" && return 0
    done
    return 1
}

# make_venv DIRECTORY PYTHON PIP-ARGUMENTS... : the environment, with `pip install ARGUMENTS` done in it
make_venv() {
    local directory=$1 python=$2 stamp log
    shift 2
    stamp=$({ "$python" -VV; cat pyproject.toml; printf '%s\n' "$ROOT" "$@"; } | sha256sum)
    [ "$(cat "$directory/.stamp" 2>/dev/null)" = "$stamp" ] && return 0
    log=".cache/$(basename "$directory").log"
    rm -rf "$directory"
    if "$python" -m venv "$directory" >"$log" 2>&1 &&
        "$directory/bin/python" -m pip install -q --upgrade 'pip>=25.1' >>"$log" 2>&1 &&
        "$directory/bin/python" -m pip install -q "$@" >>"$log" 2>&1; then
        printf '%s\n' "$stamp" >"$directory/.stamp"
        return 0
    fi
    warn "could not make $directory with $("$python" -V 2>&1); the end of $log:"
    tail -n 15 "$log" >&2
    return 1
}
