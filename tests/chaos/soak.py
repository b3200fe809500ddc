"""Hours of mixed load with faults in between, on one Carpool: what it takes must not grow, and nothing must get lost.

Beside the bank there are visitors: sessions that come, do what pooling finds hard (settings, prepared statements, LISTEN,
temporary tables, advisory locks, cancels), check what they get, and go, some without a word. Every second it is noted what
Carpool takes; the notes go to a CSV file and a picture.
"""

import asyncio
import csv
import random
import statistics
import time
from collections import Counter
from dataclasses import astuple, dataclass, fields

from stage import FAULTS, Fault
from system import progress
from wire import SYNC, Client, Lost, ServerError, Stuck, extended, query

# Faults that a stage can take one after the other.
ACTS = ("kill", "crash", "restart", "terminate", "frozen", "killed-clients", "never-reading")
VISITORS = 12
IDLE = 500
# Without a fault, seconds.
CALM = (5, 20)
# How much more Carpool may take at the end than in the beginning: allocators don't give everything back.
GROWTH, SLACK = 1.05, 2.0  # and in MB


@dataclass
class Note:
    """A second of it."""

    seconds: float
    memory_mb: float
    descriptors: int
    committed: int
    errors: int
    visits: int
    faults: int


class Soak:
    """The load beside the bank's, and the notes."""

    def __init__(self, stage, seconds):
        self.stage, self.until = stage, time.monotonic() + seconds
        self.begun, self.random = time.monotonic(), random.Random(stage.options.seed)
        self.notes, self.visits, self.faults = [], Counter(), Counter()
        self.wrong = []
        self.calm = asyncio.Event()
        self.calm.set()

    def is_over(self):
        return time.monotonic() > self.until

    async def notice(self):
        while True:
            carpool, bank = self.stage.carpool, self.stage.bank
            self.notes.append(Note(time.monotonic() - self.begun, carpool.memory(), carpool.descriptors(),
                                   bank.committed_by.total(), bank.errors.total(), self.visits.total(), self.faults.total()))
            await asyncio.sleep(1)

    async def visit(self, number):
        """One visitor after the other."""
        while not self.is_over():
            what = self.random.choice(VISITS)
            try:
                client = await Client.connect(self.stage.carpool.port, "bank")
                try:
                    await what(self, client, number)
                    self.visits[what.__name__] += 1
                finally:
                    client.close()
            except Stuck as error:
                self.wrong.append(f"{what.__name__} is stuck: {error}")
            except (ServerError, Lost):
                # Faults have them end early; what they were told as done is checked by themselves.
                await asyncio.sleep(0.1)
            await asyncio.sleep(self.random.random() * 0.2)

    def expect(self, got, want):
        if got != want:
            self.wrong.append(f"{got} in place of {want}")

    async def stay(self):
        """Clients that say nothing, but for a query now and then; those whose connection is lost come again."""
        clients = {}
        while not self.is_over():
            for number in range(IDLE):
                try:
                    client = clients.get(number)
                    if client is None:
                        clients[number] = client = await Client.connect(self.stage.carpool.port, "bank")
                    if self.random.random() < 0.02:
                        self.expect(await client.value(f"select 'idle {number}'"), f"idle {number}")
                except (ServerError, Lost):
                    clients.pop(number, None)
                except Stuck as error:
                    self.wrong.append(f"an idle client is stuck: {error}")
                    clients.pop(number, None)
            await asyncio.sleep(1)
        for client in clients.values():
            client.close()


async def settings(soak, client, number):
    name = f"visitor {number} {soak.random.random()}"
    await client.run(f"set application_name = '{name}'")
    await client.run(f"set work_mem = '{1000 + number}kB'")
    await asyncio.sleep(soak.random.random() * 0.1)
    soak.expect(await client.value("select current_setting('application_name') || current_setting('work_mem')"),
                f"{name}{1000 + number}kB")


async def statements(soak, client, number):
    """Prepared, with texts of their own in part: servers must forget some."""
    text = f"select $1::text || '{soak.random.randrange(400)}'"
    for turn in range(3):
        client.send(extended(text, (f"{number} {turn} ",), name=b"" if turn else b"s") + SYNC)
        got = (await client.replies())[0][0][0]
        soak.expect(got.startswith(f"{number} {turn} "), True)


async def listening(soak, client, number):
    await client.run(f"listen visitor_{number}")
    await client.run(f"notify visitor_{number}, 'x'")
    await client.run("unlisten *")


async def temporary(soak, client, number):
    await client.run("create temp table mine (a int)")
    await client.run(f"insert into mine values ({number})")
    soak.expect(await client.value("select sum(a) from mine"), str(number))


async def locking(soak, client, number):
    soak.expect(await client.value(f"select pg_try_advisory_lock({number + 1000})"), "t")
    soak.expect(await client.value(f"select pg_advisory_unlock({number + 1000})"), "t")


async def cancelled(soak, client, _number):
    """Asks again until it is done: a request that comes before the query, as it may after a pause, cancels nothing."""
    client.send(query("select pg_sleep(60)"))
    answer = asyncio.create_task(client.replies())
    pause = 0.05
    while not (await asyncio.wait([answer], timeout=pause))[0]:
        pause = 1
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", soak.stage.carpool.port)
        except OSError as error:
            answer.cancel()
            raise Lost(None, error) from error
        writer.write((8 + len(client.key)).to_bytes(4, "big") + (80877102).to_bytes(4, "big") + client.key)
        writer.close()
    try:
        answer.result()
    except ServerError as error:
        soak.expect(error.code in ("57014", "57P01", "57P02", "08006"), True)


async def rude(_soak, client, _number):
    """Goes in the middle of a transaction."""
    await client.run("begin")
    client.send(query("select pg_sleep(0.1)"))


VISITS = (settings, statements, listening, temporary, locking, cancelled, rude)


async def act(stage):
    """The soak, as a fault."""
    soak = stage.soak = Soak(stage, stage.options.soak)
    others = [soak.notice(), soak.stay(), *(soak.visit(number) for number in range(VISITORS))]
    tasks = [asyncio.create_task(other) for other in others]
    try:
        while not soak.is_over():
            await asyncio.sleep(min(soak.random.uniform(*CALM), max(0.0, soak.until - time.monotonic())))
            if soak.is_over():
                break
            name = soak.random.choice(ACTS)
            await FAULTS[name].act(stage)
            soak.faults[name] += 1
            left = max(0.0, soak.until - time.monotonic()) / 60
            note = soak.notes[-1]
            progress(f"  {name}: {note.memory_mb:.1f} MB, {note.descriptors} descriptors, {note.committed} transfers, "
                     f"{left:.0f} min left")
        await asyncio.gather(*tasks[1:])
    finally:
        for task in tasks:
            task.cancel()
    report(stage, soak)


def report(stage, soak):
    notes, keep = soak.notes, stage.options.keep
    with open(keep / "soak.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(field.name for field in fields(Note))
        table.writerows(astuple(note) for note in notes)
    (keep / "soak.svg").write_text(picture(notes), encoding="utf-8")
    fifth = max(1, len(notes) // 5)

    def of(name, part):
        return statistics.median(getattr(note, name) for note in part)
    early, late = notes[fifth:2 * fifth] or notes, notes[-fifth:]
    memory, descriptors = (of("memory_mb", early), of("memory_mb", late)), (of("descriptors", early), of("descriptors", late))
    stage.check("memory is flat", memory[1] <= memory[0] * GROWTH + SLACK, f"{memory[0]:.1f} MB, then {memory[1]:.1f}")
    stage.check("descriptors are, too", descriptors[1] <= descriptors[0] + 16, f"{descriptors[0]}, then {descriptors[1]}")
    stage.check("no answer was somebody else's", not soak.wrong, "; ".join(soak.wrong[:5]))
    stage.check("visitors of each kind were served", set(soak.visits) == {what.__name__ for what in VISITS}, dict(soak.visits))
    progress(f"  faults: {dict(soak.faults)}; visits: {dict(soak.visits)}; memory {memory[0]:.1f} then {memory[1]:.1f} MB, "
             f"descriptors {descriptors[0]:g} then {descriptors[1]:g}; {keep}/soak.csv, soak.svg")


def picture(notes):
    """Memory, descriptors and the pace of transfers over time, as SVG."""
    width, height, gap = 900, 130, 46
    end = max(notes[-1].seconds, 1)
    pace = [0.0, *(max(0, b.committed - a.committed) / max(b.seconds - a.seconds, 0.1) for a, b in zip(notes, notes[1:]))]
    series = [("resident memory, MB", [note.memory_mb for note in notes]),
              ("descriptors", [note.descriptors for note in notes]), ("transfers per second", pace)]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 90} {len(series) * (height + gap) + 30}" '
             'font-family="sans-serif" font-size="12">']
    for number, (title, values) in enumerate(series):
        top, most = number * (height + gap) + 26, max(*values, 1) * 1.05
        points = " ".join(f"{60 + note.seconds / end * width:.1f},{top + height * (1 - value / most):.1f}"
                          for note, value in zip(notes, values))
        parts += [f'<text x="60" y="{top - 8}">{title}</text>',
                  f'<rect x="60" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>',
                  f'<text x="54" y="{top + 10}" text-anchor="end">{most:.0f}</text>',
                  f'<text x="54" y="{top + height}" text-anchor="end">0</text>',
                  f'<polyline points="{points}" fill="none" stroke="#1f6feb"/>']
    parts.append(f'<text x="{60 + width}" y="{len(series) * (height + gap) + 20}" text-anchor="end">{end / 60:.0f} min</text></svg>')
    return "\n".join(parts)


SOAK = Fault("soak", "hours of mixed load, with faults in between", act, conf="autovacuum = on",
             pooler={"max_client_conn": "2000"})
