"""psycopg2: transactions, server-side cursors, COPY, large objects, two-phase commit, cancel."""

import datetime
import decimal
import io
import threading
import uuid

import psycopg2
import psycopg2.extras

from common import SLEEPING, compare, until, urls

psycopg2.extras.register_uuid()


def connect(url, worker):
    return psycopg2.connect(url, options=worker.options, application_name=worker.application_name)


def check(url, worker):
    seen = []
    conn = connect(url, worker)
    cur = conn.cursor()

    def run(sql, args=None):
        try:
            cur.execute(sql, args)
            seen.append((cur.statusmessage, cur.fetchall() if cur.description else None))
        except psycopg2.Error as error:
            seen.append((type(error).__name__, error.pgcode, str(error)))

    schema(conn, worker)
    settings(conn, run, seen, worker)
    types(conn, run)
    transactions(conn, run, seen)
    cursors(conn, seen)
    copy(conn, run, seen)
    large_objects(conn, seen)
    two_phase(url, worker, seen)
    notices(conn, run, seen)
    cancel(conn, run, seen, worker)
    conn.close()
    return seen


def schema(conn, worker):
    with conn, conn.cursor() as cur:
        cur.execute(f"drop schema if exists {worker.schema} cascade")
        cur.execute(f"create schema {worker.schema}")
        cur.execute("create table item(id serial primary key, name text unique, at timestamptz, n numeric)")
        rows = [(f"{worker.schema} item {i}", datetime.datetime(2024, 1, i % 28 + 1, 12, 0), i) for i in range(100)]
        psycopg2.extras.execute_values(cur, "insert into item(name, at, n) values %s", rows)


def settings(conn, run, seen, worker):
    for name in ["TimeZone", "DateStyle", "application_name", "search_path", "client_encoding"]:
        run(f"show {name}")
    seen.append([conn.info.parameter_status(n) for n in ("TimeZone", "DateStyle", "client_encoding")])
    run("select '01/02/2024'::date, '2024-07-01 12:00+00'::timestamptz::text")
    run("set timezone to 'Australia/Sydney'")
    conn.commit()
    run("select '2024-07-01 12:00+00'::timestamptz")
    conn.rollback()
    run("show timezone")
    run("set timezone to 'Pacific/Auckland'")
    conn.rollback()
    run("show timezone")
    run("set local timezone to 'Pacific/Auckland'")
    run("show timezone")
    conn.commit()
    run("show timezone")
    run("set timezone to %s", [worker.time_zone])
    conn.commit()
    conn.set_client_encoding("LATIN1")
    run("select 'grün', octet_length(convert_to('ü', 'LATIN1')), current_setting('client_encoding')")
    run("select chr(8364)")
    conn.rollback()
    conn.set_client_encoding("UTF8")
    run("select '\u20ac'")
    conn.commit()


def types(conn, run):
    values = [
        None,
        True,
        decimal.Decimal("1.50"),
        "O'Reilly \\ \u20ac",
        psycopg2.Binary(bytes(range(256))),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=1, seconds=5),
        [1, 2, 3],
        uuid.UUID(int=5),
        psycopg2.extras.Json({"a": [1, None]}),
    ]
    for value in values:
        run("select %s", [value])
    run("select array_agg(id order by id), max(at), sum(n) from item where n < %s", [50])
    run("select repeat('x', 1000000)")
    run("select count(*) from unnest(string_to_array(%s, ',')) x", [",".join(map(str, range(50000)))])
    conn.commit()


def transactions(conn, run, seen):
    run("insert into item(name) values ('once')")
    run("insert into item(name) values ('once')")
    run("select 1")
    seen.append(conn.info.transaction_status)
    conn.rollback()
    run("savepoint a")
    run("insert into item(name) values ('kept')")
    run("savepoint b")
    run("select 1/0")
    run("rollback to b")
    run("insert into item(name) values ('also kept')")
    conn.commit()
    run("select name from item where name like '%%kept' order by 1", [])
    conn.rollback()
    conn.set_session(isolation_level="SERIALIZABLE", readonly=True)
    run("show transaction_isolation")
    run("insert into item(name) values ('never')")
    conn.rollback()
    conn.set_session(isolation_level="DEFAULT", readonly=False, deferrable=False)
    run("show transaction_isolation")
    conn.commit()
    conn.autocommit = True
    run("insert into item(name) values ('auto') returning name")
    run("select 1; select 2")
    run("begin; insert into item(name) values ('gone'); rollback; select count(*) from item")
    run("no such statement")
    conn.autocommit = False
    try:
        with conn:
            run("delete from item where name like '%kept'")
            raise KeyError
    except KeyError:
        pass
    run("select count(*) from item")
    conn.commit()


def cursors(conn, seen):
    with conn:
        with conn.cursor("one") as one, conn.cursor("two", scrollable=True) as two:
            one.itersize = 7
            one.execute("select id, name, at from item order by id limit 40")
            two.execute("select id from item order by id desc")
            seen.append([(a, two.fetchone()) for a in one])
            two.scroll(2, mode="absolute")
            seen.append(two.fetchmany(3))
            two.scroll(-2)
            seen.append(two.fetchone())
    failing = conn.cursor("one")
    failing.execute("select 1 / (50 - id) from item order by id")
    seen.append(failing.fetchmany(10))
    try:
        failing.fetchall()
    except psycopg2.Error as error:
        seen.append((error.pgcode, str(error)))
    conn.rollback()


def copy(conn, run, seen):
    cur = conn.cursor()
    text = "".join(f"copied {i}\t{i}\n" for i in range(20000))
    cur.copy_expert("copy item(name, n) from stdin", io.StringIO(text))
    seen.append(cur.rowcount)
    conn.commit()
    out = io.StringIO()
    cur.copy_expert("copy (select name, n, at from item where name like 'copied%' or id < 10 order by id) to stdout csv", out)
    seen.append(out.getvalue())
    conn.commit()
    for bad in ["x\ty\n", "copied 1\t1\n"]:
        try:
            cur.copy_expert("copy item(name, n) from stdin", io.StringIO("good\t1\n" + bad))
        except psycopg2.Error as error:
            seen.append((error.pgcode, str(error)))
        conn.rollback()

    class Broken(io.StringIO):
        def read(self, size=-1):
            raise KeyError("no data")

    try:
        cur.copy_expert("copy item(name, n) from stdin", Broken())
    except (psycopg2.Error, KeyError) as error:
        seen.append(type(error).__name__)
    conn.rollback()
    run("delete from item where name like 'copied%%'", [])
    run("select count(*) from item")
    conn.commit()


def large_objects(conn, seen):
    # The fast path: FunctionCall messages.
    large = conn.lobject(0, "wb")
    large.write(b"0123456789" * 20000)
    large.seek(10)
    oid = large.oid
    large.close()
    conn.commit()
    large = conn.lobject(oid, "rb")
    seen.append((large.read(15), large.seek(0, 2)))
    large.unlink()
    conn.commit()
    try:
        conn.lobject(oid, "rb")
    except psycopg2.Error as error:
        seen.append(error.pgcode)
    conn.rollback()


def two_phase(url, worker, seen):
    first = connect(url, worker)
    first.tpc_begin(first.xid(1, worker.marker, "branch"))
    with first.cursor() as cur:
        cur.execute("insert into item(name) values ('prepared')")
    first.tpc_prepare()
    first.close()
    other = connect(url, worker)
    prepared = [x for x in other.tpc_recover() if x.gtrid == worker.marker]
    other.rollback()
    seen.append([(x.format_id, x.bqual) for x in prepared])
    other.tpc_commit(prepared[0])
    with other, other.cursor() as cur:
        cur.execute("select name from item where name = 'prepared'")
        seen.append(cur.fetchall())
    other.close()


def notices(conn, run, seen):
    del conn.notices[:]
    run("do $$ begin raise notice 'one'; raise warning 'two'; end $$")
    conn.rollback()
    seen.append(list(conn.notices))


def cancel(conn, run, seen, worker):
    # Outside a transaction: within one pg_stat_activity doesn't change.
    direct = psycopg2.connect(urls()[1])
    direct.autocommit = True
    watch = direct.cursor()

    def sleeps():
        watch.execute(SLEEPING, [worker.marker])
        return watch.fetchone()[0] == 1

    for _ in range(3):
        sleeper = threading.Thread(target=run, args=(f"select pg_sleep(600) {worker.marker}",), daemon=True)
        sleeper.start()
        until(sleeps, "the query sleeps")
        conn.cancel()
        sleeper.join()
        run("select 'in a failed transaction'")
        conn.rollback()
        run("select 'alive'")
        conn.rollback()
    direct.close()
    # With nothing to cancel.
    conn.cancel()
    run("select 'still alive'")
    conn.commit()


if __name__ == "__main__":
    compare(check)
