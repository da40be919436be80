"""Reports lost workers, from a separate process that does nothing else.

TensorFlow reports a lost worker only to workers that are waiting for it. A busy worker notices
nothing, and while Python's global interpreter lock is held (TensorFlow holds it during its start)
none of its own threads could. Each worker therefore has a small companion process, its guard, which
keeps the connections over which the workers met: a star around the chief. The kernel closes a
connection when the process at its other end terminates. A process that is stopped (SIGSTOP) does
not terminate; its guard watches its state, on Linux, and closes the connections itself.

The guard runs this file. It uses the standard library only, and starts in 20 ms.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

# "Temporary failure" in sysexits.h, which a supervisor may interpret as "restart all workers".
LOST_WORKER_EXIT_CODE = 75
# Seconds for the process to end by itself before its guard kills it.
_LAST_SECONDS = 5.0
_HELLO, _GO, _DONE, _LOST = b"kdmp-hi1", b"kdmp-go1", b"kdmp-end", b"kdmp-out"
# Every message: its kind, the worker it refers to, and the number of workers.
_MESSAGE = struct.Struct("!8sII")
_STARTED_ORDER, _DONE_ORDER, _FAILED_ORDER = b"s", b"d", b"f"
# A worker that TensorFlow informs of a loss may fail before its guard learns of it. Its guard waits
# this long, and reports the first loss to the others instead of the second.
_FAILED_SECONDS = 3.0


def greet(connection: socket.socket, index: int, num_workers: int) -> None:
    """Send the chief the position of this worker over a new connection."""
    _send(connection, _HELLO, index, num_workers)


def greeted(connection: socket.socket, num_workers: int) -> int | None:
    """The position of the worker at the other end of a new connection, None for other processes."""
    kind, index, count = _receive(connection)
    known = kind == _HELLO and count == num_workers and 0 < index < num_workers
    return index if known else None


def say_go(connection: socket.socket, num_workers: int) -> None:
    """Notify a worker that all workers have connected."""
    _send(connection, _GO, 0, num_workers)


def heard_go(connection: socket.socket) -> bool:
    """Whether the chief has sent that all workers have connected; False on any failure."""
    return _receive(connection)[0] == _GO


class Guard:
    """A companion process that reports a lost worker and then ends this process.

    Args:
        links: Connections by the positions of the workers at their other ends; the guard takes
            ownership of them.
        addresses: Addresses `host:port` of all workers.
        start_timeout: Seconds to wait for `started`.
        silence_timeout: Seconds after which an unresponsive host, or a process that is stopped,
            counts as lost.
        grace: Seconds from the report until this process is ended. TensorFlow's own error, which
            is more detailed, comes sooner if the process is waiting for the lost worker.
    """

    def __init__(
        self,
        links: Mapping[int, socket.socket],
        addresses: tuple[str, ...],
        *,
        start_timeout: float,
        silence_timeout: float,
        grace: float = 20.0,
    ):
        for link in links.values():
            _keep_alive(link, silence_timeout)
            link.setblocking(True)
        fields = [f"{index}={link.fileno()}" for index, link in links.items()]
        # -I and -S ignore the environment and installed packages, and start quickly.
        command = [sys.executable, "-I", "-S", __file__]
        times = [f"{start_timeout:g}", f"{silence_timeout:g}", f"{grace:g}"]
        self._process = subprocess.Popen(
            [*command, str(os.getpid()), *times, ",".join(fields), *addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=[link.fileno() for link in links.values()],
            # Signals that a terminal or a supervisor sends to a group are meant for the worker.
            start_new_session=True,
        )
        for link in links.values():
            link.close()
        self._left = False
        threading.Thread(target=self._end_with_guard, name="keras_dmp-guard", daemon=True).start()

    def started(self) -> None:
        """Notify the guard that TensorFlow has started."""
        self._order(_STARTED_ORDER)

    def leave(self, done: bool) -> None:
        """Stop the guard because this process ends.

        Args:
            done: Whether this worker has completed its work. If not, its loss is reported to the
                other workers.
        """
        self._left = True
        self._order(_DONE_ORDER if done else _FAILED_ORDER)
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_SECONDS)

    def _order(self, order: bytes) -> None:
        # The thread notices if the guard has terminated.
        with contextlib.suppress(OSError):
            self._process.stdin.write(order)

    def _end_with_guard(self) -> None:
        """End this process when its guard has reported a loss, whatever the main thread is doing.

        An exception in the main thread would have to wait for an operation that never returns.
        """
        reported = self._process.stdout.read(1)
        if self._left:
            return
        with contextlib.suppress(Exception):
            if not reported:
                sys.stderr.write(
                    "The process that watches for lost workers has terminated. The other workers "
                    "consider this worker lost, and it ends with exit code "
                    f"{LOST_WORKER_EXIT_CODE}.\n"
                )
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(LOST_WORKER_EXIT_CODE)


def _keep_alive(link: socket.socket, seconds: float) -> None:
    """Make the operating system close a connection to a host that is unresponsive for so long."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probes = {"TCP_KEEPIDLE": seconds / 3, "TCP_KEEPINTVL": seconds / 6}
    for name, each in probes.items():
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, round(each)))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def _send(connection: socket.socket, kind: bytes, index: int, num_workers: int) -> None:
    connection.sendall(_MESSAGE.pack(kind, index, num_workers))


def _receive(connection: socket.socket) -> tuple[bytes, int, int]:
    """The next message; its kind is empty if the connection is closed, silent or unknown."""
    received = b""
    with contextlib.suppress(OSError):
        while len(received) < _MESSAGE.size:
            part = connection.recv(_MESSAGE.size - len(received))
            if not part:
                break
            received += part
    return _MESSAGE.unpack(received) if len(received) == _MESSAGE.size else (b"", 0, 0)


def _first_loss(
    links: dict[int, socket.socket],
    addresses: list[str],
    start_timeout: float,
    silence_timeout: float,
    worker: int,
) -> str | None:
    """Wait for the loss of a worker and return a report; None when the guarded worker has ended.

    Args:
        links: Connections by position.
        addresses: Addresses of all workers.
        start_timeout: Seconds within which the guarded worker must report that it has started.
        silence_timeout: Seconds for which the guarded worker may be stopped.
        worker: Process ID of the guarded worker.
    """
    deadline, orders, wait = time.monotonic() + start_timeout, [0], 1.0
    stopped, checked = 0.0, time.monotonic()
    # The parent's process ID also shows its end: forked processes may keep its pipe open.
    while os.getppid() == worker or not orders:
        ready = select.select([*orders, *links.values()], [], [], wait)[0]
        # Its own pauses do not count, such as those of a machine or a job that is suspended.
        since, checked = min(time.monotonic() - checked, 2 * wait), time.monotonic()
        stopped = stopped + since if _is_stopped(worker) else 0.0
        if stopped > silence_timeout:
            for link in links.values():
                link.close()
            return f"This worker has been stopped (SIGSTOP) for {silence_timeout:g} seconds"
        order = os.read(0, 1) if 0 in ready else None
        if order == _STARTED_ORDER:
            deadline = float("inf")
        elif order == _FAILED_ORDER:
            deadline, orders, wait = time.monotonic() + _FAILED_SECONDS, [], 0.1
        elif order is not None:
            if order == _DONE_ORDER:
                _tell_all(links, _DONE, 0, len(addresses))
            return None
        for index, link in [each for each in links.items() if each[1] in ready]:
            kind, about, _ = _receive(link)
            if kind == _DONE:
                links.pop(index).close()
                continue
            lost = about if kind == _LOST else index
            _tell_all(links, _LOST, lost, len(addresses))
            return f"Worker {lost} ({addresses[lost]}) is lost: it ended before its work was done"
        if time.monotonic() > deadline and not orders:
            return None
        if time.monotonic() > deadline:
            others = ", ".join(f"worker {index} ({addresses[index]})" for index in links)
            return (
                f"TensorFlow has not started within {start_timeout:g} seconds, although these "
                f"workers are running: {others}; check that their ports are reachable"
            )
    return None


def _is_stopped(process: int) -> bool:
    """Whether a process is stopped by a signal; False where the system does not tell."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            # The name before may contain anything.
            return file.read().rpartition(b")")[2].split()[0] == b"T"
    except (OSError, IndexError):
        return False


def _tell_all(links: dict[int, socket.socket], kind: bytes, about: int, num_workers: int) -> None:
    for link in links.values():
        with contextlib.suppress(OSError):
            _send(link, kind, about, num_workers)


def _ends(worker: int, seconds: float) -> bool:
    """Whether the guarded worker ends, or reports that it does, within so many seconds."""
    deadline = time.monotonic() + seconds
    while os.getppid() == worker:
        wait = deadline - time.monotonic()
        if wait <= 0:
            return False
        if select.select([0], [], [], min(wait, 1.0))[0] and os.read(0, 1) != _STARTED_ORDER:
            return True
    return True


def _guard(
    worker: str,
    start_timeout: str,
    silence_timeout: str,
    grace: str,
    links: str,
    *addresses: str,
) -> None:
    # The guard ends with its worker; signals to all processes of a job must not end it earlier.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pairs = [each.split("=") for each in links.split(",")]
    opened = {int(index): socket.socket(fileno=int(number)) for index, number in pairs}
    times = float(start_timeout), float(silence_timeout)
    report = _first_loss(opened, list(addresses), *times, int(worker))
    if report is None:
        return
    sys.stderr.write(
        f"{report}. Training cannot continue, and this process ends within {grace} "
        f"seconds, with exit code {LOST_WORKER_EXIT_CODE}. Restart all workers; if `directory` "
        "is set, they resume from the last checkpoint.\n"
    )
    sys.stderr.flush()
    if not _ends(int(worker), float(grace)):
        os.write(1, b"x")
        if not _ends(int(worker), _LAST_SECONDS):
            os.kill(int(worker), signal.SIGKILL)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
