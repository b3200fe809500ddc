"""Tellers who use drivers: the same to the bank as one that speaks the protocol itself."""

import asyncio
import logging
import sys
from contextlib import contextmanager

import asyncpg

from system import ROOT
from wire import PATIENCE, Lost, ServerError, Stuck

sys.path.append(str(ROOT / ".venv/psycopg3"))

import psycopg  # noqa: E402

# It tells of what it does about errors that it has raised.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

LEDGER = "insert into ledger values ($1, $2, $3, $4) returning id"


class Driver:
    """What both have in common."""

    def __init__(self, connection):
        self.connection = connection

    @classmethod
    async def connect(cls, where, database):
        client = cls(None)
        with client.translated():
            client.connection = await cls.open("127.0.0.1", where, database)
        return client

    @contextmanager
    def translated(self):
        """The driver's exceptions become the bank's. What the driver itself says of a lost connection is no SQLSTATE of
        anybody's: it goes by the driver's name."""
        try:
            yield
        except self.ERROR as error:
            code = getattr(error, "sqlstate", None)
            if code is None or isinstance(error, self.OWN):
                code = f"({self.NAME})"
            failed = ServerError({"C": code, "M": str(error)})
            if self.connection is None or self.is_closed() or isinstance(error, self.OWN):
                raise Lost(failed, self.NAME) from error
            raise failed from error
        except TimeoutError as error:
            raise Stuck(f"{self.NAME}: no answer within {PATIENCE} s") from error
        except OSError as error:
            raise Lost(ServerError({"C": f"({self.NAME})", "M": str(error)}), self.NAME) from error

    async def run(self, sql):
        with self.translated():
            async with asyncio.timeout(PATIENCE):
                await self.connection.execute(sql)

    async def transfer(self, bank, number, source, target, amount):
        with self.translated():
            async with asyncio.timeout(PATIENCE):
                await self.steps(bank, number, source, target, amount)


class Asyncpg(Driver):
    """asyncpg: prepared statements throughout, and BEGIN and COMMIT as queries."""

    NAME = "asyncpg"
    # The last is what it says between the server's last words and the end of the connection.
    ERROR = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    OWN = (asyncpg.ConnectionDoesNotExistError, asyncpg.InternalClientError)

    @staticmethod
    async def open(host, port, database):
        return await asyncpg.connect(host=host, port=port, user="app", database=database, ssl=False, timeout=PATIENCE)

    async def steps(self, bank, number, source, target, amount):
        # It commits as the block ends, and else rolls back.
        async with self.connection.transaction():
            for account, by in sorted([(source, -amount), (target, amount)]):
                await self.connection.execute("update accounts set balance = balance + $2 where id = $1", account, by)
            bank.expect(await self.connection.fetchval(LEDGER, number, source, target, amount), number)
            bank.told[number] = "unknown"

    def is_closed(self):
        return self.connection.is_closed()

    @property
    def status(self):
        return "T" if self.connection.is_in_transaction() else "I"

    def close(self):
        self.connection.terminate()


class Psycopg(Driver):
    """psycopg 3, that is libpq: a pipeline, and statements that are prepared when they have been used a few times."""

    NAME, ERROR, OWN = "psycopg", psycopg.Error, ()

    @staticmethod
    async def open(host, port, database):
        return await psycopg.AsyncConnection.connect(
            host=host, port=port, user="app", dbname=database, sslmode="disable", gssencmode="disable",
            connect_timeout=PATIENCE, autocommit=True)

    async def steps(self, bank, number, source, target, amount):
        bank.told[number] = "unknown"
        async with self.connection.pipeline(), self.connection.transaction():
            for account, by in sorted([(source, -amount), (target, amount)]):
                await self.connection.execute("update accounts set balance = balance + %s where id = %s", (by, account))
            cursor = await self.connection.execute(
                "insert into ledger values (%s, %s, %s, %s) returning id", (number, source, target, amount))
            bank.expect((await cursor.fetchone())[0], number)

    def is_closed(self):
        return self.connection.closed

    @property
    def status(self):
        return "I" if self.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE else "T"

    def close(self):
        self.connection.pgconn.finish()
