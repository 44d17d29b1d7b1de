"""The snippets and messages of the seeds' documents (seeds/), run as they stand there, beside a native observer."""
import json, re
from harness import Case, DEADLINE, HERE, STEADY, connect, get_json, wait_until


def document(number):
    return (HERE / "seeds" / f"{number}.md").read_text()


def blocks(text, language):
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shape(value):
    """A message without what differs from one to the next: its fields, and of what kind they are."""
    if isinstance(value, dict):
        return {key: value[key] if key == "type" else shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, (int, float)) else type(value).__name__


class Seeds(Case):
    def test_000_online_users(self):
        text = document("000")
        path = re.search(r"\*\*ws://localhost:8000(\S+)\*\*", text).group(1)
        (heartbeat,) = re.findall(r'\*\*"(\w+)"\*\*', text)
        users, ack, error = map(json.loads, re.findall(r"\*\*(\{.*\})\*\*", text))
        server = self.server("--ttl", "12s")
        observer = self.observer(server)
        with connect(server.websocket + path.replace("{user_id}", "user1")) as client:
            told = json.loads(client.recv(timeout=DEADLINE))
            self.assertEqual(shape(told), shape(users))
            observer.sees("user1")
            while "observer" not in told["users"] or "user1" not in told["users"]:
                told = json.loads(client.recv(timeout=DEADLINE))
            client.send(heartbeat)
            self.assertEqual(json.loads(client.recv(timeout=DEADLINE)), ack)
            client.send("something else")
            self.assertEqual(json.loads(client.recv(timeout=DEADLINE)), error)
        # Users who disconnect disappear when the time to live is over, which is longer than anything above took.
        observer.misses("user1")
        self.assertEqual(observer.departures("user1"), ["timeout"])

    def test_001_online_users_over_rest(self):
        server = self.server("--ttl", "12s")
        observer = self.observer(server)
        page = self.node("in-browser.mjs", server.http, "npm:jquery/dist/jquery.js", "tests/clients/programs/jquery.js")
        observer.sees("alice")
        page.said("that it went well", lambda line: json.loads(line) == {"console": [{"status": "success"}]})
        page.said("the list", lambda line: json.loads(line) == {"console": [{"online_users": ["alice", "observer"]}]})
        observer.misses("alice")
        self.assertEqual(observer.departures("alice"), ["timeout"])

    def test_002_online_status(self):
        text = document("002")
        established, online, offline = map(json.loads, blocks(text, "json"))
        (snippet,) = blocks(text, "javascript")
        server = self.server(*STEADY, "--status-port", "0")
        line = server.program.said("the second port", lambda line: "online status is served on" in line)
        address = re.search(r"127\.0\.0\.1:\d+", line).group()
        self.assertIn("localhost:3001", snippet)
        script = self.folder() / "snippet.js"
        script.write_text(snippet.replace("localhost:3001", address))

        observer = self.observer(server)
        page = self.node("in-browser.mjs", server.http, script)
        observer.sees("123")

        def said(*values):
            page.said(f"{values}", lambda line: [shape(value) for value in json.loads(line).get("console", [])] == [
                shape(value) if isinstance(value, dict) else "str" for value in values])
        said("Connected")
        said("Received:", established)
        # Somebody whose id is a number, as in the document: first the snippet's own kind, then a native client.
        with connect(f"ws://{address}/ws-online-status?userId=456") as other:
            self.assertEqual(json.loads(other.recv(timeout=DEADLINE))["userId"], 456)
            said("Received:", online)
        said("Received:", offline)
        page.said("the native observer", lambda line: '"USER_ONLINE"' in line and '"observer"' in line)
        server.stop()
        page.said("the end", lambda line: json.loads(line) == {"console": ["Disconnected"]})

    def test_004_chat(self):
        text = document("004")
        # The document writes its times as 169XXX.
        messages = [json.loads(line) for block in blocks(text, "json") for line in block.replace("169XXX", "1690000000.5").splitlines()]
        join, say, ping = blocks(text, "json")[:3]
        said, joined, left, pong, error = messages[3:]
        server = self.server(*STEADY)
        observer = self.observer(server)
        with connect(server.websocket + "/ws") as alice, connect(server.websocket + "/ws") as bob:
            def receives(client, like, **fields):
                """Takes messages until one has the shape of the document's, and these fields."""
                while True:
                    message = json.loads(client.recv(timeout=DEADLINE))
                    inside = message.get("payload", message)
                    if shape(message) == shape(like) and fields.items() <= inside.items():
                        return
            alice.send(join)
            receives(alice, joined, user="alice")
            observer.sees("alice")
            bob.send(join.replace("alice", "bob"))
            receives(bob, joined, user="bob")
            receives(alice, joined, user="bob")
            alice.send(say)
            for client in alice, bob:
                receives(client, said, user="alice", text="Hello everyone")
            alice.send(ping)
            receives(alice, pong)
            alice.send("no json")
            receives(alice, error)
            bob.close()
            receives(alice, left, user="bob")
        observer.misses("alice", "bob")
