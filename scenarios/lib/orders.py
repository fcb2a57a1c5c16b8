"""Orders to the other guest: the client calls the methods of an object that the server has.

They go over a TCP connection of their own as lines of JSON, so arguments and answers are what JSON has. What the method
raises there as AssertionError, OSError or SystemExit is an AssertionError here.
"""

import json
import os
import socket

import background

PORT = 7200
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))


class Remote:
    """The server's object: each of its methods, by way of `serve`."""

    def __init__(self):
        self._sock = socket.create_connection((os.environ["LAB_SERVER"], PORT), DEADLINE_S)
        self._sock.settimeout(DEADLINE_S)
        self._stream = self._sock.makefile("rw")

    def __getattr__(self, method):
        def call(*arguments):
            print(json.dumps([method, arguments]), file=self._stream, flush=True)
            try:
                error, value = json.loads(self._stream.readline() or '["the connection has ended", null]')
            except TimeoutError:
                raise AssertionError(f"the server's {method} took more than {DEADLINE_S:g} s") from None
            if error:
                raise AssertionError(f"server: {error}")
            return value

        return call

    def close(self):
        """End the connection; the server waits for the next one."""
        self._stream.close()
        self._sock.close()


def serve(target):
    """End a set-up script, and go on in the background: carry out what clients ask of the object, one after the other."""
    listener = socket.create_server(("", PORT))
    background.detach()
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            for line in stream:
                method, arguments = json.loads(line)
                try:
                    answer = [None, getattr(target, method)(*arguments)]
                except (AssertionError, OSError, SystemExit) as error:
                    answer = [f"{method}: {error}", None]
                print(json.dumps(answer), file=stream, flush=True)
