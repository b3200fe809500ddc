"""asyncpg: a pool's server_settings outlive the RESET ALL that it runs when a connection comes back."""

import asyncpg

from common import compare_async


async def check(url, worker):
    seen = []
    async with asyncpg.create_pool(url, min_size=1, max_size=1, server_settings=worker.settings) as pool:
        for _ in range(3):
            async with pool.acquire() as conn:
                seen += [await conn.fetchval("select current_setting($1)", name) for name in worker.settings]
                seen.append(conn.get_settings().TimeZone)
                await conn.execute("reset timezone; reset application_name")
                seen += [await conn.fetchval("select current_setting($1)", name) for name in worker.settings]
    return seen


if __name__ == "__main__":
    compare_async(check)
