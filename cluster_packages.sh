#!/usr/bin/env bash
# The daemons of the SLURM cluster on one machine (slurm/devcluster), from Debian's or Ubuntu's packages.
# Only their programs are wanted: no service is started, and where packages start one by themselves that is prevented.
set -euo pipefail

packages=(slurmctld slurmd slurmdbd slurm-client munge mariadb-server)

complete() {
    local PATH="$PATH:/usr/sbin:/sbin"
    for program in slurmctld slurmd slurmdbd sbatch munged mariadbd; do
        command -v "$program" >/dev/null || return 1
    done
}
complete && exit 0

if ! command -v apt-get >/dev/null; then
    echo "error: no apt-get here; a cluster on one machine needs Debian or Ubuntu (packages: ${packages[*]})" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then sudo=(env)
elif sudo -n true 2>/dev/null; then sudo=(sudo)
else
    echo "error: not root, and sudo asks for a password; run: sudo apt-get install ${packages[*]}" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d # asked before a package starts its service; 101: do not
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod 755 "$policy"
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
echo "installing ${packages[*]}"
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Use-Pty=0 "${packages[@]}" >/dev/null
complete || { echo "error: apt-get has installed ${packages[*]}, and some daemons are still missing" >&2; exit 1; }
