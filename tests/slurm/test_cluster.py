"""Profiles of clusters: found where they should be, read as written, and every mistake in them named."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm import cluster
from slurm.cluster import Cluster, load, override

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and home, and no other profiles than those a test writes."""
    home = tmp_path / "home"
    (tmp_path / "here").mkdir()
    (home / ".config" / "vicreg").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(cluster.FILE_VARIABLE, raising=False)
    monkeypatch.delenv(cluster.NAME_VARIABLE, raising=False)
    monkeypatch.setattr(cluster, "FILE_BESIDE_PACKAGE", tmp_path / "beside" / "clusters.toml")
    return tmp_path


def _write(text: str) -> Path:
    path = Path("clusters.toml").absolute()
    path.write_text(text)
    return path


def _mistake(text: str, name: str = "slurm") -> str:
    """The message with which a file is refused; it begins with the file."""
    path = _write(text)
    with pytest.raises(ValueError, match=re.escape("clusters.toml: ")) as caught:
        load(name, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# --- time


UNITS_S = {"n": [60], "n:n:n": [3600, 60, 1], "n-n": [86400, 3600], "n-n:n": [86400, 3600, 60]}
UNITS_S["n-n:n:n"] = [86400, 3600, 60, 1]


def reference_time_min(text: str) -> int:
    """Minutes by looking the shape up and counting up to the seconds; 0 for no such shape, or no time."""
    numbers, shape = [], ""
    for letter in text:
        if letter in "0123456789":
            if not shape.endswith("n"):
                shape, numbers = shape + "n", [*numbers, ""]
            numbers[-1] += letter
        else:
            shape += letter
    if shape not in UNITS_S:
        return 0
    seconds = sum(int(number) * unit_s for number, unit_s in zip(numbers, UNITS_S[shape], strict=True))
    minutes = 0
    while minutes * 60 < seconds:
        minutes += 1
    return minutes


def _check_time(text: str) -> None:
    expected = reference_time_min(text)
    if expected == 0:
        with pytest.raises(ValueError, match=r"^time is .*, allowed: more than 0 as MM, HH:MM:SS"):
            Cluster("any", time=text, signal_lead_s=1)
    else:
        assert Cluster("any", time=text, signal_lead_s=1).time_min == expected


@given(shape=st.sampled_from(sorted(UNITS_S)), numbers=st.lists(st.integers(0, 99), min_size=4, max_size=4))
def test_every_form_of_time_counts_as_the_reference_does(shape: str, numbers: list[int]) -> None:
    remaining = iter(numbers)
    _check_time(re.sub("n", lambda _: str(next(remaining)), shape))


@given(text=st.text("0123:-", max_size=9).filter(lambda text: not re.search("[0-9]{4}", text)))
def test_other_texts_are_times_exactly_when_the_reference_says_so(text: str) -> None:
    _check_time(text)


@pytest.mark.parametrize("text", ["", "0", "00:00:00", "0-0", "48:00", "-5", "1:", "1h", "1 ", "1\n", "٣", "9" * 5000])
def test_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"^time is "):
        Cluster("any", time=text, signal_lead_s=1)


def test_known_times() -> None:
    known = {"90": 90, "48:00:00": 2880, "1:00:01": 61, "0:00:01": 1, "2-0": 2880, "1-2:30": 1590, "1-00:00:59": 1441}
    assert {text: Cluster("any", time=text, signal_lead_s=1).time_min for text in known} == known


# --- where profiles come from


def test_the_two_profiles_that_exist_without_a_file() -> None:
    assert load("slurm") == Cluster("slurm")
    assert load("local") == Cluster("local", scheduler="local")
    with pytest.raises(
        ValueError, match=r"cluster is 'devcluster', allowed: slurm, local, or add a table \[devcluster\]"
    ):
        load("devcluster")


def test_they_exist_beside_others_too() -> None:
    _write("[mine]\ngpus_per_node = 4\n")
    assert load("local").scheduler == "local"
    assert load("mine") == Cluster("mine", gpus_per_node=4)


def test_a_local_table_stays_local() -> None:
    _write("[local]\nmax_failures = 1\n")
    assert load("local") == Cluster("local", scheduler="local", max_failures=1)


def test_the_default_depends_on_sbatch(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    assert load("").name == "local"
    (elsewhere / "sbatch").write_text("#!/bin/sh\n")
    (elsewhere / "sbatch").chmod(0o755)
    assert load("").name == "slurm"


def test_the_first_file_counts(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = elsewhere / "named.toml"
    places = [
        elsewhere / "beside" / "clusters.toml",
        elsewhere / "home/.config/vicreg/clusters.toml",
        Path("clusters.toml"),
    ]
    for number, place in enumerate([*places, named], start=1):
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"[slurm]\ngpus_per_node = {number}\n")
        if place == named:
            monkeypatch.setenv(cluster.FILE_VARIABLE, str(named))
        assert load("slurm").gpus_per_node == number
    assert load("slurm", places[0]).gpus_per_node == 1


def test_a_named_file_must_exist(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.FILE_VARIABLE, str(elsewhere / "none.toml"))
    with pytest.raises(ValueError, match=r"none\.toml: no such file .* unset VICREG_CLUSTERS"):
        load("slurm")


# --- the file of the repository


def test_the_file_of_the_repository_shows_the_defaults() -> None:
    text = (ROOT / "clusters.toml").read_text()
    slurm_table = text[text.index("\n[slurm]\n") : text.index("\n[local]\n")]
    uncommented = re.sub(r"(?m)^# (?=[a-z_]+ = |\[)", "", slurm_table)
    shown = set(re.findall(r"(?m)^([a-z_]+) = ", uncommented)) | set(re.findall(r"(?m)^\[slurm\.(\w+)\]", uncommented))
    assert shown == {field.name for field in dataclasses.fields(Cluster)} - {"name"}
    _write(uncommented)
    assert load("slurm") == load("slurm", ROOT / "clusters.toml") == Cluster("slurm")
    assert load("local", ROOT / "clusters.toml") == Cluster("local", scheduler="local")


def test_the_devcluster() -> None:
    assert load("devcluster", ROOT / "clusters.toml") == Cluster(
        "devcluster",
        partition="normal",
        gpus_per_node=2,
        cpus_per_gpu=1,
        mem_per_gpu_gb=1.5,
        time="1:00:00",
        signal_lead_s=30,
        hang_timeout_min=10,
        environment={"GLOO_SOCKET_IFNAME": "lo"},
        node_local_folder="/tmp/devcluster-node-local/$SLURMD_NODENAME",
    )


def test_the_example_of_a_site_can_be_uncommented(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "clusters.toml").read_text()
    _write(re.sub("(?m)^# ", "", text[text.index("# [mysite]") :]))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    site = load("mysite")
    assert site.omit_flags == ("wckey", "mem")
    assert site.environment["NCCL_SOCKET_IFNAME"] == "ib0"
    assert site.data["imagenet"] == "/scratch/me/betons/imagenet"
    assert site.node_local_folder == "$SLURM_TMPDIR"
    assert site.setup[1] == "source $WORK/venv/bin/activate"


# --- what is in a table


def test_tables_within_tables_are_written_either_way() -> None:
    _write('[slurm]\nenvironment = {A = "1"}\ndata = {digits = "/d"}\n')
    inline = load("slurm")
    _write('[slurm.data]\ndigits = "/d"\n[slurm.environment]\nA = "1"\n')
    assert load("slurm") == inline == Cluster("slurm", environment={"A": "1"}, data={"digits": "/d"})


def test_whole_numbers_are_numbers() -> None:
    _write("[slurm]\nmem_per_gpu_gb = 60\n")
    assert isinstance(load("slurm").mem_per_gpu_gb, float)


def test_folders_are_expanded_here_but_not_the_node_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    _write('[slurm]\nshared_folder = "${SCRATCH}/x"\nnode_local_folder = "$TMPDIR_X/y"\ndata = {a = "~/betons"}\n')
    profile = load("slurm")
    assert profile.shared_folder == "/scratch/me/x"
    assert profile.node_local_folder == "$TMPDIR_X/y"
    assert profile.data["a"].endswith("/home/betons")
    monkeypatch.setenv("SCRATCH", "")
    with pytest.raises(ValueError, match=r"\[slurm\]: shared_folder is '\$\{SCRATCH\}/x', .* \$SCRATCH is not"):
        load("slurm")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'partion = "a"',
            r"'partion' is no known key \(did you mean partition\?\), allowed: scheduler, partition, acc",
        ),
        ('name = "a"', r"'name' is no known key.*, allowed: scheduler, "),
        ('[slurm.enviroment]\nA = "1"', r"'enviroment' is no known key \(did you mean environment\?\)"),
        ('scheduler = "pbs"', "scheduler is 'pbs', allowed: slurm or local"),
        ('gres_style = "gpu"', "gres_style is 'gpu', allowed: gpus-per-node or gres or none"),
        ("partition = 3", "partition is 3, allowed: text in quotes"),
        ("time = 01:00:00", r"time is datetime\.time\(1, 0\), allowed: text in quotes"),
        ('gpus_per_node = "8"', "gpus_per_node is '8', allowed: a whole number, without quotes"),
        ("gpus_per_node = true", "gpus_per_node is True, allowed: a whole number"),
        ("gpus_per_node = 1.5", "gpus_per_node is 1.5, allowed: a whole number"),
        ("mem_per_gpu_gb = true", "mem_per_gpu_gb is True, allowed: a number"),
        ('mem_per_gpu_gb = "1"', "mem_per_gpu_gb is '1', allowed: a number, without quotes"),
        ("mem_per_gpu_gb = -1", "mem_per_gpu_gb is -1.0, allowed: 0 .* or more"),
        ("mem_per_gpu_gb = nan", "mem_per_gpu_gb is nan, allowed: 0 .* or more"),
        ("interconnect_gb_s = -1", "interconnect_gb_s is -1.0, allowed: 0 .* or more"),
        ("node_memory_gb = inf", "node_memory_gb is inf, allowed: 0 .* or more"),
        ("gpus_per_node = 0", "gpus_per_node is 0, allowed: 1 or more"),
        ("cpus_per_gpu = 0", "cpus_per_gpu is 0, allowed: 1 or more"),
        ("max_failures = 0", "max_failures is 0, allowed: 1 or more"),
        ("hang_timeout_min = 0", "hang_timeout_min is 0.0, allowed: above 0"),
        ("rendezvous_timeout_s = inf", "rendezvous_timeout_s is inf, allowed: above 0 and finite"),
        ('time = "0"', "time is '0', allowed: more than 0 as MM, "),
        ('time = "2:00"', "time is '2:00', allowed: .* would be minutes and seconds to SLURM: write all three"),
        ("signal_lead_s = 0", "signal_lead_s is 0, allowed: 1 to 65535 seconds"),
        ('time = "2"', "signal_lead_s is 120, allowed: 1 to 119 seconds, less than the time '2'; shorten it or ask"),
        ('setup = "module purge"', "setup is 'module purge', allowed: a list of texts"),
        ("modules = [1]", "an entry of modules is 1, allowed: text in quotes"),
        ('modules = [""]', "an entry of modules is '', allowed: names"),
        ('omit_flags = ["--mem"]', "an entry of omit_flags is '--mem', allowed: names, .* without a dash in front"),
        ('environment = "A=1"', "environment is 'A=1', allowed: a table of texts"),
        ("environment = {NCCL_DEBUG = 1}", "environment.NCCL_DEBUG is 1, allowed: text in quotes"),
        ('environment = {"A B" = "1"}', "a name in environment is 'A B', allowed: letters, digits and _"),
        ('environment = {1A = "1"}', "a name in environment is '1A', allowed: letters"),
        ('environment = {A = "\\u0000"}', "environment.A is '.x00', allowed: text without NUL"),
        ('data = ["a"]', r"data is \['a'\], allowed: a table of texts"),
    ],
)
def test_mistakes_are_named_with_table_key_and_value(line: str, message: str) -> None:
    assert re.match(r"\[slurm\]: " + message, _mistake(f"[slurm]\n{line}\n"))


@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint", "exclude", "reservation", "gpu_type"])
@pytest.mark.parametrize("text", ["-x", "--wrap=id", "a b", "a\tb", "a\nb", "a\x1bb", "a\u00a0b", "a\u200bb"])
def test_flags_hold_nothing_but_themselves(key: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is .*, allowed: printable text without spaces"):
        override(Cluster("slurm"), **{key: text})


def test_what_constraints_are_written_with() -> None:
    for text in ("[rack1|rack2]", "a100*4&(ib|opa)", "node[1-3,7],other-2"):
        assert override(Cluster("slurm"), constraint=text, exclude=text).constraint == text


def test_mistakes_outside_a_table() -> None:
    assert _mistake('partition = "a"\n[slurm]\n').startswith("partition is 'a', allowed: a table per cluster")
    message = _mistake("[slurm]\npartition = gpu\n")
    assert message.startswith("not valid TOML: ")
    assert "line 2" in message
    Path("clusters.toml").write_bytes(b"[slurm]\n# \xff\n")
    with pytest.raises(ValueError, match=r"clusters\.toml: not UTF-8 text"):
        load("slurm")


def test_an_unknown_cluster_is_named_with_those_there_are() -> None:
    message = _mistake("[jean-zay]\n", "jeanzay")
    assert message.startswith(
        "cluster is 'jeanzay', allowed: slurm, local, jean-zay (did you mean jean-zay?), or add a table"
    )


# --- from the command line


def test_override_replaces_what_is_given() -> None:
    old = Cluster("mine", partition="a", account="b", mem_per_gpu_gb=3)
    new = override(old, partition="c", account=None, time="2-0", mem_per_gpu_gb=0, qos="")
    assert new == Cluster("mine", partition="c", account="b", time="2-0")
    assert old.partition == "a"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partitions": "a"}, r"'partitions' is no known key \(did you mean partition\?\)"),
        ({"name": "other"}, "'name' is no known key"),
        ({"time": "1"}, "signal_lead_s is 120, allowed: 1 to 59 seconds"),
        ({"cpus_per_gpu": 2.5}, "cpus_per_gpu is 2.5, allowed: a whole number"),
        ({"gpus_per_node": True}, "gpus_per_node is True, allowed: a whole number"),
    ],
)
def test_override_checks_as_the_file_is_checked(values: dict[str, str | int | float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^cluster mine, changed on the command line: {message}"):
        override(Cluster("mine"), **values)


def test_it_imports_nothing_heavy() -> None:
    code = "import slurm.cluster, slurm.stage_data, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "submitit", "vicreg", "jobs", "dataprep"} & set(done.stdout.split())


def _loaded(text: str) -> Cluster:
    _write(text)
    return load("slurm")


def test_sbatch_s_variables_fill_in_what_a_profile_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARTITION", "ACCOUNT", "QOS", "CONSTRAINT", "RESERVATION", "TIMELIMIT"):
        monkeypatch.setenv(f"SBATCH_{name}", name.lower())
    found = _loaded("[slurm]\naccount = 'mine'\n")
    assert (found.partition, found.account, found.qos) == ("partition", "mine", "qos")
    assert (found.constraint, found.reservation, found.time) == ("constraint", "reservation", "48:00:00")
    assert cluster.unused_variables(found) == ["SBATCH_ACCOUNT=account", "SBATCH_TIMELIMIT=timelimit"]
    assert load("local").partition == ""
    monkeypatch.setenv("SBATCH_QOS", "a b")
    with pytest.raises(ValueError, match="in the environment, SBATCH_ in front and in capitals: qos is 'a b', allowed"):
        _loaded("[slurm]\n")
