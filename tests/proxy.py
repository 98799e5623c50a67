"""A TCP proxy of 127.0.0.1 that can be slow, and can drop every connection."""

import contextlib
import socket
import struct
import threading
import time


class Proxy:
    """Passes connections on to a port; `latency` is of every piece of data, in seconds; `drop` resets all of them."""

    def __init__(self, target):
        self.target, self.latency, self.drop = target, 0.0, False
        self.dropped = 0
        self._open = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def break_off(self):
        """Reset all connections, and every new one until `mend`."""
        self.drop = True
        for one in list(self._open):
            self._reset(one)

    def mend(self, latency=0.0):
        self.drop, self.latency = False, latency

    def close(self):
        self._listener.close()
        self.break_off()

    def _accept(self):
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                if self.drop:
                    self._reset(client)
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.target), 5)
                except OSError:
                    self._reset(client)
                    continue
                self._open |= {client, server}
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.latency:
                    time.sleep(self.latency)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        self._open.discard(source)

    def _reset(self, one):
        """Close at once with RST, as a network that has lost its memory of the connection would."""
        self.dropped += 1
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.shutdown(socket.SHUT_RDWR)
        one.close()
        self._open.discard(one)
