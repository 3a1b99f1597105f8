"""This machine's name and addresses, and which of another's names and addresses it can reach.

It stands apart because it knows no ranks: what a name leads to is the business of each machine's own files, and on
Debian a machine's own name leads to 127.0.1.1, where nobody else finds it.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from pathlib import Path
from typing import TypedDict

from border.documents import read_json

LOOPBACK = "127.0.0.1"
CONNECT_S = 3.0
DISCARD_PORT = 9
SIOCGIFADDR = 0x8915  # linux/sockios.h: an interface's address
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """This machine: its name alone may be that of others, too."""
    return f"{socket.gethostname()} {BOOT_ID.read_text().strip() if BOOT_ID.exists() else ''}"


class Address(TypedDict):
    """Where rank 0 waits: its machine's names and addresses, and the port."""

    hosts: list[str]
    port: int


def read_address(rendezvous: Path) -> tuple[list[str], int]:
    """What rank 0 has written of itself; ValueError when that is no address."""
    cure = "start the job anew"
    address = read_json(rendezvous, Address, cure)
    if not address["hosts"] or not 0 < address["port"] < 1 << 16:
        raise ValueError(f"{rendezvous} is damaged (it names no host and port: {address}); {cure}")
    return address["hosts"], address["port"]


def reach(hosts: list[str], port: int, deadline: float) -> tuple[str, str]:
    """The first of a machine's names and addresses that answers, and this machine's address on the way to it.

    ConnectionError, with all that was tried, when none does until `deadline` (of time.monotonic).
    """
    failures: dict[str, str] = {}
    while True:
        for host in hosts:
            try:
                with socket.create_connection((host, port), timeout=CONNECT_S) as link:
                    return host, str(link.getsockname()[0])
            except (OSError, UnicodeError) as error:  # a name with an empty part cannot be asked for
                failures[host] = str(error)
        if time.monotonic() > deadline:
            raise ConnectionError(", ".join(f"{host} ({failure})" for host, failure in failures.items()))
        time.sleep(0.2)


def address_towards(address: str) -> str:
    """This machine's address on the way to another one's; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect((address, DISCARD_PORT))
        return str(link.getsockname()[0])


def addresses(with_loopback: bool = False) -> dict[str, str]:
    """This machine's IPv4 addresses, with the names of their network interfaces."""
    found: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(link.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has none
            address = socket.inet_ntoa(answer[20:24])
            if with_loopback or not address.startswith("127."):
                found[address] = name
    return found
