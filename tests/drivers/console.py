"""The console with psycopg 3: both formats, prepared statements, blocks, and the commands that change something.

Run as `python console.py URL_OF_THE_CONSOLE DATABASE`.
"""

import sys
import threading

import psycopg
from psycopg.rows import dict_row

from common import until

url, database = sys.argv[1:3]

SHOWS = """active_sockets audit clients config databases dns_hosts dns_zones fds lists mem paused peers peer_pools pins
    pools servers sockets state stats stats_averages stats_totals totals users version""".split()


def shows(conn):
    for what in SHOWS:
        for binary in (False, True):
            for prepare in (False, True):
                cur = conn.cursor(binary=binary, row_factory=dict_row)
                rows = cur.execute(f"SHOW {what.upper()}", prepare=prepare).fetchall()
                assert cur.statusmessage == "SHOW", cur.statusmessage
                assert all(len(row) == len(cur.description) for row in rows), what
    databases = {row["name"]: row for row in conn.cursor(row_factory=dict_row).execute("show databases")}
    assert databases[database]["paused"] == 0 and databases["pgbouncer"]["pool_mode"] == "statement"
    lists = dict(conn.execute("show lists", binary=True).fetchall())
    assert lists["databases"] == 2 and lists["used_clients"] >= 1, lists
    stats = conn.cursor(row_factory=dict_row).execute("show stats").fetchall()
    assert all(int(row["total_query_count"]) >= 0 for row in stats)


def settings(conn):
    def shown(key):
        return dict(row[:2] for row in conn.execute("show config"))[key]

    assert conn.execute("set query_wait_timeout = 77").statusmessage == "SET query_wait_timeout=77"
    assert shown("query_wait_timeout") == "77"
    for command in ["set query_wait_timeout = x", "set listen_port = 1", "nonsense", "pause nowhere"]:
        try:
            conn.execute(command)
        except psycopg.errors.ProtocolViolation:
            pass
        else:
            raise AssertionError(command)
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_detail))
    assert conn.execute("reload").statusmessage == "RELOAD"
    assert notices == ["pooler.query_wait_timeout: 77 -> 120"], notices
    assert shown("query_wait_timeout") == "120"


def pauses(conn):
    with psycopg.connect(url.replace("/pgbouncer", f"/{database}"), autocommit=True) as client:
        client.execute("select 1")
        assert conn.execute(f"pause {database}").statusmessage == "PAUSE"
        got = []
        thread = threading.Thread(target=lambda: got.append(client.execute("select 'on'").fetchone()))
        thread.start()
        until(lambda: [r[2] for r in conn.execute("show paused")] == [1], "the client waits")
        assert not got
        assert conn.execute(f"resume {database}").statusmessage == "RESUME"
        thread.join()
        assert got == [("on",)], got
        with client.transaction():
            client.execute("select 1")
            try:
                conn.execute(f"pause {database} 100ms")
            except psycopg.errors.QueryCanceled as error:
                assert "The pause was undone" in error.diag.message_detail, error
            else:
                raise AssertionError("it was paused in a transaction")
            assert client.execute("select 2").fetchone() == (2,)
        for command in ("reconnect", "wait_close", "disable", "enable"):
            assert conn.execute(f"{command} {database}").statusmessage == command.upper()


def blocks():
    # Not autocommit: each command stands in a block.
    with psycopg.connect(url) as conn:
        assert conn.execute("show version").fetchone()[0].startswith("Carpool ")
        conn.commit()
        with conn.pipeline():
            cursors = [conn.execute("show state") for _ in range(3)]
        assert all(dict(cur.fetchall())["active"] == "yes" for cur in cursors)


with psycopg.connect(url, autocommit=True) as conn:
    shows(conn)
    settings(conn)
    pauses(conn)
blocks()
print("ok")
