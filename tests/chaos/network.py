"""Machines of one cluster as network namespaces on a bridge; links are cut, slowed and made to lose.

The bridge is in a namespace of its own, so no rule of the host touches what passes over it; the host
is on it too, as the clients' machine. Needs root.
"""

import itertools
import os
import subprocess
from collections.abc import Sequence
from typing import Self

FIRST_HOST = 11
_numbers = itertools.count(1)


class Network:
    """Use as a context. Addresses are of 198.18.0.0/15, which is there for tests (RFC 2544)."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._run = f"oc{os.getpid()}x{next(_numbers)}"
        self._hub = f"{self._run}-hub"
        self._subnet = ""

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def address(self, name: str) -> str:
        return f"{self._subnet}.{FIRST_HOST + self.names.index(name)}"

    @property
    def host(self) -> str:
        """The clients' machine."""
        return f"{self._subnet}.1"

    def prefix(self, name: str) -> tuple[str, ...]:
        """What a command runs under to be on that machine."""
        return ("nsenter", f"--net=/run/netns/{self.namespace(name)}")

    # Faults. `deaf` hears nothing of `mute`; both ways is a cut.

    def deafen(self, deaf: str, mute: str) -> None:
        self._rule(deaf, "-s", self.address(mute), "-j", "DROP")

    def cut(self, one: str, other: str) -> None:
        self.deafen(one, other)
        self.deafen(other, one)

    def isolate(self, name: str) -> None:
        """From the other machines; clients still reach it."""
        for other in self.names:
            if other != name:
                self.cut(name, other)

    def lose(self, name: str, share: float) -> None:
        """This share of the packets that come in to it."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", f"{share:.3f}")
        self._rule(name, *chance, "-j", "DROP")

    def reset(self, name: str) -> None:
        """All its connections with other machines end at once, and new ones are refused."""
        for other in self.names:
            if other != name:
                answer = ("-j", "REJECT", "--reject-with", "tcp-reset")
                self._rule(name, "-p", "tcp", "-s", self.address(other), *answer)

    def slow(self, name: str, kilobits: int) -> None:
        """What leaves it: so many kilobits per second, and a long queue before that."""
        rate = ("rate", f"{kilobits}kbit", "burst", "4kb", "latency", "400ms")
        self._in(name, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *rate)

    def unplug(self, name: str) -> None:
        """Its cable is out: nobody reaches it, clients included."""
        _run("ip", "-n", self._hub, "link", "set", self._port(name), "down")

    def heal(self) -> None:
        for name in self.names:
            self._in(name, "iptables", "-w", "-F", "INPUT")
            self._in(name, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
            _run("ip", "-n", self._hub, "link", "set", self._port(name), "up")

    def _rule(self, name: str, *words: str) -> None:
        self._in(name, "iptables", "-w", "-A", "INPUT", *words)

    def _in(self, name: str, *command: str, check: bool = True) -> None:
        _run(*self.prefix(name), *command, check=check)

    # Building.

    def _make(self) -> None:
        _run("ip", "netns", "add", self._hub)
        _run("ip", "-n", self._hub, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self._hub, "link", "set", "br0", "up")
        self._subnet = _free_subnet()
        self._plug(self._run, "host")
        _run("ip", "address", "add", f"{self._subnet}.1/24", "dev", self._run)
        _run("ip", "link", "set", self._run, "up")
        for name in self.names:
            namespace = self.namespace(name)
            _run("ip", "netns", "add", namespace)
            self._plug("eth0", self._port(name), namespace)
            _run("ip", "-n", namespace, "link", "set", "lo", "up")
            _run(
                *("ip", "-n", namespace, "address", "add"),
                *(f"{self.address(name)}/24", "dev", "eth0"),
            )
            _run("ip", "-n", namespace, "link", "set", "eth0", "up")

    def _plug(self, end: str, port: str, namespace: str = "") -> None:
        """A cable from a machine to the bridge."""
        there = ("netns", namespace) if namespace else ()
        peer = ("type", "veth", "peer", "name", port, "netns", self._hub)
        _run("ip", "link", "add", end, *there, *peer)
        _run("ip", "-n", self._hub, "link", "set", port, "master", "br0", "up")

    def _remove(self) -> None:
        _run("ip", "link", "delete", self._run, check=False)  # else it lingers after its namespace
        for namespace in (*map(self.namespace, self.names), self._hub):
            _run("ip", "netns", "delete", namespace, check=False)

    def namespace(self, name: str) -> str:
        return f"{self._run}-{name}"

    def _port(self, name: str) -> str:
        return f"port-{self.names.index(name)}"


def _free_subnet() -> str:
    taken = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    start = os.getpid() % 250
    for number in itertools.count(start):
        subnet = f"198.18.{number % 250}"
        if subnet not in taken:
            return subnet
    raise AssertionError


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
