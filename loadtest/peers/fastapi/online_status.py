"""The online-users protocol on FastAPI: heartbeats renew a Redis key, and all clients receive the list of users.

Modeled on the ConnectionManager in FastAPI's page on WebSockets, with the presence in Redis. It has no coalescing, no
differences and no rooms.
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
# Redis reports expired keys late, or not at all, so the application polls.
POLL_SECONDS = 1
KEY_PREFIX = "presence:"
# The default of 10 would need a round trip per ten users.
SCAN_COUNT = 1000

# The client closed the connection, or an earlier send has already failed.
DISCONNECTED = (WebSocketDisconnect, WebSocketDisconnected)

HEARTBEAT_ACK = json.dumps({"type": "heartbeat_ack"})
UNKNOWN_MESSAGE = json.dumps({"type": "error", "message": "Unknown message"})

logger = logging.getLogger("uvicorn.error")
# A bounded pool: heartbeats that arrive at once wait for a Redis connection instead of opening one each.
redis = Redis.from_pool(BlockingConnectionPool.from_url(os.environ["REDIS_URL"], decode_responses=True))


async def set_online(user_id: str) -> None:
    await redis.set(KEY_PREFIX + user_id, "online", ex=TTL_SECONDS)


async def online_users() -> list[str]:
    keys = {key async for key in redis.scan_iter(match=KEY_PREFIX + "*", count=SCAN_COUNT)}
    return sorted(key.removeprefix(KEY_PREFIX) for key in keys)


class ConnectionManager:
    """The sockets of this process, and the list that they received last."""

    def __init__(self) -> None:
        self.sockets: set[WebSocket] = set()
        self.last_users: list[str] = []
        # Lists are sent one after the other, so that an older one cannot overtake a newer one.
        self.lock = asyncio.Lock()

    async def connect(self, socket: WebSocket) -> None:
        """Sends the list to a new client, and to all clients if the new client changed it."""
        async with self.lock:
            if not await self.send_if_changed([*self.sockets, socket]):
                await self.send(socket, self.message())
            self.sockets.add(socket)

    async def poll(self) -> None:
        async with self.lock:
            await self.send_if_changed([*self.sockets])

    async def send_if_changed(self, sockets: list[WebSocket]) -> bool:
        users = await online_users()
        if users == self.last_users:
            return False
        self.last_users = users
        message = self.message()
        for socket in sockets:
            await self.send(socket, message)
        return True

    async def send(self, socket: WebSocket, message: str) -> None:
        try:
            await socket.send_text(message)
        except DISCONNECTED:
            self.sockets.discard(socket)

    def message(self) -> str:
        return json.dumps({"type": "online_users", "users": self.last_users})


manager = ConnectionManager()


async def poll_for_changes() -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            await manager.poll()
        except RedisError as error:
            logger.warning("cannot read the online users: %s", error)


@asynccontextmanager
async def lifespan(_: FastAPI):
    polling = asyncio.create_task(poll_for_changes())
    yield
    polling.cancel()
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
    except DISCONNECTED:
        pass  # Its key expires.
    finally:
        manager.sockets.discard(socket)
