"""docs/redis.md: each command in it is sent to the Redis of a node and answers as documented."""
import re, shlex, subprocess
from harness import Case, DEADLINE, ROOT, wait_until

STATE = {"mood": "busy"}


def examples():
    """Each command of the page with its documented output."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / "redis.md").read_text(), re.DOTALL)
    return [tuple(example.split("\n", 1)) for block in blocks for example in block.removeprefix("$ ").split("\n$ ")]


def without_times(text):
    """Replaces what differs between runs: times, and the number of renewals of a lease."""
    return re.sub(r'"heartbeats":\d+', '"heartbeats":N', re.sub(r"\b\d{13}\b", "TIME", text)).rstrip("\n")


class Page(Case):
    def test_every_command_answers_as_documented(self):
        port = self.redis()
        node = self.server("--redis", f"redis://127.0.0.1:{port}", "--node-id", "node1")

        def redis(*words):
            done = subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True, timeout=DEADLINE)
            return done.stdout

        alice = self.observer(node, "alice")
        alice.send({"type": "state", "room": "lobby", "state": STATE})
        alice.send({"type": "message", "room": "lobby", "data": {"text": "Hello everyone"}})
        self.observer(node, "bob", room="game:1")
        incarnation = redis("SMEMBERS", "presence:{nodes}:incarnations").strip()
        self.assertRegex(incarnation, r"^node1\.[0-9a-f]+$")
        wait_until("alice's state", lambda: "mood" in redis("HGET", f"presence:{{0}}:h:{incarnation}", "lobby:alice"))
        wait_until("bob", lambda: redis("EXISTS", "presence:{0}:u:bob") == "1\n")
        self.assertGreater(len(examples()), 5)
        for command, expected in examples():
            documented = re.search(r"node1\.[0-9a-f]+", command + expected)
            replace = lambda text: text.replace(documented.group(), incarnation) if documented else text
            number = lambda text: text.replace("\t1a2028d619f5468\t", "\t" + incarnation.removeprefix("node1.") + "\t")
            command, expected = replace(command), number(replace(expected))
            program, *words = shlex.split(command)
            self.assertEqual(program, "redis-cli")
            # Nodes write behind.
            answer = lambda: without_times(redis(*words))
            wait_until(lambda: f"{command} answers {expected!r}; it answers {answer()!r}",
                       lambda: answer() == without_times(expected))
