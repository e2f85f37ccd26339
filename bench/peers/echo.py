"""Echo servers of Python's socketserver: MIXIN TRANSPORT ADDRESS BUFFER TOUCHED_MB."""

import signal
import socket
import socketserver
import sys
import threading

mixin, transport, address, buffer_size, touched_mb = sys.argv[1:]
buffer_size = int(buffer_size)
touched = b"\x01" * (int(touched_mb) << 20)


class EchoStream(socketserver.BaseRequestHandler):
    def handle(self):
        if transport == "tcp" and buffer_size >= 65536:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := self.request.recv(buffer_size):
            self.request.sendall(data)


class EchoDatagram(socketserver.BaseRequestHandler):
    def handle(self):
        packet, sock = self.request
        sock.sendto(packet, self.client_address)


base, handler = {
    "tcp": ("TCPServer", EchoStream),
    "unix": ("UnixStreamServer", EchoStream),
    "udp": ("UDPServer", EchoDatagram),
    "unixgram": ("UnixDatagramServer", EchoDatagram),
}[transport]


# ForkingUnixStreamServer has a name of its own only since Python 3.12.
bases = [getattr(socketserver, base)]
if mixin:
    bases.insert(0, getattr(socketserver, mixin + "MixIn"))


class Server(*bases):
    # As all that are measured. With the default of 5, clients that come at once wait a second for a second SYN.
    request_queue_size = 4096
    # Otherwise each new thread looks at all others for those that have ended: 24 ms among 10,000.
    daemon_threads = True


if transport in ("tcp", "udp"):
    host, port = address.rsplit(":", 1)
    address = (host, int(port))

with Server(address, handler) as server:
    # shutdown() waits for the loop to end, so it cannot be called in the loop's thread.
    stop = threading.Thread(target=server.shutdown)
    signal.signal(signal.SIGTERM, lambda *_: stop.start())
    bound = server.server_address
    print("listening on", bound if isinstance(bound, str) else f"{bound[0]}:{bound[1]}", flush=True)
    server.serve_forever()
