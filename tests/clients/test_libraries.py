"""WebSocket libraries of third parties: each connects, sees other users, leaves, and reconnects if it promises that."""
import json
from harness import Case, DEFAULT_TIMES

ALICE = "/v1/connect?user=alice&room=lobby"


def message_line(matches):
    """Matches a line that reports a message of the server for which `matches(message)` is true."""
    def check(line):
        try:
            event = json.loads(line)
        except ValueError:
            return False
        # A page reports a list of logged values.
        events = event.get("console", [event])
        return any(matches(event["message"]) for event in events if isinstance(event, dict) and "message" in event)
    return check


def names(field, user):
    return message_line(lambda message: user in [member["user"] for member in message.get(field, [])])


class Libraries(Case):
    def join(self, server, start):
        """Starts the client, and checks that it and an observer see each other and a third user."""
        observer = self.observer(server)
        client = start()
        observer.sees("alice")
        client.expect("a snapshot with the observer", names("members", "observer"))
        third = self.observer(server, "carol")
        client.expect("a diff with the third user", names("joined", "carol"))
        third.close()
        client.expect("the leave of the third user", names("left", "carol"))
        return client, observer

    def reconnect(self, server, client):
        """Restarts the server, and checks that the client reconnects by itself. Returns a new observer."""
        client.lines.clear()
        server.restart()
        observer = self.observer(server, "after")
        observer.sees("alice")
        for kind in "welcome", "snapshot":
            client.expect(f"a {kind}", message_line(lambda message: message["type"] == kind))
        self.observer(server, "later")
        client.expect("a diff with the user who joined later", names("joined", "later"))
        return observer

    def leave(self, client, observer, reason):
        client.finish()
        observer.sees_none_of("alice")
        self.assertEqual(observer.leave_reasons("alice"), [reason])

    def test_ws_answers_pings(self):
        server = self.server("--ttl", "20s")
        client, observer = self.join(server, lambda: self.node("ws.mjs", server.websocket + ALICE))
        # The server pings after more than half of the lease, so two pings take longer than one lease.
        client.lines.clear()
        for _ in range(2):
            client.expect("a ping", lambda line: "ping" in line)
            client.lines.pop(next(at for at, line in enumerate(client.lines) if "ping" in line))
        self.assertEqual(observer.leave_reasons("alice"), [])
        self.leave(client, observer, "closed")

    def test_ws_receives_the_close_code_of_a_restart(self):
        server = self.server(*DEFAULT_TIMES)
        client, _ = self.join(server, lambda: self.node("ws.mjs", server.websocket + ALICE))
        server.stop()
        client.expect("a close with 1012", lambda line: json.loads(line).get("close") == 1012)

    def test_reconnecting_websocket(self):
        server = self.server(*DEFAULT_TIMES)
        client, _ = self.join(server, lambda: self.node("reconnecting-websocket.mjs", server.websocket + ALICE))
        self.leave(client, self.reconnect(server, client), "closed")

    def test_reconnectingwebsocket_in_a_browser(self):
        server = self.server(*DEFAULT_TIMES)
        library = "npm:reconnectingwebsocket/reconnecting-websocket.js"
        script = "tests/clients/programs/reconnectingwebsocket.js"
        client, _ = self.join(server, lambda: self.node("in-browser.mjs", server.http, library, script))
        # The page is closed without a clean close, so the user leaves when the grace period ends.
        self.leave(client, self.reconnect(server, client), "timeout")

    def test_python_websockets(self):
        server = self.server(*DEFAULT_TIMES)
        client, _ = self.join(server, lambda: self.python("websockets_client.py", server.websocket + ALICE))
        self.leave(client, self.reconnect(server, client), "closed")
