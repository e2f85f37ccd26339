"""A server of the udp protocol, as a beginner's program has it, until it is killed.

It prints `listening on HOST:PORT` when it is ready.
"""

import socket

import shell

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 0))
    print("listening on %s:%d" % server.getsockname(), flush=True)
    while True:
        command, client = server.recvfrom(1024)
        server.sendto(shell.run(command), client)
