"""Shared by the tests of third-party clients: a real server, an observer that mirrors a room, and child processes.

Processes that are started here are ended here, by their process id.
"""
import contextlib, functools, json, os, pathlib, random, re, signal, socket, subprocess, sys, tempfile, threading, time
import unittest, urllib.parse, urllib.request

from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as connect_with_timeouts

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ROOT / "target" / "clients"
BINARY = pathlib.Path(os.environ.get("ROLLCALL_BIN") or ROOT / "target/debug/rollcall")
# How long a test waits for anything, in seconds. Only failures take this long: an overloaded machine is slow, not red.
DEADLINE = 120
POLL_SECONDS = 0.02
# For all servers: short ticks. Clients without CPU have time to send their request, and servers without CPU to close
# all clients when they stop, which otherwise takes a tick.
BASE_FLAGS = ["--tick", "50ms", "--workers", "2", "--drain", "10s", "--header-timeout", "2m"]
# The lease is long enough for seconds without CPU; users whose connection breaks leave soon.
DEFAULT_TIMES = ["--ttl", "30s", "--grace", "2s"]
# For tests that wait for a lease to end, still with room for seconds without CPU.
SHORT_LEASE = ["--ttl", "20s"]
# Below the ports that the system assigns to connections, so that no connection takes one while a server restarts. Tests
# in other languages and the measuring scripts use ports from 16000 on.
PORTS = range(10_000, 16_000)
# Without pings of the client: the server sends them.
connect = functools.partial(connect_with_timeouts, open_timeout=DEADLINE, close_timeout=DEADLINE, ping_interval=None)
# Without the settings of the person who runs the tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}
USAGE = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout


def reserve(port):
    """Whether this process gets the port. Then no other test module does, although a server may take seconds until it
    listens, and may be restarted: a name in the kernel, which only one process can have, stands for the port."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0port-{port}-of-rollcall-tests")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        name.close()
        return False
    # Open until this process ends.
    name.detach()
    return True


def free_port():
    while not reserve(port := random.choice(PORTS)):
        pass
    return port


def wait_until(what, holds, poll_seconds=POLL_SECONDS):
    """Returns the first true value of `holds()`. `what` is the expected condition, or a function that describes it."""
    deadline = time.monotonic() + DEADLINE
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE} s: {what() if callable(what) else what}")
        time.sleep(poll_seconds)
    return value


def get_json(url, **options):
    with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=DEADLINE) as answer:
        return json.load(answer)


def is_ready(http, path="/readyz"):
    """Whether the server at this URL is ready. It is not while it gets no CPU for seconds, nor before it has opened its
    ports for good, although these accept connections for a moment before."""
    with contextlib.suppress(OSError):
        return get_json(f"{http}{path}") == {"status": "ok"}
    return False


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Program:
    """A child process whose output lines are collected. Its input stays open; closing it asks the program to exit."""

    def __init__(self, *command, **options):
        self.command = [str(word) for word in command]
        self.lines = []
        self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, **{"env": ENVIRONMENT, **options})
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))

    def expect(self, what, matches):
        """Waits for the first line for which `matches(line)` is true, and returns it."""
        def find():
            found = next((line for line in list(self.lines) if matches(line)), None)
            if found is None and self.child.poll() is not None and not self.reader.is_alive():
                code = self.child.returncode
                raise AssertionError(f"{self.command} exited with {code} before {what}:\n{self.text()}")
            return found
        return wait_until(lambda: f"{what} from {self.command}:\n{self.text()}", find)

    def write(self, line):
        self.child.stdin.write(f"{line}\n")
        self.child.stdin.flush()

    def text(self):
        return "\n".join(self.lines[-40:])

    def finish(self):
        """Closes the input, which asks the program to exit, and waits for that."""
        self.child.stdin.close()
        self.child.wait(DEADLINE)

    def stop(self, how=signal.SIGTERM):
        """Ends the program in any case and returns its exit code. Playwright ignores SIGTERM, but not a closed input."""
        self.child.stdin.close()
        if self.child.poll() is None:
            self.child.send_signal(how)
        try:
            code = self.child.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
        self.reader.join(DEADLINE)
        self.child.stdout.close()
        return code


class Server:
    """A rollcall server. It keeps its port when it is restarted."""

    def __init__(self, *flags):
        self.flags, self.port, self.program = flags, free_port(), None
        self.start()

    def start(self):
        command = [BINARY, "--listen", f"127.0.0.1:{self.port}", *BASE_FLAGS, *self.flags]
        self.program = Program(*command)
        self.program.expect("the address", lambda line: f" http://127.0.0.1:{self.port}" in line)

    @property
    def http(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket(self):
        return f"ws://127.0.0.1:{self.port}"

    def stop(self):
        return self.program.stop()

    def restart(self):
        self.stop()
        self.start()


class Observer:
    """A native client that mirrors one room. It joins the room, or only observes it. It is an error if the server closes
    the connection before it sends the room."""

    def __init__(self, server, user="observer", room="lobby", joins=True, websocket=None, headers=None):
        self.room, self.members, self.messages, self.close_code, self.error = room, None, [], None, None
        query = urllib.parse.urlencode({"user": user})
        self.resources = contextlib.ExitStack()
        url = f"{websocket or server.websocket}/v1/connect?{query}"
        self.socket = self.resources.enter_context(
            connect(url, subprotocols=["presence.v1"], additional_headers=headers))
        self.send({"type": "join" if joins else "observe", "room": room})
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.wait("a snapshot", lambda members: members is not None or self.close_code)
        if self.members is None:
            self.close()
            raise self.error or AssertionError(f"closed with {self.close_code} before a snapshot")

    def send(self, message):
        self.socket.send(json.dumps(message))

    def _read(self):
        try:
            for text in self.socket:
                message = json.loads(text)
                # In this order: tests wait for members, and then read the messages that led to them.
                self.messages.append(message)
                self._apply(message)
        except ConnectionClosedError as error:
            self.error = error
        self.close_code = self.socket.close_code

    def _apply(self, message):
        if message.get("room") != self.room:
            return
        if message["type"] == "snapshot":
            before = self.members if message["page"] > 1 else {}
            self.members = {**before, **{member["user"]: member for member in message["members"]}}
        elif message["type"] == "diff":
            members = dict(self.members)
            changed = message.get("joined", []) + message.get("updated", [])
            members.update((member["user"], member) for member in changed)
            for member in message.get("left", []):
                members.pop(member["user"], None)
            self.members = members

    def wait(self, what, holds):
        describe = lambda: f"{what}; the members are {self.members}, the close code is {self.close_code}"
        wait_until(describe, lambda: holds(self.members))

    def sees(self, *users):
        self.wait(f"{users} online", lambda members: set(users) <= set(members))

    def sees_none_of(self, *users):
        self.wait(f"{users} offline", lambda members: not set(users) & set(members))

    def leave_reasons(self, user):
        """The reason of each leave of `user`, in order."""
        diffs = [message for message in self.messages if message["type"] == "diff"]
        return [left["reason"] for diff in diffs for left in diff.get("left", []) if left["user"] == user]

    def close(self):
        self.resources.close()
        self.reader.join(DEADLINE)


class Case(unittest.TestCase):
    """A test that stops what it started, in reverse order."""

    def server(self, *flags):
        return self.stopped_later(Server(*flags))

    def observer(self, *arguments, **options):
        observer = Observer(*arguments, **options)
        self.addCleanup(observer.close)
        return observer

    def program(self, *command, **options):
        return self.stopped_later(Program(*command, **options))

    def node(self, script, *arguments):
        environment = {**ENVIRONMENT, "CLIENT_PACKAGES": str(PACKAGES)}
        return self.program("node", HERE / "programs" / script, *arguments, env=environment)

    def python(self, script, *arguments):
        return self.program(sys.executable, "-u", HERE / "programs" / script, *arguments)

    def redis(self):
        """Starts a Redis server without persistence and returns its port."""
        port = free_port()
        no_persistence = ["--save", "", "--appendonly", "no"]
        redis = self.program("redis-server", "--port", port, "--bind", "127.0.0.1", *no_persistence, cwd=self.folder())
        wait_until(lambda: f"Redis: {redis.text()}", lambda: accepts(port))
        return port

    def folder(self, parent=None):
        folder = tempfile.TemporaryDirectory(dir=parent)
        self.addCleanup(folder.cleanup)
        return pathlib.Path(folder.name)

    def stopped_later(self, process):
        self.addCleanup(process.stop)
        return process
