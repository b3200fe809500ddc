"""A client that speaks the protocol itself, so that every error's SQLSTATE is seen, and any state can be got into."""

import asyncio
import struct

# Longer than any wait that Carpool is configured to have: who waits longer is stuck.
PATIENCE = 40


class ServerError(Exception):
    """An ErrorResponse. The session goes on."""

    def __init__(self, fields):
        super().__init__(f"{fields.get('S')} {fields.get('C')}: {fields.get('M')}")
        self.code = fields.get("C", "none")
        self.message = fields.get("M", "")
        self.fields = fields


class Lost(Exception):
    """The connection has ended. The code is that of the last error, or "none" where nothing was said."""

    def __init__(self, error, why):
        super().__init__(f"{error or 'nothing was said'} ({why})")
        self.code = error.code if error else "none"
        self.message = error.message if error else str(why)


class Stuck(Exception):
    """No answer came within PATIENCE."""


def message(tag, body=b""):
    return tag + struct.pack("!I", len(body) + 4) + body


def query(sql):
    return message(b"Q", sql.encode() + b"\0")


def extended(sql, parameters=(), name=b""):
    """Parse, Bind and Execute, without Sync."""
    values = [str(value).encode() for value in parameters]
    bound = b"\0" + name + b"\0" + struct.pack("!HH", 0, len(values))
    bound += b"".join(struct.pack("!I", len(value)) + value for value in values) + struct.pack("!H", 0)
    return (message(b"P", name + b"\0" + sql.encode() + b"\0" + struct.pack("!H", 0)) + message(b"B", bound)
            + message(b"E", b"\0" + struct.pack("!I", 0)))


SYNC = message(b"S")


def columns(body):
    (count,), at, row = struct.unpack_from("!H", body), 2, []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        row.append(None if length < 0 else body[at:at + length].decode())
        at += max(length, 0)
    return row


class Client:
    """One session. `status` is that of the last ReadyForQuery."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.status, self.key = reader, writer, None, b""
        self._last = None

    @classmethod
    async def connect(cls, where, database, user="app", limit=2**16):
        """`where` is a port of 127.0.0.1, a pair of host and port, or the path of a unix socket."""
        try:
            if isinstance(where, str):
                streams = await asyncio.wait_for(asyncio.open_unix_connection(where, limit=limit), PATIENCE)
            else:
                host, port = where if isinstance(where, tuple) else ("127.0.0.1", where)
                streams = await asyncio.wait_for(asyncio.open_connection(host, port, limit=limit), PATIENCE)
        except TimeoutError as error:
            raise Stuck("connecting") from error
        except OSError as error:
            raise Lost(None, error) from error
        client = cls(*streams)
        body = struct.pack("!I", 3 << 16)
        for name, value in (("user", user), ("database", database)):
            body += name.encode() + b"\0" + value.encode() + b"\0"
        client.send(struct.pack("!I", len(body) + 5) + body + b"\0")
        try:
            await client.replies()
        except ServerError as error:
            client.close()
            raise Lost(error, "login") from error
        except BaseException:
            client.close()
            raise
        return client

    def send(self, data):
        self.writer.write(data)

    async def _read(self):
        head = await self.reader.readexactly(5)
        return head[:1], await self.reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)

    async def replies(self):
        """All up to the next ReadyForQuery: the rows, and the tags of commands."""
        rows, tags, failed = [], [], None
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    tag, body = await self._read()
                    match tag:
                        case b"D":
                            rows.append(columns(body))
                        case b"C":
                            tags.append(body[:-1].decode())
                        case b"K":
                            self.key = body
                        case b"E":
                            self._last = ServerError({part[:1].decode(): part[1:].decode(errors="replace")
                                                      for part in body.split(b"\0") if part})
                            failed = failed or self._last
                        case b"R" if body != bytes(4):
                            raise Lost(None, "a password is wanted")
                        case b"Z":
                            self.status = body.decode()
                            break
        except TimeoutError as error:
            self.close()
            raise Stuck(f"no answer within {PATIENCE} s") from error
        except (OSError, EOFError) as error:
            self.close()
            raise Lost(self._last, error) from error
        self._last = None
        if failed:
            raise failed
        return rows, tags

    async def run(self, sql):
        self.send(query(sql))
        return await self.replies()

    async def value(self, sql):
        return (await self.run(sql))[0][0][0]

    def close(self):
        self.writer.transport.abort()
