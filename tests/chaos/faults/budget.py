"""Three Carpools, each in a network of its own, that share one budget of server connections."""

import asyncio
import signal
import time
from collections import Counter

from faults.network import NOTICING, Namespace
from stage import fault
from system import progress
from wire import Client, Lost, ServerError, query
from world import Carpool, Console, until

SIZE, MEMBERS, CLIENTS = 6, 3, 6
PORT = 6432
SESSIONS = ("select count(*) from pg_stat_activity where usename = 'driver' and datname = 'shared' "
            "and backend_type = 'client backend'")
# A member is given up after 15 seconds of silence, and looks again at most some seconds later.
LONG = 40
# Of a client whose server or Carpool went away; 53300: it has waited too long, 57014: it was cancelled.
EXPECTED = {"57P01", "57P02", "08006", "53300", "none"}


def networks(stage):
    stage.networks = [Namespace(stage, f"app{number}", 10 + number) for number in range(MEMBERS)]
    return {}


class Member:
    """One Carpool, its network, and clients that ask all the time."""

    def __init__(self, stage, number):
        self.stage, self.number, self.network = stage, number, stage.networks[number]
        self.where = (self.network.host, PORT)
        self.answered, self.errors, self.wrong = 0, Counter(), []
        self.carpool, self.tasks = None, []

    async def start(self):
        home = self.stage.home / f"member{self.number}"
        home.mkdir(exist_ok=True)
        peers = "".join(f"[peers.{number + 1}]\nhost = \"{network.host}\"\nport = {PORT}\n"
                        for number, network in enumerate(self.stage.networks))
        pooler = NOTICING | {"listen_addr": '["0.0.0.0"]', "listen_port": str(PORT), "peer_id": str(self.number + 1)}
        database = f'dbname = "shared"\npool_size = {SIZE}\nshared_pool_size = {SIZE}\nshared_pool_user = "postgres"'
        server = (self.network.gateway, self.stage.postgres.port)
        self.carpool = await Carpool(self.stage.options.carpool, home, server, pooler, prefix=self.network.prefix,
                                     database=database, sections=f"[users.driver]\n{peers}").started()

    def load(self):
        self.tasks = [asyncio.create_task(self._ask(number)) for number in range(CLIENTS)]

    async def _ask(self, number):
        turn = 0
        while True:
            try:
                client = await Client.connect(self.where, "bank", "driver")
                while True:
                    turn += 1
                    asked = f"{self.number} {number} {turn}"
                    got = await client.value(f"select '{asked}' from pg_sleep(0.01)")
                    if got != asked:
                        self.wrong.append(f"{got} in place of {asked}")
                    self.answered += 1
            except (ServerError, Lost) as error:
                self.errors[error.code] += 1
                await asyncio.sleep(0.05)

    async def goes_on(self):
        before = self.answered

        async def more():
            return self.answered > before + CLIENTS
        await until(f"member {self.number} goes on", more, LONG)

    async def held(self):
        """What each holds, as it says: by whether it is itself."""
        console = await Console.connect(self.where, "pgbouncer", "postgres")
        try:
            rows = await console.table("show budget")
        finally:
            console.close()
        return {own: sum(int(row["held"]) for row in rows if row["own"] == own) for own in ("yes", "no")}

    async def holds(self, count):
        async def so_many():
            return (await self.held())["yes"] == count
        begun = time.monotonic()
        await until(f"member {self.number} has {count}", so_many, LONG)
        return time.monotonic() - begun

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.carpool.stop()


async def inspect(stage, found):
    """Looks all the time how many sessions there are."""
    client = await stage.postgres.direct("postgres")
    while True:
        found[int(await client.value(SESSIONS))] += 1


async def cancel_by_peer(stage, members):
    """A query on one Carpool is cancelled by a request to another one."""
    client = await Client.connect(members[0].where, "bank", "driver")
    client.send(query("select pg_sleep(600)"))
    active = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'"

    async def runs():
        return (await stage.postgres.sql(active, "postgres"))[0][0] == "1"
    await until("the query runs", runs)
    _reader, writer = await asyncio.open_connection(*members[1].where)
    writer.write((8 + len(client.key)).to_bytes(4, "big") + (80877102).to_bytes(4, "big") + client.key)
    code = "none"
    try:
        await client.replies()
    except ServerError as error:
        code = error.code
    writer.close()
    client.close()
    stage.check("a cancel request that came to another Carpool was passed on", code == "57014", code)


@fault("budget", "three Carpools share one budget, one is cut off, one killed, one frozen", place=networks)
async def budget(stage):
    await stage.postgres.sql("create role driver login;\ncreate database shared", "postgres")
    members = [Member(stage, number) for number in range(MEMBERS)]
    for member in members:
        member.network.reach_others()
        await member.start()
    found, times = Counter(), {}
    inspector = asyncio.create_task(inspect(stage, found))
    try:
        for member in members:
            member.load()
        await asyncio.gather(*(member.holds(SIZE // MEMBERS) for member in members))
        await cancel_by_peer(stage, members)

        members[2].network.cut()
        times["cut off"] = max(await asyncio.gather(*(member.holds(SIZE // 2) for member in members[:2])))
        members[2].network.heal()
        times["back"] = max(await asyncio.gather(*(member.holds(SIZE // MEMBERS) for member in members)))
        await members[2].goes_on()

        members[1].carpool.process.kill()
        members[1].carpool.process.wait()
        others = (members[0], members[2])
        times["killed"] = max(await asyncio.gather(*(member.holds(SIZE // 2) for member in others)))
        await members[1].start()
        times["started"] = max(await asyncio.gather(*(member.holds(SIZE // MEMBERS) for member in members)))

        members[0].carpool.process.send_signal(signal.SIGSTOP)
        times["frozen"] = max(await asyncio.gather(*(member.holds(SIZE // 2) for member in members[1:])))
        members[0].carpool.process.send_signal(signal.SIGCONT)
        times["woken"] = max(await asyncio.gather(*(member.holds(SIZE // MEMBERS) for member in members)))
        await asyncio.gather(*(member.goes_on() for member in members))
    finally:
        inspector.cancel()
        for member in members:
            await member.end()
    stage.check("never more than the budget", max(found) <= SIZE, dict(found))
    stage.check("it was looked at all the time", found.total() > 1000, found.total())
    stage.check("all of it was used", found[SIZE] > found.total() / 2, dict(found))
    stage.check("no answer was somebody else's", not any(member.wrong for member in members), members[0].wrong[:3])
    codes = set().union(*(member.errors for member in members))
    stage.check("only errors of servers and Carpools that went away", codes <= EXPECTED, codes)
    progress(f"  {found.total()} looks, {max(found)} sessions at most; new parts after: "
             + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in times.items()))
    await stage.cause_ended()
