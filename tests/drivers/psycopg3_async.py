"""psycopg 3, asyncio: many connections in one loop, pipelines, COPY, tasks that are cancelled."""

import asyncio

import psycopg

from common import SLEEPING, compare_async, until_async, urls


def failure(error):
    return (type(error).__name__, error.sqlstate, str(error))


async def connect(url, worker, **further):
    options = {"options": worker.options, "application_name": worker.application_name, "autocommit": True}
    return await psycopg.AsyncConnection.connect(url, **{**options, **further})


async def check(url, worker):
    seen = []
    async with await connect(url, worker) as conn:
        await conn.execute(f"drop schema if exists {worker.schema} cascade")
        await conn.execute(f"create schema {worker.schema}")
        await conn.execute("create table account(id int primary key, owner text, balance int)")
        async with conn.cursor() as cur:
            rows = [(i, f"{worker.schema} owner {i}", 100) for i in range(50)]
            await cur.executemany("insert into account values (%s, %s, %s)", rows)
    for threshold in [0, 5]:
        seen += await asyncio.gather(*(one(url, worker, n, threshold) for n in range(4)))
        async with await connect(url, worker, prepare_threshold=threshold) as conn:
            await transfers(url, worker, conn, seen)
            await streams(conn, seen)
            await interrupted(conn, worker, seen)
    return seen


async def one(url, worker, number, threshold):
    seen = []
    async with await connect(url, worker, prepare_threshold=threshold) as conn:
        zone = ["Asia/Tokyo", "UTC"][number % 2]
        await conn.execute("select set_config('TimeZone', %s, false)", [zone])
        for i in range(8):
            cur = await conn.execute("select owner, balance + %s, current_setting('TimeZone') from account where id = %s", [0, i])
            seen.append(await cur.fetchall())
            async with conn.transaction():
                cur = await conn.execute("select current_setting('search_path'), current_setting('DateStyle'), %s::text", [number])
                seen.append(await cur.fetchone())
        async with conn.pipeline():
            cursors = [await conn.execute("select owner, %s::int from account where id = %s", [number, i]) for i in range(30)]
        seen.append([await c.fetchone() for c in cursors])
    return seen


async def transfers(url, worker, conn, seen):
    async def transfer(number):
        async with await connect(url, worker, prepare_threshold=0) as mine:
            for i in range(10):
                async with mine.transaction():
                    source, target = sorted([(number + i) % 50, (number * 7 + i + 1) % 50])
                    await mine.execute("update account set balance = balance - 1 where id = %s", [source])
                    await mine.execute("update account set balance = balance + 1 where id = %s", [target])

    await asyncio.gather(*(transfer(n) for n in range(5)))
    cur = await conn.execute("select sum(balance), count(*) from account")
    seen.append(await cur.fetchone())


async def streams(conn, seen):
    async with conn.cursor() as cur:
        async with cur.copy("copy account from stdin") as data:
            for i in range(1000, 3000):
                await data.write_row((i, "copied", 0))
        async with cur.copy("copy (select * from account where id >= 1000 order by id) to stdout (format csv)") as data:
            seen.append(b"".join([bytes(block) async for block in data]))
        async for row in cur.stream("select id from account where id < %s order by id", [1100]):
            seen.append(row)
    async with conn.transaction(), conn.cursor("named") as cur:
        await cur.execute("select id, owner from account order by id")
        seen.append(await cur.fetchmany(7))
    cur = await conn.execute("delete from account where id >= %s", [1000])
    seen.append(cur.rowcount)


async def interrupted(conn, worker, seen):
    async with await psycopg.AsyncConnection.connect(urls()[1], autocommit=True) as direct:

        async def sleeps():
            cur = await direct.execute(SLEEPING, [worker.marker])
            return (await cur.fetchone())[0] == 1

        for _ in range(2):
            sleeper = asyncio.create_task(conn.execute(f"select pg_sleep(600) {worker.marker}"))
            await until_async(sleeps, "the query sleeps")
            await conn.cancel_safe()
            try:
                await sleeper
            except psycopg.Error as error:
                seen.append(failure(error))
            # A cancelled task: the driver cancels the query, too.
            sleeper = asyncio.create_task(conn.execute(f"select pg_sleep(600) {worker.marker}"))
            await until_async(sleeps, "the query sleeps")
            sleeper.cancel()
            try:
                await sleeper
            except asyncio.CancelledError:
                seen.append("cancelled")
            cur = await conn.execute("select %s::text", ["alive"])
            seen.append(await cur.fetchone())


if __name__ == "__main__":
    compare_async(check)
