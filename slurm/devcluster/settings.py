"""What the daemons of a devcluster are told: slurm.conf, gres.conf, slurmdbd.conf, the database's first statements.

The files are written for this machine: private ports on loopback, secrets of their own, every node a slurmd here.
"""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
CPUS_PER_NODE = 64  # pretended, so that any job size can be tried; the real cores are shared
MEMORY_PER_NODE_MB = 256_000
RUN_AS = getpass.getuser()


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback."""

    controller: int
    accounting: int
    nodes: tuple[int, ...]


def node_names(num_nodes: int) -> list[str]:
    """n1, n2, ..."""
    return [f"n{number}" for number in range(1, num_nodes + 1)]


def slurm_conf(folder: Path, ports: Ports, gpus_per_node: int, version: tuple[int, int]) -> str:
    """The cluster: accounting, two partitions of which `normal` preempts `low` by requeue, GPUs that are files."""
    machine = socket.gethostname().split(".")[0]
    notify = "preempt_send_user_signal,"
    preempt_parameters = ""
    if version >= (23, 2):  # the option moved
        notify, preempt_parameters = "", "PreemptParameters=send_user_signal\n"
    gres = f" Gres=gpu:{gpus_per_node}" if gpus_per_node else ""
    nodes = "".join(
        f"NodeName={name} NodeHostname={machine} NodeAddr={HOST} Port={port} CPUs={CPUS_PER_NODE} "
        f"RealMemory={MEMORY_PER_NODE_MB}{gres} State=UNKNOWN\n"
        for name, port in zip(node_names(len(ports.nodes)), ports.nodes, strict=True)
    )
    return f"""\
ClusterName=devcluster
SlurmctldHost={machine}({HOST})
SlurmctldPort={ports.controller}
SlurmUser={RUN_AS}
SlurmdUser={RUN_AS}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=2000
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=500000,batch_sched_delay=1,max_rpc_cnt=0
SlurmctldParameters={notify}enable_configless
{preempt_parameters}\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=15
MinJobAge=3600
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={HOST}
AccountingStoragePort={ports.accounting}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
{nodes}\
PartitionName=DEFAULT Nodes=ALL MaxTime=7-00:00:00 DefaultTime=1:00:00 State=UP
PartitionName=normal Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low Default=NO PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
"""


def gres_conf(folder: Path, num_nodes: int, gpus_per_node: int) -> str:
    """GPUs as empty files: SLURM counts them and sets CUDA_VISIBLE_DEVICES, nothing more."""
    if not gpus_per_node:
        return "AutoDetect=off\n"
    files = f"{folder}/gpus/nvidia[0-{gpus_per_node - 1}]" if gpus_per_node > 1 else f"{folder}/gpus/nvidia0"
    return f"AutoDetect=off\nNodeName=n[1-{num_nodes}] Name=gpu File={files}\n"


def slurmdbd_conf(folder: Path, ports: Ports) -> str:
    """Accounting, so that sacct knows what became of a job. The database's socket is in the daemon's environment."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={socket.gethostname().split(".")[0]}
DbdAddr={HOST}
DbdPort={ports.accounting}
CommunicationParameters=NoInAddrAny
SlurmUser={RUN_AS}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={RUN_AS}
StorageLoc=slurm
"""


def database_statements() -> str:
    """What makes the accounting database, once. There is no password: the socket tells the server who is calling."""
    return (
        "CREATE DATABASE IF NOT EXISTS slurm;\n"
        f"CREATE USER IF NOT EXISTS '{RUN_AS}'@'localhost' IDENTIFIED VIA unix_socket;\n"
        f"GRANT ALL ON slurm.* TO '{RUN_AS}'@'localhost';\n"
    )
