"""The Python client `websockets`, reconnecting as its documentation shows: websockets_client.py URI."""
import asyncio, json, sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def main():
    leaving = asyncio.Event()
    async for websocket in connect(sys.argv[1], open_timeout=120, ping_interval=None):
        goodbye = asyncio.create_task(leave(websocket, leaving))
        try:
            async for message in websocket:
                print(json.dumps({"message": json.loads(message)}))
        except ConnectionClosed as closed:
            print(json.dumps({"close": closed.rcvd.code if closed.rcvd else 1006}))
        goodbye.cancel()
        if leaving.is_set():
            break


async def leave(websocket, leaving):
    """The test closes our input when the program is to leave."""
    end = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, end.set)
    await end.wait()
    leaving.set()
    await websocket.close()


asyncio.run(main())
