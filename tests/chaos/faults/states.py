"""PostgreSQL is there, and refuses something."""

import asyncio
import signal
import subprocess

from stage import Skipped, fault
from system import is_root, run
from wire import Client, Lost
from world import POOL_SIZE, until


@fault("too-many", "PostgreSQL is out of connections (53300) while Carpool's servers are ended",
       conf="max_connections = 16\nsuperuser_reserved_connections = 3\nmax_wal_senders = 0")
async def too_many(stage):
    direct = await stage.postgres.direct("postgres")
    hogs, hogging = [], True

    async def hog():
        while hogging:
            try:
                hogs.append(await Client.connect(stage.postgres.socket, "bank"))
            except Lost:
                await asyncio.sleep(0.001)
    crowd = [asyncio.create_task(hog()) for _ in range(8)]

    async def most_are_taken():
        # Those of sessions that came by way of the socket are the hogs'.
        rows, _ = await direct.run("select pg_terminate_backend(pid) from pg_stat_activity "
                                   "where usename = 'app' and client_addr is not null")
        return len(rows) <= POOL_SIZE / 2
    await until("most connections are taken", most_are_taken)
    await asyncio.sleep(stage.seconds)
    hogging = False
    await asyncio.gather(*crowd)
    refused = "connection slots" in stage.carpool.log.read_text()
    for client in hogs:
        client.close()
    direct.close()
    await stage.cause_ended()
    stage.check("logins were refused", refused)


@fault("starting", "a standby that accepts nobody (57P03) in PostgreSQL's place")
async def starting(stage):
    signal_file, conf = stage.postgres.data / "standby.signal", stage.postgres.data / "postgresql.auto.conf"
    await stage.postgres.stop(signal.SIGINT)
    before = conf.read_text()
    conf.write_text(before + "hot_standby = off\n")
    signal_file.touch()
    stage.postgres.launch()
    # Between the two what listens refuses with the same code.
    await asyncio.sleep(stage.seconds)
    refused = None
    try:
        (await stage.postgres.direct()).close()
    except Lost as error:
        refused = error.code
    await stage.postgres.stop(signal.SIGQUIT)
    signal_file.unlink()
    conf.write_text(before)
    await stage.postgres.start()
    await stage.cause_ended()
    stage.check("it refused with 57P03", refused == "57P03", refused)


@fault("read-only", "PostgreSQL takes no writes (25006)")
async def read_only(stage):
    await stage.postgres.sql("alter system set default_transaction_read_only = on;\nselect pg_reload_conf()", "postgres")
    await asyncio.sleep(stage.seconds)
    await stage.postgres.sql("set default_transaction_read_only = off;\nalter system reset default_transaction_read_only"
                             ";\nselect pg_reload_conf()", "postgres")
    await stage.cause_ended()
    stage.check("writes failed", stage.bank.errors["25006"] > 0)
    stage.check("nothing else did", set(stage.bank.errors) == {"25006"}, dict(stage.bank.errors))


def small_disk(stage):
    """Where the ledger is to be."""
    if not is_root():
        raise Skipped("a small disk can only be mounted by root")
    disk = stage.home / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=777", "tmpfs", disk], capture_output=True,
                             text=True, check=False)
    if mounted.returncode:
        raise Skipped(f"no small disk can be mounted: {mounted.stderr.strip()}")
    stage.afterwards.append(["umount", "-l", disk])
    space = disk / "space"
    space.mkdir()
    run(["chown", "nobody", space])
    return {}


@fault("disk-full", "the disk that the ledger is on is full (53100)", place=small_disk)
async def disk_full(stage):
    disk = stage.home / "disk"
    await stage.postgres.sql(f"create tablespace small location '{disk}/space'", "postgres")
    await stage.postgres.sql("alter table ledger set tablespace small")
    filler = disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k", "status=none"], stderr=subprocess.DEVNULL, check=False)

    # What the table has of room in its last page is to be used up first.
    async def is_noticed():
        return stage.bank.errors["53100"]
    await until("the disk is full", is_noticed)
    await asyncio.sleep(stage.seconds)
    filler.unlink()
    await stage.cause_ended()
    stage.check("nothing else failed", set(stage.bank.errors) == {"53100"}, dict(stage.bank.errors))
