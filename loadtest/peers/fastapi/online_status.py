"""The online users app on FastAPI: heartbeats over a WebSocket keep a Redis key alive, everybody is told the whole list.

What a user would write after FastAPI's page on WebSockets (its ConnectionManager) with the presence in Redis. It coalesces
nothing, diffs nothing and has no rooms.
"""

import asyncio
import json
import logging
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from starlette.websockets import WebSocketDisconnected

TTL_SECONDS = 10
# Redis tells of expired keys late if at all, so the app looks for itself.
LOOK_EVERY_SECONDS = 1
KEY_PREFIX = "presence:"
# The default of 10 would cost a round trip for every ten users.
SCAN_COUNT = 1000

# It went away, or a list that could not be sent showed already that it had.
GONE = (WebSocketDisconnect, WebSocketDisconnected)

HEARTBEAT_ACK = json.dumps({"type": "heartbeat_ack"})
UNKNOWN_MESSAGE = json.dumps({"type": "error", "message": "Unknown message"})

logger = logging.getLogger("uvicorn.error")
# A bounded pool: heartbeats that come at once wait for a connection instead of opening one each.
redis = Redis.from_pool(BlockingConnectionPool.from_url(os.environ["REDIS_URL"], decode_responses=True))


async def set_online(user_id: str) -> None:
    await redis.set(KEY_PREFIX + user_id, "online", ex=TTL_SECONDS)


async def online_users() -> list[str]:
    keys = {key async for key in redis.scan_iter(match=KEY_PREFIX + "*", count=SCAN_COUNT)}
    return sorted(key.removeprefix(KEY_PREFIX) for key in keys)


class ConnectionManager:
    """The sockets of this process, and the list that they were told last."""

    def __init__(self) -> None:
        self.sockets: set[WebSocket] = set()
        self.told: list[str] = []
        # One list after the other, or an older one could overtake a newer one.
        self.lock = asyncio.Lock()

    async def connect(self, socket: WebSocket) -> None:
        """Shows the list to a newcomer, and to all if the newcomer changed it."""
        async with self.lock:
            if not await self.tell_if_changed([*self.sockets, socket]):
                await self.send(socket, self.message())
            self.sockets.add(socket)

    async def look(self) -> None:
        async with self.lock:
            await self.tell_if_changed([*self.sockets])

    async def tell_if_changed(self, sockets: list[WebSocket]) -> bool:
        users = await online_users()
        if users == self.told:
            return False
        self.told = users
        message = self.message()
        for socket in sockets:
            await self.send(socket, message)
        return True

    async def send(self, socket: WebSocket, message: str) -> None:
        try:
            await socket.send_text(message)
        except GONE:
            self.sockets.discard(socket)

    def message(self) -> str:
        return json.dumps({"type": "online_users", "users": self.told})


manager = ConnectionManager()


async def look_for_expired() -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        try:
            await manager.look()
        except RedisError as error:
            logger.warning("cannot look who is online: %s", error)


@asynccontextmanager
async def lifespan(_: FastAPI):
    looking = asyncio.create_task(look_for_expired())
    yield
    looking.cancel()
    await redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/online_users")
async def get_online_users() -> dict[str, list[str]]:
    return {"online_users": await online_users()}


@app.websocket("/ws/{user_id}")
async def presence(socket: WebSocket, user_id: str) -> None:
    await socket.accept()
    await set_online(user_id)
    await manager.connect(socket)
    try:
        async for text in socket.iter_text():
            if text == "heartbeat":
                await set_online(user_id)
                await socket.send_text(HEARTBEAT_ACK)
            else:
                await socket.send_text(UNKNOWN_MESSAGE)
    except GONE:
        pass  # Its key expires by itself.
    finally:
        manager.sockets.discard(socket)
