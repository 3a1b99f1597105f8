"""The script that SLURM gets: word for word for a profile with everything, and as bash and sbatch read it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm import attempts, srun
from slurm.cluster import Cluster
from slurm.executor import LOAD_MODULE, for_cluster, sbatch_script, submit
from slurm.task import JobSpec
from tests.slurm.conftest import FakeSlurm

ROOT = Path(__file__).parents[2]
FOLDER = Path("/scratch/my run/jobs/pretrain")
EVERYTHING = Cluster(
    "mysite",
    partition="gpu_p5",
    account="abc@a100",
    qos="qos_gpu-t3",
    constraint="a100&nvlink",
    exclude="node[17-18]",
    reservation="maintenance",
    gpus_per_node=8,
    cpus_per_gpu=6,
    mem_per_gpu_gb=1.5,
    time="1-02:30",
    signal_lead_s=300,
    gpu_type="a100",
    extra_sbatch_flags=("--exclusive", "--comment=project #7, 'urgent'", "--mail-type=FAIL"),
    extra_srun_flags=("--mpi=pmix",),
    modules=("arch/a100", "cuda/12.4"),
    setup=("ulimit -n 65536", 'source "$WORK/venv/bin/activate"'),
    environment={"NCCL_DEBUG": "WARN", "WORD": "two words, $HOME and 'quotes'"},
)
SCRIPT = """\
#!/bin/bash

# Parameters
#SBATCH --account=abc@a100
#SBATCH --comment='project #7, '"'"'urgent'"'"''
#SBATCH --constraint='a100&nvlink'
#SBATCH --cpus-per-task=6
#SBATCH --dependency=afterok:17
#SBATCH --exclude='node[17-18]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=a100:8
#SBATCH --job-name='my run-pretrain'
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=FAIL
#SBATCH --mem=12288M
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output='/scratch/my run/jobs/pretrain/batch_%j.log'
#SBATCH --partition=gpu_p5
#SBATCH --qos=qos_gpu-t3
#SBATCH --requeue
#SBATCH --reservation=maintenance
#SBATCH --signal=USR2@300
#SBATCH --time=1590

# setup
{load_module}
load_module arch/a100
load_module cuda/12.4
export NCCL_DEBUG=WARN
export WORD='two words, $HOME and '"'"'quotes'"'"''
ulimit -n 65536
source "$WORK/venv/bin/activate"

# command
trap : TERM USR1 USR2 HUP  # they reach the process below, too; the shell stays, and looks after it when it is killed
{python} -u {batch} '/scratch/my run/jobs/pretrain' &
while wait $!; code=$?; kill -0 $! 2> /dev/null; do :; done
[ $code -eq 0 ] || exec {python} -u {batch} '/scratch/my run/jobs/pretrain' $code
"""
NASTY = ['it\'s a "run"', "cost $HOME `id` $(id)", "50%j off; #b & c", " new*[a]? ünï "]


def _spec(num_nodes: int = 4, ranks_per_node: int = 8, uses_gpus: bool = True) -> JobSpec:
    return JobSpec("pretrain", "a.function", {}, num_nodes, ranks_per_node, uses_gpus)


def _flags(script: str) -> dict[str, str]:
    """The #SBATCH lines, quotes taken off."""
    lines = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]
    return dict(line.removeprefix("--").partition("=")[::2] for line in lines)


def test_a_profile_with_everything() -> None:
    script = sbatch_script(_spec(), FOLDER, EVERYTHING, "afterok:17")
    filled = {"python": shlex.quote(sys.executable), "batch": str(ROOT / "slurm/batch.py"), "load_module": LOAD_MODULE}
    expected = SCRIPT
    for name, text in filled.items():
        expected = expected.replace(f"{{{name}}}", text)
    assert script == expected


def test_a_profile_with_nothing() -> None:
    assert _flags(sbatch_script(_spec(num_nodes=1, ranks_per_node=2), FOLDER, Cluster("slurm"))) == {
        "cpus-per-task": "10",
        "gpus-per-node": "2",
        "job-name": "my run-pretrain",
        "kill-on-invalid-dep": "yes",
        "nodes": "1",
        "ntasks-per-node": "2",
        "open-mode": "append",
        "output": f"{FOLDER}/batch_%j.log",
        "requeue": "",
        "signal": "USR2@120",
        "time": "2880",
    }


@pytest.mark.parametrize(
    ("style", "gpu_type", "uses_gpus", "expected"),
    [
        ("gpus-per-node", "", True, {"gpus-per-node": "8"}),
        ("gres", "", True, {"gres": "gpu:8"}),
        ("gres", "a100", True, {"gres": "gpu:a100:8"}),
        ("none", "a100", True, {}),
        ("gpus-per-node", "a100", False, {}),
        ("gres", "a100", False, {}),
    ],
)
def test_ways_to_ask_for_gpus(
    style: Literal["gpus-per-node", "gres", "none"], gpu_type: str, uses_gpus: bool, expected: dict[str, str]
) -> None:
    cluster = Cluster("mine", gres_style=style, gpu_type=gpu_type)
    flags = _flags(sbatch_script(_spec(uses_gpus=uses_gpus), FOLDER, cluster))
    assert {name: flags[name] for name in flags if "gpu" in name or "gres" in name} == expected


def test_spare_nodes_are_asked_for() -> None:
    script = sbatch_script(replace(_spec(2), spare_nodes=1), Path("/runs/one/jobs/pretrain"), Cluster("mine"))
    assert "#SBATCH --nodes=3" in script.splitlines()


def test_flags_that_the_site_refuses_are_left_out_and_no_others() -> None:
    whole = _flags(sbatch_script(_spec(), FOLDER, EVERYTHING))
    omitted = ("mem", "requeue", "kill-on-invalid-dep", "wckey", "no", "time")
    left = _flags(sbatch_script(_spec(), FOLDER, replace(EVERYTHING, omit_flags=omitted)))
    assert whole.keys() - left.keys() == {"mem", "requeue", "kill-on-invalid-dep", "time"}
    assert left.items() <= whole.items()


def test_the_profile_s_limits_reach_the_job() -> None:
    cluster = Cluster("mine", cpus_per_gpu=7, max_failures=5, hang_timeout_min=2, rendezvous_timeout_s=9)
    spec = for_cluster(_spec(), cluster)
    assert (spec.cpus_per_rank, spec.max_failures, spec.hang_timeout_s, spec.rendezvous_timeout_s) == (7, 5, 120, 9)
    assert for_cluster(_spec(), Cluster("here", scheduler="local")).cpus_per_rank == 0


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1))
def test_any_printable_folder_comes_out_as_one_argument(name: str) -> None:
    folder = Path("/scratch") / name / "jobs" / "pretrain"
    script = sbatch_script(_spec(), folder, EVERYTHING)
    assert shlex.split(script.splitlines()[-1])[-2] == str(folder)
    assert _flags(script)["output"].replace("%%", "%") == f"{folder}/batch_%j.log"


@pytest.mark.parametrize("name", ["back\\slash", "new\nline", "bell\a"])
def test_folders_that_slurm_cannot_write_to_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"folder is .*, allowed: a path without .* and control characters; choose"):
        sbatch_script(_spec(), Path("/scratch") / name / "jobs" / "pretrain", EVERYTHING)


@pytest.mark.parametrize("name", NASTY)
def test_the_script_run_by_bash_starts_the_ranks_with_the_folder_as_one_argument(
    slurm: FakeSlurm, tmp_path: Path, name: str
) -> None:
    """bash runs what sbatch was given; the batch step really starts, and srun notes what it is to start."""
    folder = tmp_path / name / "jobs" / "pretrain"
    slurm.says("sbatch", "17\n")
    slurm.says("scontrol", "JobState=RUNNING Restarts=0 ")
    slurm.says("squeue")
    slurm.says("srun")
    cluster = Cluster("mine", environment={"WORD": name}, cpus_per_gpu=3, max_failures=1)
    assert submit(_spec(num_nodes=2, ranks_per_node=2), folder, cluster) == "17"
    script = slurm.calls("sbatch")[0].command[-1]
    variables = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "PYTHONPATH": str(ROOT)}
    subprocess.run(["/bin/bash", script], env=os.environ | variables, capture_output=True, check=True)
    (srun,) = slurm.calls("srun")
    start_folder = folder / "start_17_0_0"
    assert srun.command[1:] == [
        "--nodes=2",
        "--nodelist=n1,n2",
        "--ntasks=4",
        "--ntasks-per-node=2",
        "--cpus-per-task=3",
        "--distribution=block",
        "--export=ALL",
        "--kill-on-bad-exit=1",
        f"--output={str(folder).replace('%', '%%')}/rank_%t.log",
        "--open-mode=append",
        sys.executable,
        "-u",
        str(ROOT / "slurm/task.py"),
        str(folder),
        str(start_folder),
    ]
    assert srun.environment["WORD"] == name
    assert json.loads(srun.environment["VICREG_HOSTS"]) == ["n1", "n2"]
    assert [attempt.nodes for attempt in attempts.read(folder)] == [("n1", "n2")]


@pytest.mark.parametrize(("known", "code"), [("arch/a100 cuda/12.4", 0), ("arch/a100", 1)])
def test_a_module_that_cannot_be_loaded_ends_the_job_with_a_sentence(tmp_path: Path, known: str, code: int) -> None:
    cluster = replace(EVERYTHING, setup=("echo set up; exit 0",))
    module = f'module() {{ case " {known} " in *" $2 "*) ;; *) return 1;; esac; }}\n'
    script = module + sbatch_script(_spec(), tmp_path, cluster)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    if code:
        assert done.stdout.startswith("error: module load cuda/12.4 failed on ")
        assert done.stdout.endswith(": see module avail there, and modules in clusters.toml\n")
    else:
        assert done.stdout == "set up\n"


def test_flags_of_srun_come_with_every_start() -> None:
    spec = for_cluster(_spec(), EVERYTHING)
    assert "--mpi=pmix" in srun.command(spec, FOLDER, FOLDER / "start", ["a", "b", "c", "d"])


@pytest.mark.parametrize("flag", ["--nodes=3", "--time=1", "-x", "comment", "--a=b\nc", "--export=NONE"])
def test_flags_that_the_suite_gives_itself_are_refused(flag: str) -> None:
    for key in ("extra_sbatch_flags", "extra_srun_flags"):
        with pytest.raises(ValueError, match=f"an entry of {key} is "):
            Cluster("slurm", **{key: (flag,)})
