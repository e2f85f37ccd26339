"""A server of the framed protocol: one client at a time, until it is killed.

It prints `listening on HOST:PORT` when it is ready.
"""

import socket
import struct
import subprocess

with socket.create_server(("127.0.0.1", 0)) as listener:
    print("listening on %s:%d" % listener.getsockname(), flush=True)
    while True:
        client, _ = listener.accept()
        with client, client.makefile("rb") as stream:
            while header := stream.read(4):
                command = stream.read(*struct.unpack("!I", header)).decode("utf-8")
                done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True)
                for part in (done.stdout, done.stderr, str(done.returncode).encode("ascii")):
                    client.sendall(struct.pack("!I", len(part)) + part)
