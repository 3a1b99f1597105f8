"""Ranks on two machines with networks, names and /etc/hosts of their own: they find each other, or say how they could.

The machines are namespaces of the kernel, joined by a cable of its own; that takes root and `unshare`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NEEDED = ("unshare", "nsenter", "ip", "mount")
NAMES, ADDRESSES = ("alpha", "beta"), ("10.99.7.1", "10.99.7.2")
RANK = """\
import sys, torch
from pathlib import Path
from vicreg.ranks import distributed, rendezvous
from vicreg.ranks.distributed import Placement
rank, local_size, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
hosts = tuple(name for name in ("alpha", "beta") for _ in range(local_size))
placement = Placement(rank, world_size, rank % local_size, local_size, hosts=hosts)
try:
    with rendezvous.connected(placement, folder / "rendezvous.json", timeout_s=float(sys.argv[5])):
        print("sum", distributed.sum_over_ranks(torch.tensor([rank + 1])).item())
except rendezvous.RendezvousError as error:
    sys.exit(f"RendezvousError: {error}")
"""


@dataclass
class Machine:
    """A network, a name and an /etc/hosts of its own, held by a process that sleeps."""

    holder: subprocess.Popen[bytes]

    def command(self, *words: str) -> list[str]:
        """A command that runs there."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--uts", "--", *words]

    def call(self, *words: str) -> None:
        """Run it to its end."""
        subprocess.run(self.command(*words), check=True, capture_output=True)


def _machine(name: str, hosts: Path) -> Machine:
    command = ["unshare", "--net", "--mount", "--uts", "sleep", "600"]
    machine = Machine(subprocess.Popen(command))
    own = os.readlink("/proc/self/ns/net")
    while machine.holder.poll() is None and os.readlink(f"/proc/{machine.holder.pid}/ns/uts") == os.readlink(
        "/proc/self/ns/uts"
    ):
        time.sleep(0.01)
    assert os.readlink(f"/proc/{machine.holder.pid}/ns/net") != own
    machine.call("hostname", name)
    machine.call("mount", "--bind", str(hosts), "/etc/hosts")
    machine.call("ip", "link", "set", "lo", "up")
    return machine


def _can_make_machines() -> bool:
    try:
        return not subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], capture_output=True).returncode
    except OSError:
        return False


@pytest.fixture
def machines(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Machine]]:
    """Two machines; `request.param`: what /etc/hosts holds on each, {own} and {other} are names."""
    if not _can_make_machines():
        pytest.skip("no namespaces for machines: needs root and unshare")
    made: list[Machine] = []
    for number, name in enumerate(NAMES):
        hosts = tmp_path / f"hosts_{name}"
        text = "127.0.0.1 localhost\n" + str(request.param)
        hosts.write_text(text.format(own=name, other=NAMES[1 - number], address=ADDRESSES[1 - number]))
        made.append(_machine(name, hosts))
    cable = [f"t{os.getpid()}{end}" for end in "ab"]
    subprocess.run(["ip", "link", "add", cable[0], "type", "veth", "peer", "name", cable[1]], check=True)
    for machine, end, address in zip(made, cable, ADDRESSES, strict=True):
        subprocess.run(["ip", "link", "set", end, "netns", str(machine.holder.pid)], check=True)
        machine.call("ip", "address", "add", f"{address}/24", "dev", end)
        machine.call("ip", "link", "set", end, "up")
    yield made
    for machine in made:
        machine.holder.kill()
        machine.holder.wait()


def _meet(
    machines: list[Machine], folder: Path, per_machine: int, timeout_s: float, **variables: str
) -> tuple[list[tuple[int, str]], float]:
    """Start all ranks; exit code and words of each, and how long it took."""
    number = per_machine * len(machines)
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("GLOO_", "NCCL_"))}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    begin, ranks = time.monotonic(), []
    for rank in range(number):
        words = [sys.executable, "-c", RANK, str(rank), str(per_machine), str(number), str(folder), str(timeout_s)]
        command = machines[rank // per_machine].command(*words)
        pipe = subprocess.PIPE
        ranks.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    try:
        said = ["".join(rank.communicate(timeout=120)) for rank in ranks]
    finally:
        for rank_process in ranks:
            rank_process.kill()
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)], time.monotonic() - begin


DEBIAN = "127.0.1.1 {own}\n{address} {other}\n"
ONLY_ITSELF = "127.0.1.1 {own}\n"
ALL_LOOPBACK = "127.0.1.1 {own} {other}\n"
NOTHING = ""


@pytest.mark.parametrize(
    ("machines", "per_machine"),
    [
        (DEBIAN, 1),
        *(pytest.param(hosts, 2, marks=pytest.mark.slow) for hosts in (DEBIAN, ONLY_ITSELF, ALL_LOOPBACK, NOTHING)),
    ],
    indirect=["machines"],
)
def test_ranks_find_each_other_whatever_their_own_name_leads_to(
    machines: list[Machine], tmp_path: Path, per_machine: int
) -> None:
    said, _ = _meet(machines, tmp_path, per_machine, 30)
    number = 2 * per_machine
    assert [code for code, _ in said] == [0] * number, said
    assert all(f"sum {number * (number + 1) // 2}\n" in text for _, text in said)


@pytest.mark.slow
@pytest.mark.parametrize("machines", [DEBIAN], indirect=True)
def test_a_wrong_interface_ends_in_time_with_host_and_cure(machines: list[Machine], tmp_path: Path) -> None:
    said, seconds = _meet(machines, tmp_path, 1, 20, GLOO_SOCKET_IFNAME="lo")
    assert seconds < 45
    for (code, text), name in zip(said, NAMES, strict=True):
        assert code == 1
        assert re.search(rf"RendezvousError: rank \d on {name} .* GLOO_SOCKET_IFNAME", text), text
