"""A relay that makes a network of loopback: everything arrives later, both ways.

    relay.py LISTEN_PORT TARGET_PORT SECONDS COUNT_PORT

Counts round trips: how often a client sent something after it had been answered. Who connects to COUNT_PORT is told.
"""

import asyncio
import sys

import uvloop


class Count:
    def __init__(self):
        self.round_trips = 0


class End(asyncio.Protocol):
    """One end of a relayed connection; what it receives leaves by the other end after `delay`."""

    def __init__(self, delay):
        self.delay = delay
        self.transport = self.other = None
        self.early = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        asyncio.get_running_loop().call_later(self.delay, self.pass_on, data)

    def connection_lost(self, _error):
        asyncio.get_running_loop().call_later(self.delay, self.pass_on, None)

    def pass_on(self, data):
        if self.other is None:
            self.early.append(data)
        elif data is None:
            self.other.close()
        elif not self.other.is_closing():
            self.other.write(data)

    def join(self, other):
        self.other = other
        for data in self.early:
            self.pass_on(data)


class Client(End):
    def __init__(self, delay, target_port, count):
        super().__init__(delay)
        self.target_port, self.count = target_port, count
        self.answered = True

    def connection_made(self, transport):
        super().connection_made(transport)
        self.opening = asyncio.ensure_future(self.open())

    async def open(self):
        try:
            loop = asyncio.get_running_loop()
            target, server = await loop.create_connection(lambda: Server(self), "127.0.0.1", self.target_port)
        except OSError:
            self.transport.close()
            return
        server.join(self.transport)
        self.join(target)

    def data_received(self, data):
        if self.answered:
            self.count.round_trips += 1
            self.answered = False
        super().data_received(data)


class Server(End):
    def __init__(self, client):
        super().__init__(client.delay)
        self.client = client

    def data_received(self, data):
        self.client.answered = True
        super().data_received(data)


async def serve(listen_port, target_port, delay, count_port):
    loop = asyncio.get_running_loop()
    count = Count()

    async def tell(_reader, writer):
        writer.write(str(count.round_trips).encode())
        writer.close()

    await asyncio.start_server(tell, "127.0.0.1", count_port)
    server = await loop.create_server(lambda: Client(delay, target_port, count), "127.0.0.1", listen_port)
    await server.serve_forever()


if __name__ == "__main__":
    listen, target, seconds, counter = sys.argv[1:]
    uvloop.run(serve(int(listen), int(target), float(seconds), int(counter)))
