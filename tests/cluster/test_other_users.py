"""What another user of the machine gets of a running devcluster: nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slurm.devcluster.daemons import DevCluster
from tests.other_user import act, needs_root

pytestmark = [pytest.mark.slow, needs_root]

LOOKS_AROUND = """
import os, socket, sys
from pathlib import Path
folder = Path(sys.argv[1])
for name in ("", "munge/key", "slurmdbd.conf", "database.sql", "log/slurmctld.log", "devcluster.json", "spool/n1"):
    print(os.access(folder / name, os.R_OK) or os.access(folder / name, os.W_OK))
for name in ("database/socket", "munge/socket"):
    try:
        socket.socket(socket.AF_UNIX).connect(str(folder / name))
        print(True)
    except OSError:
        print(False)
"""
CALLS = """
import os, subprocess, sys
environment = os.environ | {"SLURM_CONF": sys.argv[1], "MARIADB_UNIX_PORT": sys.argv[2]}
for command in ("sinfo", "squeue", "scontrol ping", "scancel 1", "mariadb -u root -e select"):
    print(subprocess.run(command.split(), env=environment, capture_output=True).returncode != 0)
"""


def test_another_user_gets_at_neither_files_nor_sockets_nor_answers(cluster: DevCluster, tmp_path: Path) -> None:
    assert set(act(LOOKS_AROUND, cluster.folder).split()) == {"False"}
    published = tmp_path / "slurm.conf"
    published.write_text((cluster.folder / "slurm.conf").read_text())
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    try:
        refused = act(CALLS, published, cluster.folder / "database" / "socket").split()
    finally:
        tmp_path.parents[1].chmod(0o700)
    assert refused == ["True"] * 5


def test_the_database_listens_nowhere_and_has_no_password(cluster: DevCluster) -> None:
    listening = {line.split()[3] for name in ("tcp", "tcp6") for line in _listening(name)}
    inodes = {Path(entry).readlink().as_posix() for entry in Path(f"/proc/{cluster.pids['mariadbd']}/fd").iterdir()}
    assert listening == {"0A"}  # something listens, so this looked at the right place
    sockets = {f"socket:[{line.split()[9]}]" for name in ("tcp", "tcp6") for line in _listening(name)}
    assert not sockets & inodes
    says = ["mariadb", "--no-defaults", f"--socket={cluster.folder}/database/socket", "--skip-column-names", "-e"]
    open_accounts = (
        "select user from mysql.global_priv where json_value(priv, '$.authentication_string') = '' "
        "and ifnull(json_value(priv, '$.account_locked'), 0) != 1"
    )
    answer = subprocess.run([*says, open_accounts], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
    written = f"select 'x' into outfile '{cluster.folder}/log/written'"
    done = subprocess.run([*says, written], capture_output=True, text=True)
    assert "--secure-file-priv" in done.stderr
    assert not (cluster.folder / "log" / "written").exists()
    assert "JobID" in cluster.call("sacct")


def _listening(name: str) -> list[str]:
    return [line for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:] if line.split()[3] == "0A"]


def test_folders_keys_and_logs_are_its_owners_alone(cluster: DevCluster) -> None:
    mine = cluster.folder.lstat().st_uid
    found = list(cluster.folder.rglob("*"))
    assert len(found) > 50
    assert {path.lstat().st_uid for path in found} == {mine}
    assert cluster.folder.lstat().st_mode & 0o777 == 0o700
    inside = [cluster.folder / name for name in ("munge", "log", "state", "gpus", "devcluster.json", "database.sql")]
    inside += [*cluster.folder.glob("*.conf"), *(cluster.folder / "log").iterdir(), cluster.folder / "munge" / "key"]
    assert len(inside) > 15
    assert [path for path in inside if path.lstat().st_mode & 0o077] == []
