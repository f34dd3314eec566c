"""This machine among several: where it meets them, and where it keeps its run."""

import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from lora_ns.errors import UsageError
from lora_ns.launch.torchrun import argv, environment
from lora_ns.parallel.nodes import Node, check_meeting, check_port, own_folder, resume_command, this_node
from lora_ns.recipe.distributed import Ddp, OneProcess

HOST = Node(2, "10.0.0.1", 29500, "10.0.0.1", "eth1", is_host=True, timeout=60)
GUEST = Node(2, "10.0.0.1", 29500, "10.0.0.2", None, is_host=False, timeout=60)


def asked(endpoint, **more):
    return Ddp(strategy="ddp", num_processes=1, num_nodes=2, rdzv_endpoint=endpoint, **more)


@pytest.mark.parametrize("alone", [OneProcess(), Ddp(strategy="ddp")])
def test_one_machine_meets_nobody(alone):
    assert this_node(alone) is None
    assert own_folder(Path("run"), alone) == Path("run")


def test_the_machine_with_the_address_is_the_host():
    pytest.importorskip("psutil")
    node = this_node(asked("127.0.0.1:29500", timeout=7))
    assert node == Node(2, "127.0.0.1", 29500, "127.0.0.1", "lo", is_host=True, timeout=7)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "a" * 99])
def test_a_place_that_cannot_be_reached_is_told(host):
    with pytest.raises(UsageError, match=rf"rdzv_endpoint: {host} cannot be reached from here"):
        this_node(asked(f"{host}:29500"))


@pytest.mark.parametrize(
    "place", ["", "a", "a:", ":1", "a:0", "a:65536", "a:1e3", f"a:{10**30}", "-a:1", "a b:1", "ä:1"]
)
def test_what_is_no_place_is_no_place(place):
    with pytest.raises(ValidationError):
        asked(place)


@pytest.mark.parametrize("place", ["a:1", "10.0.0.1:29500", "[::1]:65535", "node-1.cluster_a:29500"])
def test_a_place_is_a_machine_and_a_port(place):
    assert asked(place).rdzv_endpoint == place


def test_a_run_meets_others_where_the_user_says():
    several, alone = asked("10.0.0.1:29500"), Ddp(strategy="ddp")
    check_meeting(Path("run"), several, "10.0.0.1:29500")
    check_meeting(Path("run"), alone, None)
    for named in (None, "10.0.0.2:29500"):
        with pytest.raises(UsageError, match=r"`lorans train run --rdzv-endpoint 10.0.0.1:29500 --resume`"):
            check_meeting(Path("run"), several, named)
    with pytest.raises(UsageError, match="is trained on one machine"):
        check_meeting(Path("run"), alone, "10.0.0.1:29500")
    assert resume_command(Path("run"), alone) == "`lorans train run --resume`"


def test_each_machine_has_a_folder_of_its_own():
    assert HOST.folder(Path("a/run")) == Path("a/run")
    assert GUEST.folder(Path("a/run")) == Path("a/run.at-10.0.0.2")


def test_a_port_that_is_taken_is_told_where_it_is():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use on this machine"):
            check_port(Node(2, "127.0.0.1", port, "127.0.0.1", None, is_host=True))
        check_port(Node(2, "127.0.0.1", port, "127.0.0.2", None, is_host=False))
    check_port(Node(2, "127.0.0.1", port, "127.0.0.1", None, is_host=True))


@pytest.mark.parametrize(("node", "is_host"), [(HOST, 1), (GUEST, 0)])
def test_torchruns_agents_know_who_they_are(node, is_host):
    command = argv(Path("run"), 3, restarts=2, node=node)
    written = " ".join(command)
    assert "--nnodes 2 --rdzv_backend c10d --rdzv_endpoint 10.0.0.1:29500" in written
    assert f"--rdzv_conf is_host={is_host},join_timeout=60" in written
    assert f"--local_addr {node.address} --nproc_per_node 3 --max_restarts 2" in written
    assert "--standalone" not in command


def test_the_network_is_that_of_the_address_unless_the_user_names_one():
    assert environment({}, 1, 2, HOST)["GLOO_SOCKET_IFNAME"] == "eth1"
    assert environment({"GLOO_SOCKET_IFNAME": "ib0"}, 1, 2, HOST)["GLOO_SOCKET_IFNAME"] == "ib0"
    assert "GLOO_SOCKET_IFNAME" not in environment({}, 1, 2, GUEST)
