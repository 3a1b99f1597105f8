"""What SLURM says, read: outputs recorded from a SLURM 22.05, refusals, silence; and what a job in a job passes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm import calls, scheduler
from slurm.calls import Patience, SchedulerError
from slurm.scheduler import Partition, QueuedJob, Verdict
from tests.slurm.conftest import FakeSlurm

SQUEUE = """\
10|PENDING||Resources|2026-11-24T03:18:20|0:00|/runs/a/sbatch.sh
13|PENDING||Priority|2026-11-24T05:18:00|0:00|(null)
15_[0-7]|PENDING||Priority|2026-11-24T05:18:00|0:00|array.sh
14|PENDING||PartitionNodeLimit|N/A|0:00|/runs/b|c/sbatch.sh
9|RUNNING|n[1-2]|None|2026-11-24T02:18:20|0:03|(null)
"""
JOB = """\
JobId={job} JobName=it's a "run"-job
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901751 Nice=0 Account=root QOS=normal
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:03 TimeLimit=01:00:00 TimeMin=N/A
   SubmitTime=2026-11-24T02:18:20 EligibleTime=2026-11-24T02:18:20
   AccrueTime=2026-11-24T02:18:20
   StartTime=2026-11-24T02:18:20 EndTime=2026-11-24T03:18:20 Deadline=N/A
   SuspendTime=None SecsPreSuspend=0 LastSchedEval=2026-11-24T02:18:20 Scheduler=Main
   Partition=normal AllocNode:Sid=localhost:6896
   ReqNodeList=(null) ExcNodeList={excluded}
   NodeList=n[1-2]
   BatchHost=n1
   NumNodes=2 NumCPUs=2 NumTasks=2 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   TRES=cpu=2,mem=4000M,node=2,billing=2
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
   MinCPUsNode=1 MinMemoryNode=2000M MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null)
   Command=(null)
   WorkDir=/tmp
   StdErr=/dev/null
   StdIn=/dev/null
   StdOut=/dev/null
   Power=

"""
UNKNOWN_JOB = "slurm_load_jobs error: Invalid job id specified\n"
NO_CONTROLLER = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


def _job(job: int, state: str, reason: str = "None", restarts: int = 0, excluded: str = "(null)") -> str:
    return JOB.format(job=job, state=state, reason=reason, restarts=restarts, excluded=excluded)


def test_the_queue(slurm: FakeSlurm) -> None:
    slurm.says("squeue", SQUEUE)
    assert scheduler.queued(["9", "10", "14", "999"]) == {
        "10": QueuedJob("PENDING", "", "Resources", "2026-11-24T03:18:20", "0:00", "/runs/a/sbatch.sh"),
        "14": QueuedJob("PENDING", "", "PartitionNodeLimit", "", "0:00", "/runs/b|c/sbatch.sh"),
        "9": QueuedJob("RUNNING", "n[1-2]", "None", "2026-11-24T02:18:20", "0:03", "(null)"),
    }
    assert list(scheduler.queue()) == ["10", "13", "14", "9"]
    assert slurm.calls("squeue")[0].command[1:] == ["--me", "--format=%i|%T|%N|%r|%S|%M|%o"]


def test_nobody_is_asked_about_no_jobs(slurm: FakeSlurm) -> None:
    assert scheduler.queued([]) == {}
    assert scheduler.accounted([]) == {}


def test_accounting_present_absent_and_refused(slurm: FakeSlurm) -> None:
    assert scheduler.accounted(["1", "3"]) == {}
    slurm.says("sacct", "1|COMPLETED\n3|FAILED\n11|CANCELLED by 0\n")
    assert scheduler.accounted(["1", "3", "11"]) == {"1": "COMPLETED", "3": "FAILED", "11": "CANCELLED by 0"}
    assert "--jobs=1,3,11" in slurm.calls("sacct")[0].command
    slurm.says("sacct", error="Slurm accounting storage is disabled\n", code=1)
    assert scheduler.accounted(["1"]) == {}


@pytest.mark.parametrize(
    ("state", "reason", "restarts", "verdict"),
    [
        ("RUNNING", "None", 0, Verdict.RUNNING),
        ("PENDING", "BeginTime", 1, Verdict.REQUEUED),
        ("RUNNING", "None", 1, Verdict.REQUEUED),
        ("COMPLETING", "NodeDown", 1, Verdict.REQUEUED),
        ("COMPLETING", "TimeLimit", 0, Verdict.TIME_LIMIT),
        ("TIMEOUT", "None", 0, Verdict.TIME_LIMIT),
        ("FAILED", "NonZeroExitCode", 0, Verdict.BATCH_FAILED),
        ("COMPLETING", "JobLaunchFailure", 0, Verdict.BATCH_FAILED),
        ("COMPLETING", "JobLaunchFailure", 1, Verdict.REQUEUED),
        ("CANCELLED", "None", 0, Verdict.CANCELLED),
        ("COMPLETING", "None", 0, Verdict.CANCELLED),
    ],
)
def test_what_the_scheduler_has_decided(
    slurm: FakeSlurm, state: str, reason: str, restarts: int, verdict: Verdict
) -> None:
    slurm.says("scontrol show job 17", _job(17, state, reason, restarts))
    assert scheduler.verdict("17", restart=0) is verdict


def test_nodes_are_left_out_besides_those_that_are(slurm: FakeSlurm) -> None:
    slurm.says("scontrol show job 17", _job(17, "PENDING"))
    slurm.says("scontrol show job 18", _job(18, "PENDING", excluded="n[1-2]"))
    slurm.says("scontrol update")
    scheduler.exclude_nodes("17", ["n3"])
    scheduler.exclude_nodes("18", ["n3", "n4"])
    updates = [call.command[2:] for call in slurm.calls("scontrol") if call.command[1] == "update"]
    assert updates == [["JobId=17", "ExcNodeList=n3"], ["JobId=18", "ExcNodeList=n1,n2,n3,n4"]]


def test_a_signal_that_was_meant_for_the_job_does_not_prevent_its_requeue(slurm: FakeSlurm) -> None:
    slurm.says("scontrol show job 17", _job(17, "RUNNING"))
    slurm.says("scontrol requeue", code=-signal.SIGTERM)
    slurm.says("scontrol requeue", after=1)
    scheduler.requeue("17", 0)
    assert [call.command[1] for call in slurm.calls("scontrol")] == ["requeue", "show", "requeue"]
    slurm.says("scontrol requeue", code=-signal.SIGTERM)
    slurm.says("scontrol show job 17", _job(17, "PENDING", "BeginTime", 1))
    scheduler.requeue("17", 0)  # the signal came because the requeue was under way
    assert [call.command[1] for call in slurm.calls("scontrol")][3:] == ["requeue", "show"]


def test_partitions(slurm: FakeSlurm) -> None:
    slurm.says(
        "sinfo",
        "normal*|7-00:00:00|4|gpu:2|256000\n"
        "low|1:30:00|4|(null)|256000+\n"
        "gpu_p5|20:00:00|30|gpu:a100:8(S:0-7)|512000\n"
        "gpu_p5|20:00:00|2|gpu:a100:4,gpu:v100:2(S:0),mps:200|1000000\n"
        "short|30:00|1|gpu:8(S:0,2)|1000\n"
        "endless|infinite|1|craynetwork:4,shard:7,mygpu:3|1000\n"
        "lent|infinite|1|gpu:no_consume:2|1000\n"
        "forms|infinite|1|gpu:a100:no_consume:4(S:0-1,3),gpu:1g.5gb:7,gpu:2080ti:1,bandwidth:lustre:no_consume:4G|1000\n",
    )
    assert scheduler.partitions() == [
        Partition("normal", True, 7 * 24 * 60, 4, 2, 256_000),
        Partition("low", False, 90, 4, 0, 256_000),
        Partition("gpu_p5", False, 20 * 60, 32, 8, 1_000_000),
        Partition("short", False, 30, 1, 8, 1000),
        Partition("endless", False, 0, 1, 0, 1000),
        Partition("lent", False, 0, 1, 2, 1000),
        Partition("forms", False, 0, 1, 12, 1000),
    ]


HOST_LISTS = {  # as `scontrol show hostnames` of SLURM 22.05 answers
    "n1": "n1",
    "n[1-2],n4": "n1 n2 n4",
    "n[08-10]": "n08 n09 n10",
    "n[8-10]": "n8 n9 n10",
    "n[001,3,07-08]": "n001 n3 n07 n08",
    "r[1-2]n[1-3]": "r1n1 r1n2 r1n3 r2n1 r2n2 r2n3",
    "gpu-a-01": "gpu-a-01",
    "c2-[3,5-6],c10-[98-101]": "c2-3 c2-5 c2-6 c10-98 c10-99 c10-100 c10-101",
    "": "",
}


@pytest.mark.parametrize("node_list", HOST_LISTS)
def test_host_names(node_list: str) -> None:
    assert scheduler.host_names(node_list) == tuple(HOST_LISTS[node_list].split())


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="no SLURM on this machine to compare with")
def test_scontrol_of_this_machine_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=x\nSlurmctldHost=localhost\n")
    environment = os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
    for node_list, names in HOST_LISTS.items():
        command = ["scontrol", "show", "hostnames", node_list]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=bool(node_list)).stdout
        assert said.split() == names.split()


@given(st.lists(st.tuples(st.sampled_from(["n", "gpu-", "r1c"]), st.integers(0, 99), st.integers(0, 12)), max_size=5))
def test_host_names_of_any_ranges(ranges: list[tuple[str, int, int]]) -> None:
    text = ",".join(f"{prefix}[{first:03}-{first + more:03}]" for prefix, first, more in ranges)
    expected = [f"{prefix}{first + i:03}" for prefix, first, more in ranges for i in range(more + 1)]
    assert scheduler.host_names(text) == tuple(expected)


# --- refusals and silence


def test_commands_that_are_missing_are_named_with_a_cure(slurm: FakeSlurm, tmp_path: Path) -> None:
    message = r"{} is not on this machine's PATH; load SLURM's module, or use --cluster local"
    with pytest.raises(SchedulerError, match=message.format("sbatch")):
        scheduler.submit(tmp_path / "script")
    with pytest.raises(SchedulerError, match=message.format("squeue")):
        scheduler.queued(["1"])
    with pytest.raises(SchedulerError, match=message.format("sinfo")):
        scheduler.partitions()
    for ask in (scheduler.verdict, scheduler.requeue):
        with pytest.raises(SchedulerError, match=message.format("scontrol")):
            ask("1", 0)


def test_refusals_are_handed_on_in_slurm_s_words(slurm: FakeSlurm, tmp_path: Path) -> None:
    refusal = "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid\n"
    slurm.says("sbatch", error=refusal, code=1)
    slurm.says("scontrol", error=UNKNOWN_JOB, code=1)
    slurm.says("squeue", error=NO_CONTROLLER, code=1)
    slurm.says("scancel", code=3)
    with pytest.raises(SchedulerError, match=r"sbatch .*/script: .*invalid partition specified: nope"):
        scheduler.submit(tmp_path / "script")
    with pytest.raises(SchedulerError, match="scontrol show job 17: slurm_load_jobs error: Invalid job id specified"):
        scheduler.verdict("17", 0)
    with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
        scheduler.queued(["17"])
    with pytest.raises(SchedulerError, match="scancel 17: exit code 3"):
        scheduler.cancel(["17"])


def test_a_scheduler_that_does_not_answer(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "TIMEOUT_S", 0.2)
    for name in ("squeue", "scontrol", "sinfo"):
        slurm.says(name, seconds=60)
    with pytest.raises(SchedulerError, match=r"squeue did not answer within 0\.2 s"):
        scheduler.queued(["17"])
    for ask in (scheduler.verdict, scheduler.requeue):
        with pytest.raises(SchedulerError, match=r"scontrol did not answer within 0\.2 s"):
            ask("17", 0)


# --- busy for a while

BUSY = "slurm_load_jobs error: Socket timed out on send/recv operation\n"
BUSY_WORDS = (  # as slurm_errno.c, sbatch and libc have them
    "Socket timed out on send/recv operation",
    "Unable to contact slurm controller (connect failure)",
    "Unable to contact slurm controller (shutdown failure)",
    "slurm_load_partitions: Zero Bytes were transmitted or received",
    "Slurm backup controller in standby mode",
    "Slurm controller is in the process of initializing",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "slurm_receive_msg: Connection reset by peer",
    "Resource temporarily unavailable",
    "Message receive failure",
    "Communication connection failure",
    "Protocol authentication error",
    "Connection timed out",
    "sbatch: error: Batch job submission failed: Transport endpoint is not connected",
    "error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:x: Connection refused",
)
REFUSALS = (
    "Invalid job id specified",
    "Invalid partition name specified",
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size)",
    "Access/permission denied",
    "Requested node configuration is not available",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Requested operation is presently disabled",
)


@pytest.mark.parametrize("words", BUSY_WORDS)
def test_a_busy_scheduler_is_asked_again_by_every_command(slurm: FakeSlurm, tmp_path: Path, words: str) -> None:
    answers = {"squeue": SQUEUE, "sinfo": "normal*|1:00|4|gpu:2|1000\n", "scancel": "", "scontrol update": ""}
    answers["scontrol show job"] = _job(17, "RUNNING")
    for command, answer in answers.items():
        slurm.says(command, error=words + "\n", code=1)
        slurm.says(command, answer, after=1)
    assert "9" in scheduler.queued(["9"])
    assert scheduler.partitions()[0].num_nodes == 4
    assert scheduler.verdict("17", 0) is Verdict.RUNNING
    scheduler.exclude_nodes("17", ["n1"])
    scheduler.cancel(["17"])
    for command in ("squeue", "sinfo", "scancel"):
        assert len(slurm.calls(command)) == 2


@pytest.mark.parametrize("words", REFUSALS)
def test_a_refusal_is_final(slurm: FakeSlurm, words: str) -> None:
    slurm.says("scancel", error=words, code=1)
    with pytest.raises(SchedulerError, match=f"scancel 17: {words.split('(')[0]}".rstrip()):
        scheduler.cancel(["17"])
    assert len(slurm.calls("scancel")) == 1


def test_patience_has_an_end_and_somebody_is_told(slurm: FakeSlurm) -> None:
    slurm.says("scontrol requeue", error=BUSY, code=1)
    slurm.says("scontrol show job", _job(17, "RUNNING"))
    told: list[str] = []
    with pytest.raises(SchedulerError, match=r"scontrol requeue 17: .*Socket timed out"):
        scheduler.requeue("17", 0, Patience(0.5, told.append))
    assert 2 <= len(told) <= 6
    assert all("Socket timed out on send/recv operation; asked again in" in line for line in told)


def test_a_requeue_whose_answer_was_lost_is_not_repeated(slurm: FakeSlurm) -> None:
    slurm.says("scontrol requeue", error=BUSY, code=1)
    slurm.says("scontrol show job", error=BUSY, code=1)
    slurm.says("scontrol show job", _job(17, "PENDING", "BeginTime", 1), after=1)
    scheduler.requeue("17", 0)
    assert [call.command[1] for call in slurm.calls("scontrol")] == ["requeue", "show", "show"]


def test_a_submission_whose_answer_was_lost_is_found_in_the_queue(slurm: FakeSlurm, tmp_path: Path) -> None:
    script = tmp_path / "s|p.sh"
    slurm.says("sbatch", error=BUSY, code=1)
    slurm.says("squeue", SQUEUE + f"16|PENDING||Priority|N/A|0:00|{script}\n")
    assert scheduler.submit(script) == "16"
    assert len(slurm.calls("sbatch")) == 1
    slurm.says("squeue", SQUEUE)  # it was not heard
    slurm.says("sbatch", "{number}\n", after=1)
    assert scheduler.submit(script) == "103"


GARBAGE = (
    *("", "Welcome to the cluster!\n"),
    *(
        pytest.param(text, marks=pytest.mark.slow)
        for text in ("\n", "<html>502 Bad Gateway</html>\n", "null\n", "\0\0")
    ),
)


@pytest.mark.parametrize("answer", GARBAGE)
def test_what_is_no_answer_is_not_believed(slurm: FakeSlurm, tmp_path: Path, answer: str) -> None:
    """An empty queue would mean that everything is submitted again, a job without a state that it was cancelled."""
    commands = ("squeue", "sinfo", "scontrol show job", "sbatch")
    for command in commands:
        slurm.says(command)  # makes the programs; the answers follow, without headers
    (slurm.folder / "says.json").write_text(json.dumps({command: [(answer, "", 0, 0)] for command in commands}))
    with pytest.raises(SchedulerError, match=r"squeue answered .*, allowed: a table that begins with JOBID"):
        scheduler.queue()
    with pytest.raises(SchedulerError, match=r"sinfo answered .*, allowed: a table that begins with PARTITION"):
        scheduler.partitions()
    with pytest.raises(
        SchedulerError, match=r"scontrol show job 17 answered .*, allowed: a job's fields, with JobState"
    ):
        scheduler.verdict("17", 0)
    slurm.says("squeue", SQUEUE)
    with pytest.raises(
        SchedulerError, match=r"sbatch .* answered .*, allowed: a line with the id of a job, such as 17"
    ):
        scheduler.submit(tmp_path / "script")


@pytest.mark.parametrize(
    ("answer", "job_id"),
    [
        ("17\n", "17"),
        ("17;jean-zay\n", "17"),
        ("Welcome! 3 maintenance days ahead.\n17\nYour quota: 80 %\n", "17"),
        ("17 \r\n", "17"),
        ("17\n18\n", ""),
        ("Submitted batch job\n", ""),
        ("-17\n", ""),
        ("17;a b\n", ""),
    ],
)
def test_an_id_is_digits_alone_on_a_line(slurm: FakeSlurm, tmp_path: Path, answer: str, job_id: str) -> None:
    slurm.says("squeue", SQUEUE)
    slurm.says("sbatch", answer)
    if job_id:
        assert scheduler.submit(tmp_path / "script") == job_id
        return
    with pytest.raises(SchedulerError, match="allowed: a line with the id of a job"):
        scheduler.submit(tmp_path / "script")


def test_a_banner_above_a_table_is_passed_over(slurm: FakeSlurm) -> None:
    said = "Maintenance on Monday | see the wiki\n\n"
    slurm.says("squeue", "")
    text = json.loads((slurm.folder / "says.json").read_text())
    text["squeue"][0][0] = said + text["squeue"][0][0] + SQUEUE + "slurm says goodbye\n"
    (slurm.folder / "says.json").write_text(json.dumps(text))
    assert list(scheduler.queue()) == ["10", "13", "14", "9"]


def test_nodes_that_take_jobs(slurm: FakeSlurm) -> None:
    states = ("idle", "mixed", "allocated", "completing", "planned", "idle~", "down", "down*", "drained", "draining")
    states += ("idle*", "fail", "maint", "unknown", "reserved")
    rows = [f"n{number}|{state}\n" for number, state in enumerate(states, 1)]
    slurm.says("sinfo --Node", "".join(rows))
    assert scheduler.usable_nodes("normal") == {"n1", "n2", "n3", "n4", "n5", "n6", "n15"}


# --- submitting


def test_a_submission_gives_the_id_with_and_without_a_cluster_s_name(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("sbatch", "{number}\n")
    assert scheduler.submit(tmp_path / "s p.sh") == "101"
    slurm.says("sbatch", "{number};jean-zay\n")
    assert scheduler.submit(tmp_path / "s p.sh") == "102"
    assert slurm.calls("sbatch")[1].command == ["sbatch", "--parsable", str(tmp_path / "s p.sh")]


def test_a_job_does_not_pass_its_own_variables_on(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.says("sbatch", "{number}\n")
    outer = {"SLURM_NTASKS": "8", "SLURM_MEM_PER_NODE": "100", "SRUN_CPUS_PER_TASK": "3", "PMI_RANK": "1", "RANK": "5"}
    outer |= {"CUDA_VISIBLE_DEVICES": "1", "MASTER_ADDR": "n1", "SLURMD_NODENAME": "n1", "SUBMITIT_X": "1"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "NCCL_DEBUG": "WARN", "HOME": "/home/me"}
    for name, value in (outer | kept).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    scheduler.submit(tmp_path / "script")
    assert (outer | kept).items() <= slurm.calls("sbatch")[0].environment.items()  # no job around: all the user's own
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    scheduler.submit(tmp_path / "script")
    environment = slurm.calls("sbatch")[1].environment
    assert kept.items() <= environment.items()
    assert not (outer.keys() | {"SLURM_JOB_ID"}) & environment.keys()
    assert os.environ["SLURM_NTASKS"] == "8"  # this process keeps its own
