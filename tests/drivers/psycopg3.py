"""psycopg 3, blocking: automatic preparation at once, late and with few names, pipelines, COPY, cursors, cancel."""

import datetime
import threading
import uuid

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, namedtuple_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

from common import SLEEPING, compare, until, urls

PREPARING = [{"prepare_threshold": 0}, {"prepare_threshold": 5}, {"prepare_threshold": 0, "prepared_max": 2}]


def connect(url, worker, **further):
    options = {"options": worker.options, "application_name": worker.application_name, **further}
    few = options.pop("prepared_max", None)
    conn = psycopg.connect(url, **options)
    if few is not None:
        conn.prepared_max = few
    return conn


def failure(error):
    return (type(error).__name__, error.sqlstate, str(error))


class Recorder:
    def __init__(self, conn, seen):
        self.conn = conn
        self.seen = seen

    def __call__(self, query, args=None, **further):
        try:
            cur = self.conn.execute(query, args, **further)
            self.seen.append((cur.statusmessage, cur.fetchall() if cur.description else None))
        except psycopg.Error as error:
            self.seen.append(failure(error))


def check(url, worker):
    seen = []
    with connect(url, worker, autocommit=True) as conn:
        schema(conn, worker)
    for preparing in PREPARING:
        with connect(url, worker, autocommit=True, **preparing) as conn:
            run = Recorder(conn, seen)
            settings(conn, run, seen, worker)
            repeated(conn, run, seen)
            types(conn, run, seen)
            transactions(conn, run, seen)
            pipelines(conn, seen)
            cursors(conn, run, seen)
            copy(conn, run, seen)
            cancel(conn, run, worker)
        with connect(url, worker, **preparing) as conn:
            run = Recorder(conn, seen)
            repeated(conn, run, seen)
            conn.rollback()
            two_phase(conn, run, seen, worker)
    return seen


def schema(conn, worker):
    conn.execute(sql.SQL("drop schema if exists {0} cascade").format(sql.Identifier(worker.schema)))
    conn.execute(sql.SQL("create schema {0}").format(sql.Identifier(worker.schema)))
    conn.execute("create type mood as enum ('sad', 'ok', 'happy')")
    conn.execute("create type pair as (a int, b text)")
    conn.execute("create table item(id serial primary key, name text unique, at timestamptz, m mood, p pair)")
    with conn.cursor() as cur:
        cur.executemany(
            "insert into item(name, at, m, p) values (%s, %s, %s, row(%s, %s))",
            [
                (f"{worker.schema} {i}", datetime.datetime(2024, 1, 1 + i % 28, 12), ["sad", "ok", "happy"][i % 3], i, "b")
                for i in range(100)
            ],
        )


def settings(conn, run, seen, worker):
    for name in ["TimeZone", "DateStyle", "application_name", "search_path"]:
        run(f"show {name}")
        run("select current_setting(%s)", [name])
    seen.append((str(conn.info.timezone), conn.info.parameter_status("DateStyle"), conn.info.encoding))
    when = datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.timezone.utc)
    # A literal is read when the text is prepared: all workers prepare this one, each with its own settings.
    literal = "select '2024-07-01 12:00'::timestamptz at time zone 'UTC', '01/02/03'::date - '2000-01-01'::date"
    run(literal)
    for zone in ["Australia/Sydney", "UTC", worker.time_zone]:
        run("select set_config('TimeZone', %s, false)", [zone])
        run("select %s::timestamptz::text, current_setting('TimeZone')", [when])
        run(literal, prepare=False)
    with conn.transaction():
        run("select set_config('TimeZone', 'Pacific/Auckland', true)")
        run("select %s::timestamptz::text, current_setting('TimeZone')", [when])
    run(literal)


def repeated(conn, run, seen):
    for i in range(8):
        run("select id, name, at from item where id = %s", [i])
        run("select id, name, at from item where name like %s order by id", [f"% {i}"], prepare=i % 2 == 0)
    conn.execute("select 1", prepare=False)
    with conn.cursor(binary=True) as cur:
        for i in range(7):
            seen.append(cur.execute("select %s::int8 + 1, at from item where id = 1", [i]).fetchone())
    # The same name on an error: it is not prepared.
    for _ in range(3):
        run("select * from no_such_table where id = %s", [1])
        if not conn.autocommit:
            conn.rollback()
        run("select 10 / %s", [0])
        if not conn.autocommit:
            conn.rollback()


def types(conn, run, seen):
    for value in [None, 5, 2**40, 1.5, "\u20ac'\\", b"\0\1", uuid.UUID(int=7), [1, 2], ["a", None], Jsonb({"a": 1})]:
        run("select %s", [value])
        run("select %b", [value])
    register_enum(EnumInfo.fetch(conn, "mood"), conn)
    register_composite(CompositeInfo.fetch(conn, "pair"), conn)
    for i in range(7):
        row = conn.execute("select m, p, (p).a from item where id = %s", [i + 1]).fetchone()
        seen.append((row[0].name, tuple(row[1]), row[2]))
    with conn.cursor(row_factory=dict_row) as cur:
        seen.append(cur.execute("select id, m::text from item order by id limit 3").fetchall())
    with conn.cursor(row_factory=namedtuple_row) as cur:
        seen.append([tuple(r) for r in cur.stream("select id, name from item order by id")])
    run("select %s", ["x" * 300000])
    run("select 1; select 2")


def transactions(conn, run, seen):
    with conn.transaction():
        run("insert into item(name) values (%s)", ["outer"])
        try:
            with conn.transaction():
                conn.execute("insert into item(name) values (%s)", ["inner"])
                conn.execute("insert into item(name) values (%s)", ["inner"])
        except psycopg.errors.UniqueViolation as error:
            seen.append(failure(error))
        with conn.transaction():
            run("insert into item(name) values (%s)", ["second"])
    run("select name from item where name in ('outer', 'inner', 'second') order by name")
    with conn.transaction(force_rollback=True):
        run("delete from item")
    run("delete from item where name in ('outer', 'second')")
    run("select count(*) from item")
    for _ in range(3):
        try:
            with conn.transaction():
                conn.execute("select %s / 0", [1])
        except psycopg.Error as error:
            seen.append(failure(error))
    seen.append(conn.info.transaction_status)


def pipelines(conn, seen):
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("select name, %s::int from item where id = %s", [i, i]) for i in range(60)]
        pipeline.sync()
        cursors += [conn.execute("select count(*), %s::text from item", [str(i)]) for i in range(5)]
    seen.append([c.fetchall() for c in cursors])
    with conn.pipeline(), conn.transaction():
        cur = conn.cursor()
        cur.executemany("insert into item(name) values (%s) returning name", [[f"p{i}"] for i in range(20)], returning=True)
    seen.append(conn.execute("select count(*) from item where name ~ '^p[0-9]+$'").fetchone())
    # An error: what stands behind it up to the next Sync is not run.
    for query in ["select 1 / %s", "select * from missing where 0 = %s", "insert into item(name) values ('p1' || %s)"]:
        results = []
        try:
            with conn.pipeline() as pipeline:
                before = conn.execute("select %s::int", [1])
                conn.execute(query, ["" if "insert" in query else 0])
                after = conn.execute("select %s::int", [2])
                pipeline.sync()
                results.append(before.fetchall())
                results.append(after.fetchall())
        except psycopg.Error as error:
            seen.append(failure(error))
        seen.append(results)
    seen.append(conn.execute("delete from item where name ~ '^p[0-9]+$'").rowcount)


def cursors(conn, run, seen):
    with conn.transaction():
        with conn.cursor("c1") as one, conn.cursor("c2", scrollable=True) as two:
            one.itersize = 9
            one.execute("select id, at from item where id < %s order by id", [50])
            two.execute("select id from item order by id desc")
            seen.append([(row, two.fetchone()) for row in one])
            two.scroll(3, mode="absolute")
            seen.append(two.fetchmany(2))
    try:
        with conn.transaction(), conn.cursor("c1") as one:
            one.execute("select 1 / (20 - id) from item order by id")
            seen.append(one.fetchmany(5))
            one.fetchall()
    except psycopg.Error as error:
        seen.append(failure(error))
    run("select 'fine'")


def copy(conn, run, seen):
    with conn.cursor() as cur:
        with cur.copy("copy item(name, at) from stdin") as data:
            for i in range(3000):
                data.write_row((f"copied {i}", datetime.datetime(2024, 5, 5, 12)))
        seen.append(cur.rowcount)
        with cur.copy("copy item(id, name) from stdin (format binary)") as data:
            data.set_types(["int4", "text"])
            for i in range(500):
                data.write_row((100000 + i, f"copied in binary {i}"))
        with cur.copy("copy (select name, at from item where name like %s order by name) to stdout", ["copied%"]) as data:
            seen.append([bytes(block) for block in data])
        for bad in [lambda c: c.write("x\ty\tz\n"), lambda c: c.write_row(("copied 1", None)), lambda c: 1 / 0]:
            try:
                with cur.copy("copy item(name, at) from stdin") as data:
                    data.write_row(("copied good", None))
                    bad(data)
            except (psycopg.Error, ZeroDivisionError) as error:
                seen.append(str(error))
        try:
            with cur.copy("copy (select 1 / (50 - id) from item order by id) to stdout") as data:
                seen.append(b"".join(data))
        except psycopg.Error as error:
            seen.append(failure(error))
    run("delete from item where name like 'copied%'")
    run("select count(*) from item")


def cancel(conn, run, worker):
    with psycopg.connect(urls()[1], autocommit=True) as direct:

        def sleeps():
            return direct.execute(SLEEPING, [worker.marker]).fetchone()[0] == 1

        for how in [conn.cancel, lambda: conn.cancel_safe(timeout=20)]:
            sleeper = threading.Thread(target=run, args=(f"select pg_sleep(600) {worker.marker}",), daemon=True)
            sleeper.start()
            until(sleeps, "the query sleeps")
            how()
            sleeper.join()
            run("select %s::text", ["alive"])


def two_phase(conn, run, seen, worker):
    conn.tpc_begin(conn.xid(2, worker.marker, "b"))
    conn.execute("insert into item(name) values ('prepared')")
    conn.tpc_prepare()
    conn.tpc_rollback()
    run("select count(*) from item where name = 'prepared'")
    conn.rollback()
    seen.append([x.gtrid for x in conn.tpc_recover() if x.gtrid == worker.marker])
    conn.rollback()


if __name__ == "__main__":
    compare(check)
