"""A driver's connection goes on when the server under it is terminated: `python survival.py URL DIRECT_URL`."""

import asyncio
import sys
import threading

import asyncpg
import psycopg
import psycopg2

URL, DIRECT = sys.argv[1:3]
SLEEP = "SELECT pg_sleep(600)"


def terminate():
    """Ends the server that sleeps, as soon as there is one."""
    sql = (
        "SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep(600)%'"
        " AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(DIRECT, autocommit=True) as direct:
        while not direct.execute(sql).fetchone()[0]:
            pass


def while_terminated(run):
    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        run()
    finally:
        thread.join()


def expect(error, run):
    try:
        run()
    except error:
        return
    raise AssertionError("it has not failed")


def with_psycopg():
    with psycopg.connect(URL, autocommit=True) as connection:
        connection.execute("SET application_name = 'survivor'")
        while_terminated(lambda: expect(psycopg.errors.AdminShutdown, lambda: connection.execute(SLEEP)))
        assert not connection.closed and not connection.broken
        assert connection.execute("SHOW application_name").fetchone()[0] == "survivor"


def with_psycopg2():
    connection = psycopg2.connect(URL)
    connection.autocommit = True
    cursor = connection.cursor()
    while_terminated(lambda: expect(psycopg2.errors.AdminShutdown, lambda: cursor.execute(SLEEP)))
    cursor.execute("SELECT 'well'")
    assert not connection.closed and cursor.fetchone() == ("well",)


async def with_asyncpg():
    connection = await asyncpg.connect(URL)
    value = await connection.prepare("SELECT $1::int + 1")
    assert await value.fetchval(1) == 2
    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        await connection.execute(SLEEP)
        raise AssertionError("it has not failed")
    except asyncpg.AdminShutdownError:
        pass
    thread.join()
    assert not connection.is_closed()
    assert await value.fetchval(2) == 3, "its statement is prepared again"
    await connection.close()


with_psycopg()
with_psycopg2()
asyncio.run(with_asyncpg())
