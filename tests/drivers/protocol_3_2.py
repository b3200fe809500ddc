"""libpq 18 with protocol 3.2, whose cancel keys are longer; a server that has only 3.0 negotiates down."""

import threading

import psycopg

from common import SLEEPING, until, urls


def connect(url, version):
    return psycopg.connect(url, autocommit=True, prepare_threshold=0, max_protocol_version=version)


def main():
    url, direct = urls()
    watch = connect(direct, "3.0")
    for version, number in [("3.0", 30000), ("3.2", 30002)]:
        with connect(url, version) as conn, connect(url, version) as other:
            assert conn.pgconn.full_protocol_version == number, conn.pgconn.full_protocol_version
            marker = f"/* protocol {version} */"
            errors = []

            def sleep():
                try:
                    conn.execute(f"select pg_sleep(600) {marker}")
                except psycopg.Error as error:
                    errors.append(error.sqlstate)

            for cancel in [conn.cancel, conn.cancel_safe]:
                sleeper = threading.Thread(target=sleep, daemon=True)
                sleeper.start()
                until(lambda: watch.execute(SLEEPING, [marker]).fetchone()[0] == 1, "the query sleeps")
                # Another's key cancels nothing here.
                other.cancel()
                assert other.execute("select %s::int", [7]).fetchone() == (7,)
                assert watch.execute(SLEEPING, [marker]).fetchone()[0] == 1
                cancel()
                sleeper.join()
                assert errors.pop() == "57014"
                assert conn.execute("select %s::int", [8]).fetchone() == (8,)
    watch.close()
    print("both protocols")


if __name__ == "__main__":
    main()
