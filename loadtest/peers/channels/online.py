"""Who is online, in Redis and not in this process, so that several daphne processes agree: a hash of connections by user.

A process that is killed, or told to stop while people are connected, leaves its counts behind: Channels cancels consumers
without telling them of a disconnect.
"""

from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis

CONNECTIONS = "online-status:connections"
# Counting down and forgetting who has reached zero must be one step, or a connection that comes between them is lost.
LEAVE = """
local left = redis.call('HINCRBY', KEYS[1], ARGV[1], -1)
if left <= 0 then redis.call('HDEL', KEYS[1], ARGV[1]) end
return left
"""

# A bounded pool: people who come at once wait for a connection instead of opening one each.
redis = Redis.from_pool(BlockingConnectionPool.from_url(settings.REDIS_URL, decode_responses=True))
leave_script = redis.register_script(LEAVE)


def typed(user: str) -> int | str:
    """A user id that is an integer is a number on the wire. One with a sign or zeros in front would not come back the same."""
    return int(user) if user.isdecimal() and str(int(user)) == user else user


async def enter(user: int | str) -> bool:
    """Whether this is the user's first connection."""
    return await redis.hincrby(CONNECTIONS, str(user), 1) == 1


async def leave(user: int | str) -> bool:
    """Whether this was the user's last connection."""
    return await leave_script(keys=[CONNECTIONS], args=[str(user)]) <= 0


async def users() -> list[int | str]:
    return [typed(user) for user in sorted(await redis.hkeys(CONNECTIONS))]
