"""asyncpg: statement cache, prepared statements, cursors, COPY, timeouts, type introspection, its pool with resets."""

import asyncio
import datetime
import decimal
import io
import json
import uuid

import asyncpg

from common import SLEEPING, compare_async, until_async, urls


def failure(error):
    return (type(error).__name__, getattr(error, "sqlstate", None), str(error))


async def connect(url, worker, **further):
    return await asyncpg.connect(url, server_settings=worker.settings, **further)


async def check(url, worker):
    seen = []
    conn = await connect(url, worker)
    await schema(conn, worker)
    await settings(conn, worker, seen)
    await prepared(conn, seen)
    await types(conn, seen)
    await transactions(conn, seen)
    await cursors(conn, seen)
    await copy(conn, worker, seen)
    await timeouts(conn, worker, seen)
    await conn.close()
    await small_cache(url, worker, seen)
    await pool(url, worker, seen)
    return seen


async def schema(conn, worker):
    await conn.execute(f"drop schema if exists {worker.schema} cascade; create schema {worker.schema}")
    await conn.execute("create type mood as enum ('sad', 'happy'); create type pair as (a int, b text)")
    await conn.execute("create domain positive as int check (value > 0)")
    await conn.execute("create table item(id serial primary key, name text unique, at timestamptz, m mood, p pair, j jsonb)")
    when = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc)
    rows = [(f"{worker.schema} {i}", when, ["sad", "happy"][i % 2], (i, "b"), json.dumps({"i": i})) for i in range(100)]
    await conn.executemany("insert into item(name, at, m, p, j) values ($1, $2, $3, $4, $5)", rows)


async def settings(conn, worker, seen):
    reported = conn.get_settings()
    seen.append((reported.TimeZone, reported.DateStyle, reported.application_name, reported.server_version))
    for name in ["TimeZone", "DateStyle", "application_name", "search_path"]:
        seen.append(await conn.fetchval("select current_setting($1)", name))
    for zone in ["Australia/Sydney", worker.time_zone]:
        await conn.execute(f"set timezone to '{zone}'")
        seen.append(conn.get_settings().TimeZone)
        seen.append(await conn.fetchval("select $1::timestamptz::text", datetime.datetime(2024, 7, 1, tzinfo=datetime.timezone.utc)))
    seen.append(await conn.fetchval("select '2024-07-01 12:00'::timestamptz"))


async def prepared(conn, seen):
    by_id = await conn.prepare("select id, name from item where id = $1")
    by_name = await conn.prepare("select id, name from item where name like $1 order by id")
    seen.append([str(a.name) for a in by_name.get_attributes()] + [p.name for p in by_name.get_parameters()])
    for i in range(10):
        seen.append(tuple(await by_id.fetchrow(i + 1)))
        seen.append([tuple(r) for r in await by_name.fetch(f"% {i}")])
        seen.append(await conn.fetchval("select count(*) from item where id < $1", i))
    for query in ["select * from missing", "select 1 / $1::int", "selec"]:
        for _ in range(3):
            try:
                seen.append(await conn.fetchval(query, *([0] if "$1" in query else [])))
            except asyncpg.PostgresError as error:
                seen.append(failure(error))
    seen.append(await conn.fetchmany("select $1::int + 1", [(i,) for i in range(5)]))


async def types(conn, seen):
    values = [
        ("int8", 2**40), ("numeric", decimal.Decimal("1.50")), ("text", "\u20ac'"), ("bytea", b"\0\1"), ("uuid", uuid.UUID(int=3)),
        ("date", datetime.date(2024, 2, 29)), ("interval", datetime.timedelta(days=1, hours=2)), ("int4[]", [1, None, 3]),
        ("mood", "happy"), ("mood[]", ["sad"]), ("pair", (1, "x")), ("pair[]", [(1, "x"), (2, None)]), ("positive", 5),
        ("int4range", asyncpg.Range(1, 5)), ("inet", "127.0.0.1"), ("bool", True), ("float8", 0.5),
    ]
    for name, value in values:
        seen.append(repr(await conn.fetchval(f"select $1::{name}", value)))
    try:
        await conn.fetchval("select $1::positive", -1)
    except asyncpg.PostgresError as error:
        seen.append(failure(error))
    await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    seen.append(await conn.fetchval("select j from item where id = 2"))
    seen.append(await conn.fetchval("select $1::jsonb || '{\"b\": 1}'", {"a": [1, None]}))
    await conn.reset_type_codec("jsonb", schema="pg_catalog")
    seen.append(await conn.fetchval("select j from item where id = 2"))
    seen.append([repr(r) for r in await conn.fetch("select m, p from item order by id limit 3")])
    await conn.reload_schema_state()
    seen.append(repr(await conn.fetchrow("select m, p from item where id = 5")))


async def transactions(conn, seen):
    async with conn.transaction():
        await conn.execute("insert into item(name) values ($1)", "outer")
        try:
            async with conn.transaction():
                await conn.execute("insert into item(name) values ($1)", "inner")
                await conn.execute("insert into item(name) values ($1)", "inner")
        except asyncpg.UniqueViolationError as error:
            seen.append(failure(error))
    seen.append([tuple(r) for r in await conn.fetch("select name from item where name in ('outer', 'inner')")])
    async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
        seen.append(await conn.fetchval("show transaction_isolation"))
        try:
            await conn.execute("delete from item")
        except asyncpg.PostgresError as error:
            seen.append(failure(error))
    await conn.execute("delete from item where name = 'outer'")
    seen.append(await conn.execute("begin; update item set m = 'sad'; rollback; select 1"))
    seen.append((conn.is_in_transaction(), await conn.fetchval("select count(*) from item where m = 'happy'")))


async def cursors(conn, seen):
    async with conn.transaction():
        seen.append([r["id"] async for r in conn.cursor("select id from item order by id", prefetch=7)])
        cursor = await conn.cursor("select id, at from item where id > $1 order by id", 10)
        seen.append(repr(await cursor.fetch(3)))
        await cursor.forward(5)
        # Another statement while the cursor's portal is open.
        seen.append(await conn.fetchval("select count(*) from item"))
        seen.append(repr(await cursor.fetchrow()))
        statement = await conn.prepare("select id from item where id < $1 order by id")
        seen.append([r["id"] async for r in statement.cursor(20, prefetch=4)])
    try:
        await conn.cursor("select 1")
    except asyncpg.PostgresError as error:
        seen.append(type(error).__name__)
    except asyncpg.InterfaceError as error:
        seen.append(str(error))


async def copy(conn, worker, seen):
    records = [(100000 + i, f"copied {i}") for i in range(3000)]
    seen.append(await conn.copy_records_to_table("item", records=records, columns=["id", "name"], schema_name=worker.schema))
    out = io.BytesIO()
    seen.append(await conn.copy_from_query("select id, name, at from item where id >= $1 order by id", 99, output=out, format="csv"))
    seen.append(out.getvalue())
    data = io.BytesIO(b"".join(b"%d\tmore %d\n" % (i, i) for i in range(200000, 201000)))
    seen.append(await conn.copy_to_table("item", source=data, columns=["id", "name"], schema_name=worker.schema))
    for source in [io.BytesIO(b"x\ty\n"), io.BytesIO(b"300000\tmore 200001\n")]:
        try:
            await conn.copy_to_table("item", source=source, columns=["id", "name"], schema_name=worker.schema)
        except asyncpg.PostgresError as error:
            seen.append(failure(error))

    async def broken():
        yield b"400000\tx\n"
        raise KeyError("no data")

    try:
        await conn.copy_to_table("item", source=broken(), columns=["id", "name"], schema_name=worker.schema)
    except KeyError as error:
        seen.append(str(error))
    seen.append(await conn.execute("delete from item where id >= 100000"))
    seen.append(await conn.fetchval("select count(*) from item"))


async def timeouts(conn, worker, seen):
    direct = await asyncpg.connect(urls()[1])

    async def sleeps():
        return await direct.fetchval(SLEEPING.replace("%%", "%").replace("%s", "$1"), worker.marker) == 1

    async def nothing_sleeps():
        return not await sleeps()

    for _ in range(2):
        try:
            # The driver cancels the query itself.
            await conn.execute(f"select pg_sleep(600) {worker.marker}", timeout=0.05)
        except asyncio.TimeoutError:
            seen.append("timeout")
        seen.append(await conn.fetchval("select $1::text", "alive"))
        await until_async(nothing_sleeps, "the query was cancelled")
        task = asyncio.create_task(conn.fetch(f"select pg_sleep(600) {worker.marker}"))
        await until_async(sleeps, "the query sleeps")
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            seen.append("cancelled")
        seen.append(await conn.fetchval("select $1::text", "alive"))
        try:
            async with conn.transaction():
                await conn.execute(f"select pg_sleep(600) {worker.marker}", timeout=0.05)
        except asyncio.TimeoutError:
            seen.append(conn.is_in_transaction())
    await direct.close()


async def small_cache(url, worker, seen):
    # The driver closes the oldest statement for each new one.
    conn = await connect(url, worker, statement_cache_size=3)
    for i in range(30):
        seen.append(await conn.fetchval(f"select $1::int + {i % 7}", i))
    await conn.close()
    conn = await connect(url, worker, statement_cache_size=0)
    for i in range(5):
        seen.append(await conn.fetchval("select $1::int * 2", i))
    await conn.close()


async def pool(url, worker, seen):
    state = "select concat_ws(' ', current_setting('search_path'), current_setting('TimeZone'), current_setting('application_name'))"

    async def use(pool, number):
        mine = []
        for i in range(6):
            async with pool.acquire() as conn:
                mine.append(await conn.fetchval(f"select name from {worker.schema}.item where id = $1", number + i + 1))
                mine.append(await conn.fetchval(state))
                async with conn.transaction():
                    mine.append(await conn.fetchval("select $1::int", i))
                    await conn.execute("set local timezone to 'Asia/Tokyo'")
                    mine.append(await conn.fetchval(state))
                # Forgotten when the connection goes back.
                await conn.execute(f"set timezone to '{worker.time_zone}'")
                mine.append(await conn.fetchval(state))
            mine.append(await pool.fetchval("select $1::text", str(i)))
        return mine

    # Each release runs SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL.
    async with asyncpg.create_pool(url, min_size=2, max_size=5) as pool:
        seen += await asyncio.gather(*(use(pool, n) for n in range(8)))


if __name__ == "__main__":
    compare_async(check)
