"""Counts the server connections of the database, as PostgreSQL sees them."""

import threading
import time

from truth import connect

PERIOD = 0.1  # seconds

COUNT = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""


class Sampler(threading.Thread):
    """Samples until stopped, on a thread and a direct connection of its own."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.most = 0
        self.samples = 0
        self.longest_gap = 0.0
        self.failure = None
        self._url = url
        self._stopping = threading.Event()

    def run(self):
        try:
            with connect(self._url) as cursor:
                last = time.monotonic()
                while not self._stopping.wait(PERIOD):
                    cursor.execute(COUNT)
                    self.most = max(self.most, cursor.fetchone()[0])
                    self.samples += 1
                    now = time.monotonic()
                    self.longest_gap = max(self.longest_gap, now - last)
                    last = now
        except Exception as error:
            self.failure = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self.join(5)
