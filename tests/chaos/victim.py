"""Clients in a state, in a process of their own that is killed: python victim.py PORT STATE COUNT. Says "ready"."""

import asyncio
import socket
import sys

from wire import SYNC, Client, extended, query

BIG = "select repeat('x', 1000000) from generate_series(1, 1000)"


async def idle(client, _number):
    await client.run("select 1")


async def in_transaction(client, number):
    await client.run("begin")
    # Each another account: none waits for another of them.
    await client.run(f"update accounts set balance = balance + 1000000 where id = {number}")


async def failed_transaction(client, _number):
    await client.run("begin")
    client.send(query("select 1/0"))
    try:
        await client.replies()
    except Exception:  # noqa: BLE001 it is to fail
        pass


async def in_query(client, _number):
    client.send(query("select pg_sleep(600) /* victim */"))


async def copying_in(client, _number):
    client.send(query("copy ledger from stdin"))
    client.send(b"d" + (4 + 20).to_bytes(4, "big") + b"-1\t1\t2\t1000000\n-2\t1\t")


async def copying_out(client, _number):
    client.send(query(f"copy ({BIG}) to stdout"))


async def pipelining(client, _number):
    client.send(extended("update accounts set balance = balance + 1 where id = 1 and pg_sleep(0.2) is not null"))
    client.send(b"".join(extended("select pg_sleep(600) /* victim */") for _ in range(20)) + SYNC)


async def listening(client, _number):
    await client.run("listen victims")


async def pinned(client, _number):
    await client.run("create temp table mine (a int)")


async def half_a_message(client, _number):
    await client.run("begin")
    client.send(query("select 1 /* and more */")[:9])


async def not_reading(client, _number):
    client.writer.transport.pause_reading()
    client.send(query(BIG))


STATES = {"idle": idle, "in a transaction": in_transaction, "in a failed transaction": failed_transaction,
          "in a query": in_query, "in COPY in": copying_in, "in COPY out": copying_out, "in a pipeline": pipelining,
          "listening": listening, "pinned": pinned, "in half a message": half_a_message, "not reading": not_reading}


async def connect(port, state, number):
    client = await Client.connect(port, "bank", limit=4096)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await STATES[state](client, number)
    return client


async def main(where, state, count):
    host, _, port = where.rpartition(":")
    where = (host, int(port)) if host else int(port)
    clients = await asyncio.gather(*(connect(where, state, n) for n in range(1, count + 1)))
    print("ready", flush=True)
    await asyncio.Event().wait()
    return clients


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
