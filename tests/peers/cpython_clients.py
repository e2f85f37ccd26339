"""The client side of CPython's own tests of socketserver, against servers that are listening already.

    cpython_clients.py TRANSPORT=ADDRESS...

TRANSPORT is tcp, udp, unix or unixgram. Each server gets what CPython's harness gives its own: three
clients, one after the other, each of which sends a line and expects it back. Exit status 0 if all did.
"""

import socket
import sys
import unittest

from test.test_socketserver import SocketServerTest

CLIENTS = 3

# The class attribute that CPython's harness takes the family from, and the client that it runs.
TRANSPORTS = {
    "tcp": (socket.AF_INET, SocketServerTest.stream_examine),
    "udp": (socket.AF_INET, SocketServerTest.dgram_examine),
    "unix": (socket.AF_UNIX, SocketServerTest.stream_examine),
    "unixgram": (socket.AF_UNIX, SocketServerTest.dgram_examine),
}


class Clients(SocketServerTest):
    """The clients of one server; CPython's setUp and tearDown keep and remove their socket paths."""

    def __init__(self, transport, address):
        super().__init__("visit")
        self.family, self.examine = TRANSPORTS[transport]
        self.address = address

    def visit(self):
        for _ in range(CLIENTS):
            self.examine(self, self.family, self.address)


def parse(argument):
    transport, address = argument.split("=", 1)
    if TRANSPORTS[transport][0] == socket.AF_INET:
        host, port = address.rsplit(":", 1)
        address = (host, int(port))
    return transport, address


def main():
    suite = unittest.TestSuite(Clients(*parse(argument)) for argument in sys.argv[1:])
    result = unittest.TextTestRunner().run(suite)
    return 0 if result.wasSuccessful() and result.testsRun == len(sys.argv) - 1 else 1


if __name__ == "__main__":
    sys.exit(main())
