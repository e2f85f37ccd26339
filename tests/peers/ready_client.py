"""A client of the ready protocol, as a beginner's program has it.

    ready_client.py HOST PORT ENCODING

It asks for commands at a prompt and prints each answer, decoded, until `quit`.
"""

import socket
import sys

host, port, encoding = sys.argv[1:]
with socket.create_connection((host, int(port)), timeout=10) as server:
    while (command := input(">>: ").strip()) != "quit":
        if not command:
            continue
        server.send(command.encode("utf-8"))
        length = int(server.recv(1024).decode("utf-8"))
        server.send(b"ready")
        answer = b""
        while len(answer) < length:
            received = server.recv(1024)
            if not received:
                sys.exit(f"the answer ended after {len(answer)} of {length} bytes")
            answer += received
        print(answer.decode(encoding), flush=True)
