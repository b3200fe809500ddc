"""Django's ORM with psycopg2 or psycopg 3 (third argument): migrations, transactions, locks, cursors, time zones.

Each worker is a process: Django's settings are global.
"""

import datetime
import json
import subprocess
import sys
import threading
import urllib.parse
import zoneinfo
from decimal import Decimal

from common import Worker, same, urls


def configure(url, worker, driver, **further):
    if driver == "psycopg2":
        # Django would rather have psycopg 3.
        sys.modules["psycopg"] = None
    import django
    from django.conf import settings

    def database(url):
        parts = urllib.parse.urlsplit(url)
        options = {"options": worker.options, "application_name": worker.application_name}
        if driver == "psycopg" and worker.number % 2:
            options |= {"server_side_binding": True, "prepare_threshold": 0}
        return {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": parts.hostname,
            "PORT": parts.port,
            "USER": parts.username,
            "PASSWORD": parts.password or "",
            "NAME": parts.path[1:],
            "TIME_ZONE": worker.time_zone,
            "OPTIONS": options,
            **further,
        }

    settings.configure(
        DATABASES={"default": database(url), "direct": database(urls()[1])},
        INSTALLED_APPS=["shop"],
        USE_TZ=True,
        TIME_ZONE="Europe/Paris",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()


def check(url, worker, driver):
    server_side_cursors = worker.number % 2 == 0
    configure(url, worker, driver, CONN_MAX_AGE=[0, None][worker.number // 2 % 2], DISABLE_SERVER_SIDE_CURSORS=not server_side_cursors)
    from django.db import connection

    seen = []
    with connection.cursor() as cursor:
        cursor.execute(f"drop schema if exists {worker.schema} cascade")
        cursor.execute(f"create schema {worker.schema}")
    seen.append(connection.Database.__name__)
    migrate(seen)
    rows(worker, seen)
    transactions(seen)
    iterators(seen, server_side_cursors)
    zones(worker, seen)
    locks(seen)
    requests(worker, seen)
    return seen


def migrate(seen):
    import io

    from django.core.management import call_command

    for target in [[], ["shop", "0001"], ["shop"]]:
        out = io.StringIO()
        call_command("migrate", *target, stdout=out, verbosity=1)
        seen.append([line for line in out.getvalue().splitlines() if "Applying" in line or "Unapplying" in line])
    out = io.StringIO()
    call_command("inspectdb", "shop_customer", "shop_order", stdout=out)
    seen.append(out.getvalue())


def rows(worker, seen):
    from django.db.models import Avg, Count, F, Max, Sum, Window
    from django.db.models.functions import ExtractHour, RowNumber, TruncDay
    from shop.models import Customer, Order

    start = datetime.datetime(2024, 3, 30, 22, tzinfo=datetime.timezone.utc)
    Customer.objects.all().delete()
    Customer.objects.bulk_create(
        Customer(name=f"{worker.schema} {i}", tags=[f"t{i % 3}"], profile={"n": i}, since=start, credit=Decimal(i)) for i in range(40)
    )
    customers = list(Customer.objects.order_by("name"))
    Order.objects.bulk_create(
        [
            Order(customer=customers[i % 40], number=i, placed=start + datetime.timedelta(hours=i), amount=Decimal(i) / 4)
            for i in range(400)
        ],
        batch_size=70,
    )
    seen.append(list(Customer.objects.filter(tags__contains=["t1"], profile__n__gte=5).order_by("id").values_list("name", flat=True)))
    seen.append(list(Order.objects.annotate(day=TruncDay("placed")).values("day").annotate(n=Count("id"), s=Sum("amount")).order_by("day")))
    seen.append(list(Order.objects.annotate(h=ExtractHour("placed")).values_list("number", "h").order_by("number")[:50]))
    ranked = Order.objects.annotate(r=Window(RowNumber(), partition_by=F("customer"), order_by=F("number").desc()))
    seen.append(list(ranked.values_list("number", "r").order_by("number")[:20]))
    seen.append(list(Customer.objects.prefetch_related("orders").order_by("name").values_list("name", "orders__number")[:30]))
    seen.append(Order.objects.aggregate(Avg("amount"), Max("placed")))
    seen.append(Customer.objects.filter(orders__number=7).update(credit=F("credit") + 1))
    customer, made = Customer.objects.update_or_create(name="new", defaults={"since": start, "credit": 2})
    seen.append((customer.credit, made, Customer.objects.get_or_create(name="new")[1]))
    Customer.objects.bulk_create([Customer(name="new", since=start)], ignore_conflicts=True)
    seen.append(Customer.objects.filter(name="new").delete()[0])
    seen.append(str(Customer.objects.filter(name="x").explain())[:20])


def transactions(seen):
    from django.db import DatabaseError, IntegrityError, connection, transaction
    from shop.models import Customer

    customer = Customer.objects.order_by("id").first()
    committed = []
    with transaction.atomic():
        customer.tags = ["outer"]
        customer.save()
        try:
            with transaction.atomic():
                Customer.objects.filter(pk=customer.pk).update(credit=-1)
        except IntegrityError as error:
            seen.append(str(error))
        transaction.on_commit(lambda: committed.append(Customer.objects.get(pk=customer.pk).tags))
    seen.append(committed)
    try:
        with transaction.atomic():
            customer.delete()
            raise KeyError
    except KeyError:
        seen.append(Customer.objects.count())
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("set constraints all deferred")
            cursor.execute("insert into shop_order(customer_id, number, placed, amount, note) values (-1, 1, now(), 1, '')")
            seen.append(cursor.rowcount)
    except DatabaseError as error:
        seen.append(str(error))
    with connection.cursor() as cursor:
        for sql in ["select nothing", "select 1"]:
            try:
                cursor.execute(sql)
                seen.append(cursor.fetchall())
            except DatabaseError as error:
                seen.append(str(error))


def iterators(seen, server_side_cursors):
    from django.db import transaction
    from shop.models import Order

    if not server_side_cursors:
        # With them, this is a cursor WITH HOLD.
        seen.append([o.number for o in Order.objects.order_by("number").iterator(chunk_size=37)])
    with transaction.atomic():
        first = Order.objects.order_by("number").iterator(chunk_size=37)
        second = Order.objects.order_by("-number").select_related("customer").iterator(chunk_size=50)
        seen.append([(a.number, b.number, b.customer.name) for a, b in zip(first, second, strict=True)])


def zones(worker, seen):
    from django.db import connection
    from django.utils import timezone
    from shop.models import Order

    with connection.cursor() as cursor:
        for name in ["TimeZone", "DateStyle", "search_path", "application_name", "client_encoding"]:
            cursor.execute(f"show {name}")
            seen.append(cursor.fetchone())
        cursor.execute("select '2024-07-01 12:00'::timestamptz")
        seen.append(cursor.fetchone())
    for name in ["Asia/Kathmandu", "America/Lima"]:
        with timezone.override(zoneinfo.ZoneInfo(name)):
            seen.append(list(Order.objects.dates("placed", "day")))
            seen.append(list(Order.objects.datetimes("placed", "day").filter(number__lt=100)))
            seen.append(Order.objects.filter(placed__date="2024-04-01").count())
            seen.append(Order.objects.order_by("number").first().placed.isoformat())


def locks(seen):
    from django.db import DatabaseError, connection, transaction
    from shop.models import Customer

    target = Customer.objects.order_by("id").first().pk
    before = Customer.objects.get(pk=target).credit

    def add():
        try:
            for _ in range(10):
                with transaction.atomic():
                    customer = Customer.objects.select_for_update().get(pk=target)
                    customer.credit += 1
                    customer.save()
        finally:
            connection.close()

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.append(Customer.objects.get(pk=target).credit - before)
    results = []

    def try_to_lock():
        try:
            with transaction.atomic():
                results.append(list(Customer.objects.select_for_update(skip_locked=True).filter(pk=target)))
                Customer.objects.select_for_update(nowait=True).get(pk=target)
        except DatabaseError as error:
            results.append(str(error))
        finally:
            connection.close()

    # Not pooled: one that holds a server while it waits for another may wait for ever.
    with transaction.atomic(using="direct"):
        Customer.objects.using("direct").select_for_update().get(pk=target)
        thread = threading.Thread(target=try_to_lock)
        thread.start()
        thread.join()
    seen.append(results)


def requests(worker, seen):
    """What the end of each request does to persistent connections."""
    from django.core.signals import request_finished, request_started
    from django.db import connection, reset_queries
    from shop.models import Order

    for i in range(10):
        request_started.send(sender=None)
        reset_queries()
        seen.append(Order.objects.filter(number__gte=i, customer__name__startswith=worker.schema).count())
        with connection.cursor() as cursor:
            cursor.execute("select current_setting('search_path'), current_setting('TimeZone')")
            seen.append(cursor.fetchone())
        request_finished.send(sender=None)
    seen.append(connection.is_usable() if connection.connection else "closed")


def main():
    url, direct = urls()
    driver = sys.argv[3]
    if len(sys.argv) > 4:
        number, kind = int(sys.argv[4]), sys.argv[5]
        worker = Worker(number, kind == "direct")
        print(json.dumps(check(direct if worker.direct else url, worker, driver), default=repr))
        return

    def start(number, kind):
        command = [sys.executable, __file__, url, direct, driver, str(number), kind]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def results(processes):
        texts = [process.communicate(timeout=120)[0] for process in processes]
        assert all(process.returncode == 0 for process in processes), [p.returncode for p in processes]
        return [json.loads(text) for text in texts]

    wanted = results([start(n, "direct") for n in range(4)])
    assert wanted[0][0] == driver and wanted[0] != wanted[2]
    for number, (want, got) in enumerate(zip(wanted, results([start(n, "pooled") for n in range(4)]))):
        same(Worker(number, False), want, got)
    print(f"4 workers agree on {sum(map(len, wanted))} steps")


if __name__ == "__main__":
    main()
