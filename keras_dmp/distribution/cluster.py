"""The cluster of workers in `TF_CONFIG`, checked before TensorFlow waits for it."""

import contextlib
import dataclasses
import errno
import json
import os
import select
import socket
import time
from typing import Any, Self

from keras_dmp.distribution import peers

_JOBS = ("chief", "worker")
_PAUSE_SECONDS = 0.2
_HELLO_SECONDS = 2.0
_EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster of workers that train together.

    Attributes:
        addresses: Address `host:port` of each worker, the chief's first.
        index: Position of this process among them.
    """

    addresses: tuple[str, ...]
    index: int

    @classmethod
    def from_tf_config(cls, text: str | None = None) -> Self | None:
        """The cluster in `TF_CONFIG`, or None if it defines none.

        Args:
            text: String of JSON. Defaults to the environment variable `TF_CONFIG`.

        Raises:
            ValueError: If it is malformed, or its parts `cluster` and `task` contradict each other.
        """
        text = os.environ.get("TF_CONFIG", "") if text is None else text
        if not text.strip():
            return None
        try:
            config = json.loads(text)
        except json.JSONDecodeError as error:
            raise _malformed(f"to be JSON, such as {_EXAMPLE}", f"{text!r} ({error})") from error
        if not isinstance(config, dict):
            raise _malformed(f"to be a JSON object, such as {_EXAMPLE}", repr(text))
        if not config.get("cluster"):
            return None
        jobs = _checked_jobs(config["cluster"])
        job, task = _checked_task(config.get("task"), jobs)
        chiefs = jobs.get("chief", [])
        return cls(
            addresses=(*chiefs, *jobs.get("worker", [])),
            index=task if job == "chief" else len(chiefs) + task,
        )

    @property
    def peers(self) -> dict[int, str]:
        """Addresses of the other workers, by position."""
        return {i: address for i, address in enumerate(self.addresses) if i != self.index}

    def meet(self, seconds: float) -> dict[int, socket.socket]:
        """Wait until all workers have connected to the chief.

        TensorFlow itself waits for them too, for an hour, in one call that no thread can interrupt.

        Args:
            seconds: Number of seconds to wait.

        Returns:
            Connections by position: on the chief to all other workers, on the others to the chief.
            Each connection closes when the process at its other end terminates.

        Raises:
            ValueError: If another process listens on this worker's port.
            TimeoutError: If some workers have not connected in time.
        """
        deadline = time.monotonic() + seconds
        # TensorFlow opens the port later; opening it here shows whether it is free.
        with self._listening() as server:
            links = self._joined(deadline) if self.index else self._gathered(server, deadline)
        needed = {0: self.addresses[0]} if self.index else self.peers
        missing = {i: peer for i, peer in needed.items() if i not in links}
        if missing:
            for link in links.values():
                link.close()
            raise TimeoutError(
                f"Expected all {len(self.addresses)} workers to have started within {seconds:g} "
                f"seconds. Received: {self._silence(missing)}"
            )
        for link in () if self.index else links.values():
            # A worker that is lost in the meantime is noticed by the owner of the connections.
            with contextlib.suppress(OSError):
                peers.say_go(link, len(self.addresses))
        return links

    def _silence(self, missing: dict[int, str]) -> str:
        if self.index:
            return (
                f"no message from worker 0 (the chief) at {missing[0]} that all workers have "
                "started; if the chief is running, its error message names the missing workers"
            )
        listed = ", ".join(f"worker {i} at {peer}" for i, peer in missing.items())
        return f"no answer from {listed}"

    def _gathered(self, server: socket.socket, deadline: float) -> dict[int, socket.socket]:
        """Connections from the workers that reach the chief in time."""
        links: dict[int, socket.socket] = {}
        while len(links) < len(self.addresses) - 1 and time.monotonic() < deadline:
            wait = min(1.0, max(0.0, deadline - time.monotonic()))
            for ready in select.select([server, *links.values()], [], [], wait)[0]:
                if ready is not server:
                    # Workers send nothing before all have connected: this one has disconnected, and
                    # may connect again.
                    links = {i: link for i, link in links.items() if link is not ready}
                    ready.close()
                    continue
                connection, _ = server.accept()
                connection.settimeout(_HELLO_SECONDS)
                index = peers.greeted(connection, len(self.addresses))
                if index is None or index in links:
                    connection.close()
                else:
                    links[index] = connection
        return links

    def _joined(self, deadline: float) -> dict[int, socket.socket]:
        """The connection to the chief once all workers have connected; empty on a timeout."""
        while (wait := deadline - time.monotonic()) > 0:
            with contextlib.suppress(OSError):
                connection = socket.create_connection(
                    host_and_port(self.addresses[0]), timeout=min(wait, _HELLO_SECONDS)
                )
                with contextlib.suppress(OSError):
                    peers.greet(connection, self.index, len(self.addresses))
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                if peers.heard_go(connection):
                    return {0: connection}
                connection.close()
            time.sleep(min(_PAUSE_SECONDS, max(0.0, deadline - time.monotonic())))
        return {}

    def _listening(self) -> socket.socket:
        """A listening socket on this worker's port."""
        address = self.addresses[self.index]
        try:
            return socket.create_server(("", host_and_port(address)[1]))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ValueError(
                "Expected the port of this worker's address in the cluster to be free. Received: "
                f"{address!r} ({os.strerror(error.errno)}); an earlier run may still use the port, "
                "or another worker may have the same index"
            ) from error


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of an address `host:port`, without the brackets of an IPv6 address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _checked_jobs(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict):
        raise _malformed("to have a JSON object of jobs as `cluster`", f"cluster={cluster!r}")
    unknown = sorted(set(cluster) - {*_JOBS, "evaluator"})
    if unknown or not cluster.keys() & set(_JOBS):
        raise _malformed(
            'to have the jobs "worker" and, optionally, "chief" in `cluster`',
            f"cluster with jobs {sorted(cluster)}",
        )
    jobs = {}
    for job in (job for job in _JOBS if job in cluster):
        addresses = cluster[job]
        if not isinstance(addresses, list) or not addresses:
            raise _malformed(f"to have a list of addresses for `{job}`", f"{job}={addresses!r}")
        for address in addresses:
            require_address(address)
        jobs[job] = addresses
    if len(jobs.get("chief", [])) > 1:
        raise _malformed("to have at most one chief", f"chief={jobs['chief']!r}")
    every = [address for addresses in jobs.values() for address in addresses]
    twice = sorted({address for address in every if every.count(address) > 1})
    if twice:
        raise _malformed("to have a different address for each worker", f"{twice[0]!r} twice")
    return jobs


def require_address(address: Any, source: str = "`TF_CONFIG`") -> None:
    """Raise ValueError unless an address has the form `host:port`."""
    if isinstance(address, str):
        host, _, port = address.rpartition(":")
        if host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536:
            return
    raise ValueError(
        f"Expected {source} to have addresses of the form host:port. Received: {address!r}"
    )


def _checked_task(task: Any, jobs: dict[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _malformed(
            'to name the worker of this process, as "task": {"type": ..., "index": ...}',
            f"task={task!r}",
        )
    job, index = task["type"], task["index"]
    if job not in jobs:
        raise _malformed(f"to have a task `type` among {sorted(jobs)}", f"type={job!r}")
    whole = str(index).isascii() and str(index).isdigit() and not isinstance(index, bool)
    if not whole or int(index) >= len(jobs[job]):
        raise _malformed(
            f"to have a task `index` from 0 to {len(jobs[job]) - 1}, one per {job} address",
            f"index={index!r}",
        )
    return job, int(index)


def _malformed(expected: str, received: str) -> ValueError:
    return ValueError(f"Expected `TF_CONFIG` {expected}. Received: {received}")
