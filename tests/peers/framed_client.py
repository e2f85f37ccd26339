"""A client of the framed protocol.

    framed_client.py HOST PORT

It sends each line of standard input as a command, all of them at once, and then prints the answers, each in
one piece: `OUTPUT|ERRORS|STATUS`.
"""

import socket
import struct
import sys


def receive(stream):
    (length,) = struct.unpack("!I", stream.read(4))
    return stream.read(length).decode("utf-8")


commands = [line.rstrip("\n").encode("utf-8") for line in sys.stdin]
host, port = sys.argv[1:]
with socket.create_connection((host, int(port)), timeout=10) as server:
    server.sendall(b"".join(struct.pack("!I", len(command)) + command for command in commands))
    stream = server.makefile("rb")
    for _ in commands:
        print("|".join(receive(stream) for _ in range(3)))
