#!/usr/bin/env bash
# What FFCV's build needs from the system: a C++ compiler, pkg-config, OpenCV and libjpeg-turbo with their headers.
# Installs them through apt where that is possible without a password; otherwise stops with the lines to run.
set -euo pipefail

python=${1:-python3}
packages=(g++ pkg-config libopencv-dev libturbojpeg0-dev)

complete() {
    command -v g++ >/dev/null && command -v pkg-config >/dev/null && pkg-config --exists opencv4 libturbojpeg
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
has_venv || packages+=("python$version-venv")
has_headers || packages+=("python$version-dev")
complete && has_venv && has_headers && exit 0

if command -v apt-get >/dev/null; then
    if [ "$(id -u)" -eq 0 ]; then sudo=(env)
    elif sudo -n true 2>/dev/null; then sudo=(sudo)
    else sudo=(); fi
    if [ ${#sudo[@]} -gt 0 ]; then
        echo "installing ${packages[*]}"
        "${sudo[@]}" apt-get update -qq
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            -o Dpkg::Use-Pty=0 "${packages[@]}" >/dev/null
        complete && has_venv && has_headers && exit 0
    fi
fi
cat >&2 <<END
error: system packages that FFCV's build needs are missing, and they cannot be installed from here. Run one of
  sudo apt-get install ${packages[*]}
  conda install -c conda-forge cxx-compiler pkg-config opencv libjpeg-turbo
and then the same make command again.
END
exit 1
