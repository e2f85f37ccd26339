"""A server of the struct protocol, as a beginner's program has it: one client at a time, until it is killed.

It prints `listening on HOST:PORT` when it is ready.
"""

import socket
import struct

import shell

with socket.create_server(("127.0.0.1", 0)) as listener:
    print("listening on %s:%d" % listener.getsockname(), flush=True)
    while True:
        client, _ = listener.accept()
        with client:
            while command := client.recv(1024):
                output = shell.run(command)
                client.sendall(struct.pack("i", len(output)) + output)
