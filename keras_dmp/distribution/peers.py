"""Workers that watch one another, so that none waits for one that is gone.

TensorFlow aborts collectives some ten seconds after a worker has died; a worker that is busy with
something else meanwhile notices nothing, and an orderly end looks to it like a death. Here
every worker keeps a connection to the chief. It closes at once with its process, falls silent
with its host, and says goodbye first where the process ends in order.
"""

import contextlib
import hmac
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

_BEAT, _BYE, _LOST = b".", b"b", b"x"
# Every message: what it is, and which worker it is about.
_FRAME = struct.Struct("!ci")
_HELLO = struct.Struct("!Qi")


class PeerWatch:
    """One worker's part of the watch; its thread runs until `leave`, or until a worker is lost.

    Args:
        index: Position of this worker; 0 is the chief, to which all others connect.
        num_workers: Workers in all.
        on_loss: Called once, in the watching thread, with the lost worker's position and how it
            was noticed.
        interval: Seconds between two signs of life. Defaults to 1.
        timeout: Seconds of silence after which a worker is lost. Defaults to 30.
    """

    def __init__(
        self,
        *,
        index: int,
        num_workers: int,
        on_loss: Callable[[int, str], None],
        interval: float = 1.0,
        timeout: float = 30.0,
    ):
        self._index, self._num_workers = index, num_workers
        self._on_loss = on_loss
        self._interval, self._timeout = interval, timeout
        self._links: dict[int, _Link] = {}
        self._left = threading.Event()
        # Both the watching thread and `leave` send; frames must not mix.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="keras_dmp-peers", daemon=True)

    def listen(self) -> socket.socket:
        """Open the chief's port, a free one."""
        server = socket.create_server(("", 0), backlog=self._num_workers)
        server.settimeout(self._timeout)
        return server

    def accept(self, server: socket.socket, token: int) -> None:
        """Take in the connections of all others and begin to watch.

        Args:
            server: What `listen` returned.
            token: Number that workers of this run show.

        Raises:
            OSError: If one of them has not come in time; those that have need not watch any more.
        """
        # Those that are there hear nothing meanwhile, and must not take that for a loss.
        deadline = time.monotonic() + self._timeout / 2
        try:
            with server:
                while len(self._links) < self._num_workers - 1:
                    server.settimeout(max(0.01, deadline - time.monotonic()))
                    connection, _ = server.accept()
                    index = _welcome(connection, token)
                    if index is None:
                        connection.close()
                    else:
                        self._links[index] = _Link(connection)
        except OSError:
            # Or they would take the end of their connection for that of the chief.
            self.leave()
            raise
        self._thread.start()

    def connect(self, host: str, port: int, token: int) -> None:
        """Connect to the chief and begin to watch.

        Raises:
            OSError: If it cannot be reached.
        """
        connection = socket.create_connection((host, port), timeout=self._timeout)
        connection.sendall(_HELLO.pack(token, self._index))
        self._links[0] = _Link(connection)
        self._thread.start()

    def leave(self) -> None:
        """Say goodbye to the others and stop watching."""
        if self._left.is_set():
            return
        self._left.set()
        self._send_all(_BYE, self._index)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=self._interval)
        self._close()

    def _watch(self) -> None:
        beat = time.monotonic()
        while not self._left.is_set() and self._links:
            if time.monotonic() >= beat:
                self._send_all(_BEAT, self._index)
                beat = time.monotonic() + self._interval
            lost = self._listen_until(beat)
            if lost is not None and not self._left.is_set():
                self._send_all(_LOST, lost[0])
                self._on_loss(*lost)
                return

    def _listen_until(self, end: float) -> tuple[int, str] | None:
        """Read what the others say; a lost worker and how that showed."""
        links = {link.connection: index for index, link in self._links.items()}
        wait = max(0.0, end - time.monotonic())
        try:
            ready = select.select(list(links), [], [], wait)[0]
        except (OSError, ValueError):
            # `leave` has closed them.
            return None
        for connection in ready:
            index = links[connection]
            for kind, about in self._links[index].frames():
                if kind == _LOST:
                    return about, "as the chief says"
                if kind == _BYE:
                    self._links.pop(index).connection.close()
                    break
                if kind == b"":
                    return index, "its connection closed without a goodbye"
        now = time.monotonic()
        for index, link in self._links.items():
            if now - link.heard > self._timeout:
                return index, f"it has been silent for {self._timeout:g} seconds"
        return None

    def _send_all(self, kind: bytes, about: int) -> None:
        with self._lock:
            for link in list(self._links.values()):
                # Whoever is gone shows when it is read.
                with contextlib.suppress(OSError):
                    link.connection.sendall(_FRAME.pack(kind, about))

    def _close(self) -> None:
        with self._lock:
            for link in self._links.values():
                link.connection.close()
            self._links = {}


class _Link:
    """A connection, what of a frame has come in, and when it last did."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(1.0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.heard = time.monotonic()
        self._buffer = b""

    def frames(self) -> list[tuple[bytes, int]]:
        """Whole frames that have come in; a closed connection ends them with an empty one."""
        try:
            received = self.connection.recv(4_096)
        except TimeoutError:
            return []
        except OSError:
            received = b""
        if not received:
            return [(b"", -1)]
        self.heard = time.monotonic()
        self._buffer += received
        whole = len(self._buffer) - len(self._buffer) % _FRAME.size
        frames = list(_FRAME.iter_unpack(self._buffer[:whole]))
        self._buffer = self._buffer[whole:]
        return frames


def _welcome(connection: socket.socket, token: int) -> int | None:
    """The position of a worker of this run, or None for a stranger."""
    connection.settimeout(2.0)
    try:
        hello = b""
        while len(hello) < _HELLO.size:
            part = connection.recv(_HELLO.size - len(hello))
            if not part:
                return None
            hello += part
    except OSError:
        return None
    shown, index = _HELLO.unpack(hello)
    same = hmac.compare_digest(shown.to_bytes(8, "big"), token.to_bytes(8, "big"))
    return index if same else None
