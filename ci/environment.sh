# Sourced by ci/test and ci/demo: the checkout's own environment, .venv, with fastsce installed in place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export NUMBA_CACHE_DIR="$PWD/.cache/numba" # compiled kernels, kept with the checkout

unset PYTHONDONTWRITEBYTECODE # else every process would compile all that it imports: numba 0.84 s, not 0.25

# install NAME REQUIREMENT...: install into .venv, unless that was already done for this pyproject.toml
install() {
    local done=".venv/installed-$1" wanted
    shift
    wanted="$(cksum <pyproject.toml) $*"
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    if [ "$(cat "$done" 2>/dev/null)" != "$wanted" ]; then
        echo "installing $* into .venv"
        # Modules are compiled when they are imported: few of all that are installed.
        .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile "$@"
        echo "$wanted" >"$done"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}
