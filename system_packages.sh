#!/usr/bin/env bash
# What FFCV's build needs from the system: a C++ compiler, pkg-config, OpenCV and libjpeg-turbo with their headers.
# Installs them through apt where that is possible without a password; otherwise says the lines to run, and set-up goes
# on without FFCV. It stops only where Python is too old or cannot make an environment.
set -euo pipefail

python=${1:-python3}
packages=()

complete() {
    command -v g++ >/dev/null && command -v pkg-config >/dev/null && pkg-config --exists opencv4 libturbojpeg && has_headers
}
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() {
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

[[ $OSTYPE == linux* ]] || {
    echo "error: this is $OSTYPE, needed: Linux; on a Mac or Windows run it in a Linux container or virtual machine" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $python is $("$python" --version 2>&1), needed: Python 3.11 or newer; run: make PYTHON=python3.12 ..." >&2
    exit 1
}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
complete || packages+=(g++ pkg-config libopencv-dev libturbojpeg0-dev "python$version-dev")
has_venv || packages+=("python$version-venv")
complete && has_venv && exit 0

if command -v apt-get >/dev/null; then
    if [ "$(id -u)" -eq 0 ]; then sudo=(env)
    elif sudo -n true 2>/dev/null; then sudo=(sudo)
    else sudo=(); fi
    if [ ${#sudo[@]} -gt 0 ]; then
        echo "installing ${packages[*]}"
        "${sudo[@]}" apt-get update -qq || true
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            -o Dpkg::Use-Pty=0 "${packages[@]}" >/dev/null || true
        complete && has_venv && exit 0
    fi
fi
has_venv || {
    echo "error: $python cannot make an environment, and it cannot be mended from here; run" >&2
    echo "  sudo apt-get install python$version-venv" >&2
    exit 1
}
cat >&2 <<END
note: set-up goes on without FFCV, since what its build needs is missing and cannot be installed from here. Writing,
training and measuring work without it; missing are FFCV's own loader and the comparisons with it. To have it, run one of
  sudo apt-get install ${packages[*]}
  conda install -c conda-forge cxx-compiler pkg-config opencv libjpeg-turbo
and then make -B setup.
END
