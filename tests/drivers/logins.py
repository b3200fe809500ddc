"""Tries logins: `python logins.py DRIVER`, cases as JSON on standard input, outcomes as JSON on standard output.

A case has `port`, `user`, `password`, `dbname` and `sslmode`, and may have `sslrootcert`, `sslcert`, `sslkey` (files),
`channel_binding` and `sslnegotiation` (libpq's words). An outcome is "USER tls" or "USER plain" when the server let the
client in, the SQLSTATE when it refused it, or "client" when the client itself gave up on what the server offered.
"""

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 30  # seconds
AT_ONCE = 4
WHO = "SELECT current_user"
CONSTANT = {"host": "127.0.0.1", "connect_timeout": TIMEOUT, "gssencmode": "disable"}
# Not the developer's own.
ENVIRONMENT = {**os.environ, "HOME": "/nonexistent", "PGSSLCERT": "", "PGSSLROOTCERT": "", "PGCLIENTENCODING": "UTF8"}


def libpq_parameters(case):
    return CONSTANT | {name: value for name, value in case.items() if value is not None and name != "driver"}


def psql(case):
    parameters = " ".join(f"{name}='{value}'" for name, value in libpq_parameters(case).items())
    command = ["psql", "-XAtq", "-v", "VERBOSITY=verbose", "-c", r"\conninfo", "-c", WHO, parameters]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode != 0:
        return text_to_state(done.stderr)
    lines = done.stdout.strip().splitlines()
    return f"{lines[-1]} {'tls' if 'SSL connection' in done.stdout else 'plain'}"


# Messages, which are PostgreSQL's, by SQLSTATE: psql doesn't show the state of an error at connection.
TEXTS = {
    "28P01": ["password authentication failed", "empty password returned"],
    "28000": ["no pg_hba.conf entry", "does not exist", "certificate authentication failed", "valid client certificate",
              "rejects connection", "SSL required", "LDAP authentication failed", "JWT authentication failed"],
    "08P01": ["protocol"],
}


def text_to_state(message):
    fatal = re.findall(r"FATAL:\s+(.*)", message)
    if not fatal:
        return "client"
    for state, texts in TEXTS.items():
        if any(text in fatal[-1] for text in texts):
            return state
    return fatal[-1]


def psycopg(case):
    import psycopg

    try:
        with psycopg.connect(**libpq_parameters(case)) as connection:
            user = connection.execute(WHO).fetchone()[0]
            return f"{user} {'tls' if connection.pgconn.ssl_in_use else 'plain'}"
    except psycopg.OperationalError as error:
        return error.sqlstate or text_to_state(str(error))


def asyncpg_tls(case):
    mode = case["sslmode"]
    if mode in ("disable", "allow", "prefer"):
        return mode
    context = ssl.create_default_context(cafile=case.get("sslrootcert"))
    if mode == "require":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if mode == "verify-ca":
        context.check_hostname = False
    if case.get("sslcert"):
        context.load_cert_chain(case["sslcert"], case["sslkey"])
    return context


async def asyncpg_one(case):
    import asyncpg

    names = {"port": "port", "user": "user", "password": "password", "dbname": "database"}
    parameters = {names[name]: value for name, value in case.items() if name in names and value is not None}
    try:
        connection = await asyncpg.connect(
            host="127.0.0.1", timeout=TIMEOUT, ssl=asyncpg_tls(case), **({"password": ""} | parameters)
        )
    except asyncpg.PostgresError as error:
        return error.sqlstate
    except (OSError, ssl.SSLError, asyncpg.InterfaceError):
        return "client"
    try:
        user = await connection.fetchval(WHO)
        tls = connection._transport.get_extra_info("ssl_object")
        return f"{user} {'tls' if tls else 'plain'}"
    finally:
        await connection.close()


def asyncpg(cases):
    async def all_of_them():
        gate = asyncio.Semaphore(AT_ONCE)

        async def gated(case):
            async with gate:
                return await asyncpg_one(case)

        return await asyncio.gather(*map(gated, cases))

    return asyncio.run(all_of_them())


def main():
    os.environ.update(ENVIRONMENT)
    cases = json.load(sys.stdin)
    driver = sys.argv[1]
    if driver == "asyncpg":
        outcomes = asyncpg(cases)
    else:
        one = {"psql": psql, "psycopg": psycopg}[driver]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            outcomes = list(threads.map(one, cases))
    json.dump(outcomes, sys.stdout)


main()
