"""The code and messages in the documents of older systems (documents/), unchanged, next to a native observer."""
import json, re
from harness import Case, DEADLINE, DEFAULT_TIMES, HERE, SHORT_LEASE, connect


def document(name):
    return (HERE / "documents" / f"{name}.md").read_text()


def blocks(text, language):
    """The fenced code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shape(value):
    """The fields of a message and their types, without the values that differ between runs."""
    if isinstance(value, dict):
        return {key: value[key] if key == "type" else shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, (int, float)) else type(value).__name__


class Documents(Case):
    def test_online_users(self):
        text = document("online-users")
        path = re.search(r"\*\*ws://localhost:8000(\S+)\*\*", text).group(1)
        (heartbeat,) = re.findall(r'\*\*"(\w+)"\*\*', text)
        users, ack, error = map(json.loads, re.findall(r"\*\*(\{.*\})\*\*", text))
        server = self.server(*SHORT_LEASE)
        observer = self.observer(server)
        with connect(server.websocket + path.replace("{user_id}", "user1")) as client:
            message = json.loads(client.recv(timeout=DEADLINE))
            self.assertEqual(shape(message), shape(users))
            observer.sees("user1")
            while not {"observer", "user1"} <= set(message["users"]):
                message = json.loads(client.recv(timeout=DEADLINE))

            def reply():
                """The next message that is not the list, which may come at any time."""
                while (message := json.loads(client.recv(timeout=DEADLINE)))["type"] == users["type"]:
                    pass
                return message
            client.send(heartbeat)
            self.assertEqual(reply(), ack)
            client.send("something else")
            self.assertEqual(reply(), error)
        # The user is offline when the lease ends.
        observer.sees_none_of("user1")
        self.assertEqual(observer.leave_reasons("user1"), ["timeout"])

    def test_online_users_over_rest(self):
        server = self.server(*SHORT_LEASE)
        observer = self.observer(server)
        scripts = ["npm:jquery/dist/jquery.js", "tests/clients/programs/jquery.js"]
        page = self.node("in-browser.mjs", server.http, *scripts)
        observer.sees("alice")
        page.expect("success", lambda line: json.loads(line) == {"console": [{"status": "success"}]})
        users = {"console": [{"online_users": ["alice", "observer"]}]}
        page.expect("the list", lambda line: json.loads(line) == users)
        observer.sees_none_of("alice")
        self.assertEqual(observer.leave_reasons("alice"), ["timeout"])

    def test_online_status(self):
        text = document("online-status")
        established, online, offline = map(json.loads, blocks(text, "json"))
        (snippet,) = blocks(text, "javascript")
        server = self.server(*DEFAULT_TIMES, "--status-port", "0")
        line = server.program.expect("the second port", lambda line: "online status is served on" in line)
        address = re.search(r"127\.0\.0\.1:\d+", line).group()
        self.assertIn("localhost:3001", snippet)
        script = self.folder() / "snippet.js"
        script.write_text(snippet.replace("localhost:3001", address))

        observer = self.observer(server)
        page = self.node("in-browser.mjs", server.http, script)
        observer.sees("123")

        def logs(*values):
            expected = [shape(value) if isinstance(value, dict) else "str" for value in values]
            logged = lambda line: [shape(value) for value in json.loads(line).get("console", [])]
            page.expect(f"{values}", lambda line: logged(line) == expected)
        logs("Connected")
        logs("Received:", established)
        # The document has numeric ids; native clients have texts.
        with connect(f"ws://{address}/ws-online-status?userId=456") as other:
            self.assertEqual(json.loads(other.recv(timeout=DEADLINE))["userId"], 456)
            logs("Received:", online)
        logs("Received:", offline)
        page.expect("the native observer", lambda line: '"USER_ONLINE"' in line and '"observer"' in line)
        server.stop()
        page.expect("the end", lambda line: json.loads(line) == {"console": ["Disconnected"]})

    def test_chat(self):
        text = document("chat")
        # The document writes times as 169XXX.
        lines = "".join(blocks(text, "json")).replace("169XXX", "1690000000.5").splitlines()
        messages = [json.loads(line) for line in lines]
        join, message, ping = blocks(text, "json")[:3]
        received, joined, left, pong, error = messages[3:]
        server = self.server(*DEFAULT_TIMES)
        observer = self.observer(server)
        with connect(server.websocket + "/ws") as alice, connect(server.websocket + "/ws") as bob:
            def receives(client, like, **fields):
                """Skips messages until one has the shape of `like` and these fields."""
                while True:
                    message = json.loads(client.recv(timeout=DEADLINE))
                    payload = message.get("payload", message)
                    if shape(message) == shape(like) and fields.items() <= payload.items():
                        return
            alice.send(join)
            receives(alice, joined, user="alice")
            observer.sees("alice")
            bob.send(join.replace("alice", "bob"))
            receives(bob, joined, user="bob")
            receives(alice, joined, user="bob")
            alice.send(message)
            for client in alice, bob:
                receives(client, received, user="alice", text="Hello everyone")
            alice.send(ping)
            receives(alice, pong)
            alice.send("no json")
            receives(alice, error)
            bob.close()
            receives(alice, left, user="bob")
        observer.sees_none_of("alice", "bob")
