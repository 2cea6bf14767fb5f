"""A TCP proxy on loopback that loses the answer of a COMMIT: the server did commit, the client cannot know."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tasks.database.connection import Target


class LossyProxy:
    """Forwards every connection to the server; of each ``every``-th COMMIT the answer is lost with its connection."""

    def __init__(self, host: str, port: int, every: int) -> None:
        self._server = (host, port)
        self._every = every
        self._commits = 0
        self._guard = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lost = 0
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                doomed = threading.Event()
                self._start(self._pump, client, server, doomed, True)
                self._start(self._pump, server, client, doomed, False)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, doomed: threading.Event, watch: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                # psycopg ends a transaction with a statement of its own, so it arrives as one message.
                if watch and b"COMMIT" in data and self._is_due():
                    doomed.set()
                if not watch and doomed.is_set():
                    # The server has answered, so it has committed; the client never hears of it.
                    self.lost += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def _is_due(self) -> bool:
        with self._guard:
            self._commits += 1
            return self._commits % self._every == 0


@contextmanager
def lossy(target: Target, *, every: int) -> Iterator[tuple[Target, LossyProxy]]:
    """Yield the target as seen through a proxy that loses the answer of each ``every``-th COMMIT."""
    parts = conninfo_to_dict(target.conninfo)
    proxy = LossyProxy(str(parts["host"]), int(str(parts["port"])), every)
    try:
        yield Target(target.name, make_conninfo(target.conninfo, host="127.0.0.1", port=proxy.port)), proxy
    finally:
        proxy.close()
