"""The users who are online, in Redis, so that several daphne processes agree: a hash of connection counts by user.

A process that is killed or stopped with open connections leaves its counts behind, because Channels cancels consumers
without a disconnect.
"""

from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis

CONNECTIONS = "online-status:connections"
# Decrementing and removing a zero must be one step, or a connection that comes in between is lost.
DISCONNECT = """
local left = redis.call('HINCRBY', KEYS[1], ARGV[1], -1)
if left <= 0 then redis.call('HDEL', KEYS[1], ARGV[1]) end
return left
"""

# A bounded pool: users who connect at once wait for a Redis connection instead of opening one each.
redis = Redis.from_pool(BlockingConnectionPool.from_url(settings.REDIS_URL, decode_responses=True))
disconnect_script = redis.register_script(DISCONNECT)


def typed(user: str) -> int | str:
    """Integer user ids are numbers on the wire, except those with a sign or leading zeros, which would change."""
    return int(user) if user.isdecimal() and str(int(user)) == user else user


async def connect(user: int | str) -> bool:
    """Whether this is the user's first connection."""
    return await redis.hincrby(CONNECTIONS, str(user), 1) == 1


async def disconnect(user: int | str) -> bool:
    """Whether this was the user's last connection."""
    return await disconnect_script(keys=[CONNECTIONS], args=[str(user)]) <= 0


async def users() -> list[int | str]:
    return [typed(user) for user in sorted(await redis.hkeys(CONNECTIONS))]
