"""The shaped link, and what is measured over it."""

import contextlib
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fed_rebel.cli import app
from fed_rebel.cost import network_load
from fed_rebel.exits import Thresholds
from fed_rebel.offload import credentials, measure
from fed_rebel.offload.device import Device
from fed_rebel.offload.link import Namespace, Proxy, best_link
from fed_rebel.offload.parts import device_part, own_test_images, server_part
from fed_rebel.offload.server import Server


@pytest.fixture
def proxy():
    link = Proxy()
    yield link
    link.close()


@pytest.fixture
def echo():
    """A port that sends back a byte for each message of 10,000, once it has it whole."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            while connection.recv(10_000, socket.MSG_WAITALL):
                connection.sendall(b".")

    threading.Thread(target=answer, daemon=True).start()
    yield listening.getsockname()[1]
    listening.close()


def round_trip(address, messages=1):
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        began = time.monotonic()
        for _ in range(messages):
            connection.sendall(bytes(10_000))
            assert connection.recv(1) == b"."
        return time.monotonic() - began


@pytest.mark.parametrize(("bandwidth", "delay"), [(0.4e6, 0.0), (4e6, 0.1), (None, 0.1), (1e6, 0.01)])
def test_a_message_takes_its_bits_over_the_bandwidth_and_the_way_there_and_back(proxy, echo, bandwidth, delay):
    proxy.shape(bandwidth, delay)
    expected = (80_008 / bandwidth if bandwidth else 0.0) + 2 * delay
    took = round_trip(proxy.open(echo))
    assert expected - 0.002 <= took < 1.2 * expected + 0.2


def test_every_byte_is_counted_each_way(proxy, echo):
    round_trip(proxy.open(echo), messages=3)
    assert proxy.counted() == (30_000, 3)


def test_connections_share_the_link(proxy, echo):
    proxy.shape(0.8e6, 0.0)
    address, took = proxy.open(echo), []
    both = [threading.Thread(target=lambda: took.append(round_trip(address))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert max(took) > 0.19  # each alone: 0.1 s


def test_a_port_where_nobody_listens_breaks_the_connection_and_not_the_proxy(proxy, echo):
    address = proxy.open(1)
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", int(address[10:]))) as connection:
        assert connection.recv(1) == b""
    assert round_trip(proxy.open(echo)) > 0


def test_the_best_link_is_one_that_this_machine_has():
    link = best_link()
    link.close()
    assert isinstance(link, Namespace | Proxy)


def test_a_device_connects_over_a_long_way(proxy, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    server = Server(server_part(finished.run.path), credentials.of_server())
    proxy.shape(None, 0.15)
    part = replace(device_part(finished.run.path, 0), thresholds=Thresholds(np.inf))
    with Device(part, f"localhost:{proxy.open(server.port)[10:]}", credentials.of_device()) as device:
        (batch,) = device.label(own_test_images(finished.run.path, 0)[1].images[:4])
    server.stop()
    assert batch.offline is None


@pytest.mark.slow
def test_measured_delay_and_load(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "BANDWIDTHS", (10,))
    monkeypatch.setattr(measure, "DEVICES", 4)
    ended = CliRunner().invoke(
        app, ["offload", "measure", str(finished.run.path), "--batches", "1", "--out", str(tmp_path)]
    )
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith(("link: a shaping proxy", "link: network namespaces with netem"))
    delays, load = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("delays", "load"))
    assert delays["coverage"].tolist() == [0, 0, 0, 0.23, 0.49, 1]
    sent = delays[delays["coverage"] < 1]
    assert (sent["network"] > sent["network modelled"]).all()
    assert (delays[delays["coverage"] == 1]["network"] == 0).all()
    sizes = {"whole images": 3072, "HND": 867, "ReBEL": 867}
    for row in load.to_dict("records"):
        modelled = network_load(4, 25, sizes[row["approach"]], row["coverage"]) / 1e6
        assert row["payload"] == pytest.approx(modelled, rel=0.03)  # whole frames
        assert row["payload"] < row["with header"] < row["on the wire"]
    assert {file.name for file in tmp_path.iterdir()} == {"delays.csv", "load.csv", "delays.png", "delays.pdf"}
