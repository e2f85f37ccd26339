"""A client of the interactive chat server, as a beginner's program has it.

    chat_client.py HOST PORT

It sends what is typed at a prompt and prints what comes back, until the end of its input.
"""

import socket
import sys

host, port = sys.argv[1:]
with socket.create_connection((host, int(port)), timeout=10) as server:
    while True:
        try:
            text = input(">>>").strip()
        except EOFError:
            break
        if not text:
            continue
        server.sendall(text.encode("utf-8"))
        print("they say:", server.recv(1024).decode("utf-8"), flush=True)
