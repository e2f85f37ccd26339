"""A client of the udp protocol, as a beginner's program has it.

    udp_client.py HOST PORT ENCODING

It asks for commands at a prompt, sends each, an empty one too, and prints the answer, until `quit`.
"""

import socket
import sys

host, port, encoding = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(10)
    while (command := input(">>: ").strip()) != "quit":
        client.sendto(command.encode("utf-8"), (host, int(port)))
        answer, _ = client.recvfrom(65535)
        print(answer.decode(encoding), flush=True)
