"""A client of the struct protocol, as a beginner's program has it.

    struct_client.py HOST PORT ENCODING

It asks for commands at a prompt and prints each answer, decoded, until `quit`.
"""

import socket
import struct
import sys

host, port, encoding = sys.argv[1:]
with socket.create_connection((host, int(port)), timeout=10) as server:
    while (command := input(">>: ").strip()) != "quit":
        if not command:
            continue
        server.send(command.encode("utf-8"))
        (length,) = struct.unpack("i", server.recv(4))
        answer = b""
        while len(answer) < length:
            received = server.recv(1024)
            if not received:
                sys.exit(f"the answer ended after {len(answer)} of {length} bytes")
            answer += received
        print(answer.decode(encoding), flush=True)
