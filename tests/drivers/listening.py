"""LISTEN with asyncpg, psycopg 3 and psycopg2: each connection must get every notification from its LISTEN on, in
order, while others begin and end to listen."""

import asyncio
import select

import asyncpg
import psycopg
import psycopg2
import psycopg2.extensions

from common import PATIENCE, urls

LISTENERS = 12
# How many follow when all listen.
MORE = 100
ready = []


def in_order(what, payloads):
    assert payloads.pop() == "end"
    numbers = [int(n) for n in payloads]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) >= MORE, f"{what}: {numbers}"
    print(f"{what}: {len(numbers)} notifications")


async def with_asyncpg(url, number):
    conn = await asyncpg.connect(url)
    got, done = [], asyncio.Event()

    def called(connection, pid, channel, payload):
        assert channel == "numbers"
        got.append(payload)
        if payload == "end":
            done.set()

    await conn.add_listener("numbers", called)
    ready.append(number)
    while not done.is_set():
        async with conn.transaction():
            await conn.execute("select 1")
        await conn.add_listener(f"asyncpg_{number}", lambda *_: None)
        await asyncio.sleep(0.01)
    await conn.remove_listener("numbers", called)
    assert await conn.fetch("select pg_listening_channels()") == [(f"asyncpg_{number}",)]
    await conn.close()
    in_order("asyncpg", got)


async def with_psycopg3(url, autocommit):
    async with await psycopg.AsyncConnection.connect(url, autocommit=autocommit) as conn:
        await conn.execute("listen numbers")
        await conn.commit()
        ready.append(autocommit)
        got = []
        async for notify in conn.notifies():
            got.append(notify.payload)
            if notify.payload == "end":
                break
        await conn.execute("unlisten *")
        await conn.commit()
        cur = await conn.execute("select pg_listening_channels()")
        assert await cur.fetchall() == []
    in_order(f"psycopg autocommit={autocommit}", got)


def with_psycopg2(url, number):
    conn = psycopg2.connect(url)
    conn.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
    cur = conn.cursor()
    cur.execute("listen numbers")
    ready.append(number)
    got = []
    while not got or got[-1] != "end":
        assert select.select([conn], [], [], PATIENCE)[0], "nothing comes"
        conn.poll()
        got += [notify.payload for notify in conn.notifies]
        del conn.notifies[:]
    # Its own come with the reply.
    cur.execute(f"unlisten numbers; listen own_{number}")
    cur.execute(f"notify own_{number}, 'own'")
    assert [(n.payload, n.pid) for n in conn.notifies] == [("own", conn.info.backend_pid)], conn.notifies
    conn.close()
    in_order("psycopg2", got)


async def write(direct):
    async with await psycopg.AsyncConnection.connect(direct, autocommit=True) as conn:
        number = more = 0
        while more < MORE:
            more += len(ready) == LISTENERS
            await conn.execute("select pg_notify('numbers', %s)", [str(number)])
            number += 1
            await asyncio.sleep(0.002)
        await conn.execute("notify numbers, 'end'")


async def main():
    url, direct = urls()
    tasks = [with_asyncpg(url, n) for n in range(5)] + [with_psycopg3(url, n % 2 == 0) for n in range(4)]
    tasks += [asyncio.to_thread(with_psycopg2, url, n) for n in range(3)]
    async with asyncio.timeout(2 * PATIENCE):
        await asyncio.gather(write(direct), *tasks)


asyncio.run(main())
