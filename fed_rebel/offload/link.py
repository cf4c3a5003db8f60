"""A shaped link between two processes of one machine: so many bits a second and so long a way, each way.

Network namespaces with netem shape real packets, TCP's slow start included; they want root and a kernel that has netem.
The proxy needs neither: it passes on what it reads when a link of that shape would have. TCP then runs over loopback on
both of its sides, so slow start and headers below TLS are not seen.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Protocol

CHUNK = 1460
"""Bytes that the proxy passes on together: a packet's."""
AHEAD = 0.05
"""Seconds of traffic that the proxy holds at most before it makes the sender wait."""


class ShapedLink(Protocol):
    """Between a device here and a server that is started with `prefix` and listens on `host`."""

    name: str
    prefix: tuple[str, ...]
    host: str

    def open(self, port: int) -> str:
        """The address by which a device here reaches the server's port over the link."""

    def shape(self, bandwidth: float | None, delay: float) -> None:
        """From now on: bits a second each way, None for no limit, and seconds of propagation each way."""

    def counted(self) -> tuple[int, int]:
        """Bytes that went up, to the server, and down, so far."""

    def close(self) -> None:
        """Take the link down."""


def best_link() -> ShapedLink:
    """Network namespaces where this machine allows them, else the proxy."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return Namespace()
    return Proxy()


class Proxy:
    """A TCP proxy on a thread of its own; all its connections share the link."""

    name = "a shaping proxy (bytes as TLS sends them, without TCP and IP headers)"
    prefix: tuple[str, ...] = ()
    host = "127.0.0.1"

    def __init__(self) -> None:
        self._bandwidth: float | None = None
        self._delay = 0.0
        self._free, self._counted = [0.0, 0.0], [0, 0]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()

    def open(self, port: int) -> str:
        """A port here that leads to that port of this machine."""

        async def listen() -> asyncio.Server:
            return await asyncio.start_server(lambda *ends: self._connect(port, *ends), self.host, 0)

        listening = asyncio.run_coroutine_threadsafe(listen(), self._loop).result()
        return f"{self.host}:{listening.sockets[0].getsockname()[1]}"

    def shape(self, bandwidth: float | None, delay: float) -> None:
        """Also of connections that are open; what is on the way arrives as it would have."""
        self._bandwidth, self._delay = bandwidth, delay

    def counted(self) -> tuple[int, int]:
        """Bytes read from devices, and from servers."""
        return self._counted[0], self._counted[1]

    def close(self) -> None:
        """Drop every connection."""

        async def stop() -> None:
            running = asyncio.all_tasks() - {asyncio.current_task()}
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _connect(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(self.host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(0, reader, server_writer), self._pass(1, server_reader, writer))

    async def _pass(self, way: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one way of a connection, until it ends."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(on_the_way, writer))
        content, broken = b".", contextlib.suppress(ConnectionError)
        while content:
            content = b""
            with broken:
                content = await reader.read(CHUNK)
            now = self._loop.time()
            self._counted[way] += len(content)
            seconds = 8 * len(content) / self._bandwidth if self._bandwidth else 0.0
            self._free[way] = max(now, self._free[way]) + seconds
            on_the_way.put_nowait((self._free[way] + self._delay, content))
            if self._free[way] - now > AHEAD:
                await asyncio.sleep(self._free[way] - now - AHEAD / 2)
        await arriving

    async def _arrive(self, on_the_way: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                at, content = await on_the_way.get()
                if (left := at - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                if not content:
                    break
                writer.write(content)
                await writer.drain()
        writer.close()


class Namespace:
    """A network namespace for the server, and a pair of virtual Ethernet devices, both shaped by netem."""

    name = "network namespaces with netem (bytes of Ethernet frames)"
    host = "10.203.86.2"
    _here = "10.203.86.1"

    def __init__(self) -> None:
        """Raises `OSError` or `CalledProcessError` where this machine does not allow it."""
        if shutil.which("ip") is None or shutil.which("tc") is None:
            raise OSError("no ip or tc command")
        self._namespace, self._device = f"fed-rebel-{os.getpid()}", f"rebel{os.getpid()}"
        self.prefix: tuple[str, ...] = ("ip", "netns", "exec", self._namespace)
        try:
            _run("ip", "netns", "add", self._namespace)
            _run("ip", "link", "add", self._device, "type", "veth", "peer", "name", "server0", "netns", self._namespace)
            _run("ip", "address", "add", f"{self._here}/30", "dev", self._device)
            _run("ip", "link", "set", self._device, "up")
            _run(*self.prefix, "ip", "address", "add", f"{self.host}/30", "dev", "server0")
            _run(*self.prefix, "ip", "link", "set", "server0", "up")
            self.shape(None, 0.0)
        except (OSError, subprocess.CalledProcessError):
            self.close()
            raise

    def open(self, port: int) -> str:
        """The port, in the namespace."""
        return f"{self.host}:{port}"

    def shape(self, bandwidth: float | None, delay: float) -> None:
        """Each way by the queue of the device that sends."""
        rate = ("rate", f"{bandwidth:.0f}bit") if bandwidth else ()
        queue = ("root", "netem", "limit", "10000", "delay", f"{delay * 1e6:.0f}us", *rate)
        _run("tc", "qdisc", "replace", "dev", self._device, *queue)
        _run(*self.prefix, "tc", "qdisc", "replace", "dev", "server0", *queue)

    def counted(self) -> tuple[int, int]:
        """Bytes that the device on this side sent, and got."""
        statistics = Path("/sys/class/net") / self._device / "statistics"
        sent, got = (int((statistics / f"{way}_bytes").read_text()) for way in ("tx", "rx"))
        return sent, got

    def close(self) -> None:
        """Remove the namespace, and the devices with it."""
        subprocess.run(["ip", "link", "delete", self._device], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", self._namespace], capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
