"""The load: tellers who move money between accounts, and the books of what they were told.

Each transfer has a number, which is a row in the ledger. The total never changes; what was told as committed is in the
ledger, once; what failed before it could be committed isn't; of what was under way when a connection was lost, nobody
knows, but it is there as a whole or not at all."""

import asyncio
import itertools
import random
from collections import Counter

from drivers import Asyncpg, Driver, Psycopg
from wire import SYNC, Client, Lost, ServerError, Stuck, extended, query

ACCOUNTS = 50
BALANCE = 1000

SCHEMA = f"""
create table accounts (id int primary key, balance bigint not null);
insert into accounts select n, {BALANCE} from generate_series(1, {ACCOUNTS}) n;
create table ledger (id bigint primary key, source int not null, target int not null, amount int not null);
grant select, insert, update on accounts, ledger to app
"""

# Tellers take turns in how they work.
KINDS = (Client, Client, Client, Asyncpg, Psycopg)
# The errors after which a request may have been done all the same.
DOUBTFUL = ("08", "57P01", "57P02", "57P05", "58", "XX", "(")
PAUSE = 0.02


class Bank:
    """The books."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.told = {}
        self.errors = Counter()
        self.texts = {}
        self.wrong = []
        self.committed_by = Counter()
        self.stopping = asyncio.Event()
        self.tellers = []

    def open(self, where, count, first=0):
        self.tellers += [asyncio.create_task(self._work(where, first + n)) for n in range(count)]

    async def close(self):
        """Lets the tellers end what they are at."""
        self.stopping.set()
        for teller in asyncio.as_completed(self.tellers):
            await teller

    def note(self, error):
        self.errors[error.code] += 1
        self.texts.setdefault(error.code, (error.message.splitlines() or [""])[0])

    async def _work(self, where, number):
        client = None
        while not self.stopping.is_set():
            try:
                client = client or await KINDS[number % len(KINDS)].connect(where, "bank")
                await self._transfer(client, number)
                self.committed_by[number] += 1
                continue
            except ServerError as error:
                self.note(error)
                if client.status != "I":
                    client = await self._roll_back(client)
            except Lost as error:
                self.note(error)
                client = None
            except Stuck as error:
                self.wrong.append(f"teller {number} is stuck: {error}")
                client = None
            except Exception as error:  # noqa: BLE001 a driver's, of which nothing is known
                self.wrong.append(f"teller {number}: {error!r}")
                client = None
            await asyncio.sleep(PAUSE)
        if client:
            client.close()

    async def _roll_back(self, client):
        try:
            await client.run("rollback")
            return client
        except (ServerError, Lost, Stuck) as error:
            if isinstance(error, Stuck):
                self.wrong.append(f"stuck in a rollback: {error}")
            else:
                self.note(error)
            client.close()
            return None

    async def _transfer(self, client, teller):
        number = next(self.numbers)
        source, target = self.random.sample(range(1, ACCOUNTS + 1), 2)
        transfer = (number, source, target, self.random.randint(1, 20))
        # Nothing that could commit it has been sent yet.
        self.told[number] = "failed"
        try:
            if isinstance(client, Driver):
                await client.transfer(self, *transfer)
            else:
                way = (self._step_by_step, self._pipelined, self._at_once)[teller % len(KINDS)]
                await way(client, *transfer)
        except ServerError as error:
            if error.code == "23505":
                self.wrong.append(f"transfer {number} was run twice")
            if self.told[number] == "unknown" and not error.code.startswith(DOUBTFUL):
                self.told[number] = "failed"
            raise
        self.told[number] = "committed"

    def _moves(self, source, target, amount):
        """In the order of accounts, so that there are no deadlocks."""
        moves = sorted([(source, -amount), (target, amount)])
        return [f"update accounts set balance = balance + {by} where id = {account}" for account, by in moves]

    def expect(self, got, want):
        if got != want:
            self.wrong.append(f"an answer is somebody else's: {got} for {want}")

    async def _step_by_step(self, client, number, source, target, amount):
        await client.run("begin")
        for move in self._moves(source, target, amount):
            self.expect((await client.run(move))[1], ["UPDATE 1"])
        entry = f"insert into ledger values ({number}, {source}, {target}, {amount}) returning id"
        self.expect((await client.run(entry))[0], [[str(number)]])
        self.told[number] = "unknown"
        self.expect((await client.run("commit"))[1], ["COMMIT"])

    async def _pipelined(self, client, number, source, target, amount):
        parts = [extended(move) for move in self._moves(source, target, amount)]
        entry = "insert into ledger values ($1, $2, $3, $4) returning id"
        self.told[number] = "unknown"
        client.send(b"".join(parts) + extended(entry, (number, source, target, amount)) + SYNC)
        self.expect((await client.replies())[0], [[str(number)]])

    async def _at_once(self, client, number, source, target, amount):
        self.told[number] = "unknown"
        client.send(query(
            f"with moved as (update accounts set balance = balance + case id when {source} then -{amount} else {amount} "
            f"end where id in (select id from accounts where id in ({source}, {target}) order by id for update)) "
            f"insert into ledger values ({number}, {source}, {target}, {amount}) returning id"))
        self.expect((await client.replies())[0], [[str(number)]])

    async def check(self, direct):
        """Compares PostgreSQL's books with what was told."""
        there = {int(row[0]) for row in (await direct.run("select id from ledger"))[0]}
        told = {word: {number for number, outcome in self.told.items() if outcome == word}
                for word in ("committed", "failed", "unknown")}
        total = int(await direct.value("select sum(balance) from accounts"))
        differing = await direct.value(
            f"select count(*) from accounts a where balance <> {BALANCE} "
            "+ coalesce((select sum(amount) from ledger where target = a.id), 0) "
            "- coalesce((select sum(amount) from ledger where source = a.id), 0)")
        counts = ", ".join(f"{len(numbers)} {word}" for word, numbers in told.items())
        done = len(told["unknown"] & there)
        yield "the total", total == ACCOUNTS * BALANCE, total
        yield "balances are the ledger's", differing == "0", f"{differing} differ"
        yield "committed is in the ledger", told["committed"] <= there, sorted(told["committed"] - there)[:5]
        yield "failed isn't", not told["failed"] & there, sorted(told["failed"] & there)[:5]
        yield "nothing else is", there <= told["committed"] | told["unknown"], f"{counts}, of these {done} done"
        yield "no answer wrong or missing", not self.wrong, "; ".join(self.wrong[:5])
        self.summary = f"{counts}, of these {done} done"
