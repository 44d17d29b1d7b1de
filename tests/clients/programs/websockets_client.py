"""The Python package `websockets`, reconnecting as its documentation shows: websockets_client.py URI."""
import asyncio, json, sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def main():
    leaving = asyncio.Event()
    async for websocket in connect(sys.argv[1], open_timeout=120, ping_interval=None):
        closing = asyncio.create_task(close_on_end(websocket, leaving))
        try:
            async for message in websocket:
                print(json.dumps({"message": json.loads(message)}))
        except ConnectionClosed as closed:
            print(json.dumps({"close": closed.rcvd.code if closed.rcvd else 1006}))
        closing.cancel()
        if leaving.is_set():
            break


async def close_on_end(websocket, leaving):
    """The test closes the input when the program should exit."""
    end = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, end.set)
    await end.wait()
    leaving.set()
    await websocket.close()


asyncio.run(main())
