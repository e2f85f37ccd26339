"""The interactive chat server, as a beginner's program has it, until it is killed.

It prints `listening on HOST:PORT` when it is ready, then each message, and sends back what is typed.
"""

import socketserver


class Operator(socketserver.BaseRequestHandler):
    def handle(self):
        while text := self.request.recv(1024):
            print("from %s: %s" % (self.client_address[0], text.decode("utf-8")), flush=True)
            self.request.sendall(input(">>>").encode("utf-8"))


with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Operator) as server:
    print("listening on %s:%d" % server.server_address, flush=True)
    server.serve_forever()
