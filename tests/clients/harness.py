"""What the tests of foreign clients stand on: the real server, a native observer that mirrors its lobby, and foreign programs.

Everything that is started here is ended here, by its own process id.
"""
import contextlib, functools, json, os, pathlib, random, re, signal, socket, subprocess, sys, tempfile, threading, time, unittest, urllib.parse
import urllib.request

from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as connect_within

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ROOT / "target" / "clients"
BINARY = pathlib.Path(os.environ.get("ROLLCALL_BIN") or ROOT / "target/debug/rollcall")
# How long anything may take before a test gives up: reached only by failures, so a loaded machine is slower and not red.
DEADLINE = 120
POLL = 0.02
# Ticks short enough for a test; a client that is slow to say what it wants is not sent away.
QUICK = ["--tick", "50ms", "--workers", "2", "--drain", "500ms", "--header-timeout", "2m"]
# Nobody who gets no CPU for seconds is taken for dead, and who goes without a word is soon seen to have gone.
STEADY = ["--ttl", "30s", "--grace", "2s"]
# Below the ports that the system gives to connections: nobody takes one while a server restarts.
PORTS = range(20_000, 32_000)
# The server asks whether its clients are there: these do not ask themselves.
connect = functools.partial(connect_within, open_timeout=DEADLINE, close_timeout=DEADLINE, ping_interval=None)
# No settings of the person who runs the tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}
USAGE = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout


def free_port():
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(what, holds):
    """Returns the first true value of `holds()`."""
    deadline = time.monotonic() + DEADLINE
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"within {DEADLINE} s there was not: {what() if callable(what) else what}")
        time.sleep(POLL)
    return value


def get_json(url, **more):
    with urllib.request.urlopen(urllib.request.Request(url, **more), timeout=DEADLINE) as answer:
        return json.load(answer)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Program:
    """A child process whose lines are collected. Its standard input stays open until it is to end."""

    def __init__(self, *command, **more):
        self.command = [str(word) for word in command]
        self.lines = []
        self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, **{"env": ENVIRONMENT, **more})
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))

    def said(self, what, matches):
        """The first line for which `matches(line)` is true, waited for."""
        def found():
            hit = next((line for line in list(self.lines) if matches(line)), None)
            if hit is None and self.child.poll() is not None and not self.reader.is_alive():
                raise AssertionError(f"{self.command} ended with {self.child.returncode} before {what}:\n{self.text()}")
            return hit
        return wait_until(lambda: f"{what} from {self.command}:\n{self.text()}", found)

    def tell(self, line):
        self.child.stdin.write(f"{line}\n")
        self.child.stdin.flush()

    def text(self):
        return "\n".join(self.lines[-40:])

    def finish(self):
        """Closes its input, which tells these programs to end, and waits for that."""
        self.child.stdin.close()
        self.child.wait(DEADLINE)

    def stop(self, how=signal.SIGTERM):
        """Ends it whatever it does; returns its exit code. Playwright turns SIGTERM off, but its input ends too."""
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
    """rollcall on a port of its own, which it keeps over a restart."""

    def __init__(self, *flags):
        self.flags, self.port, self.program = flags, free_port(), None
        self.start()

    def start(self):
        command = [BINARY, "--listen", f"127.0.0.1:{self.port}", *QUICK, *self.flags]
        self.program = Program(*command)
        self.program.said("its address", lambda line: f"open http://127.0.0.1:{self.port}" in line)

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
    """A native client that mirrors one room, as a member or unseen."""

    def __init__(self, server, user="observer", room="lobby", joins=True, websocket=None):
        self.room, self.members, self.log, self.ended = room, None, [], None
        query = urllib.parse.urlencode({"user": user})
        self.open = contextlib.ExitStack()
        url = f"{websocket or server.websocket}/v1/connect?{query}"
        self.socket = self.open.enter_context(connect(url, subprotocols=["presence.v1"]))
        self.send({"type": "join" if joins else "observe", "room": room})
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.wait("a snapshot", lambda members: members is not None)

    def send(self, message):
        self.socket.send(json.dumps(message))

    def _read(self):
        with contextlib.suppress(ConnectionClosedError):
            for text in self.socket:
                message = json.loads(text)
                self._apply(message)
                self.log.append(message)
        self.ended = self.socket.close_code

    def _apply(self, message):
        if message.get("room") != self.room:
            return
        if message["type"] == "snapshot":
            before = self.members if message["page"] > 1 else {}
            self.members = {**before, **{member["user"]: member for member in message["members"]}}
        elif message["type"] == "diff":
            members = dict(self.members)
            members.update((member["user"], member) for member in message.get("joined", []) + message.get("updated", []))
            for member in message.get("left", []):
                members.pop(member["user"], None)
            self.members = members

    def wait(self, what, holds):
        wait_until(lambda: f"{what}; members are {self.members}, the end is {self.ended}", lambda: holds(self.members))

    def sees(self, *users):
        self.wait(f"{users} online", lambda members: set(users) <= set(members))

    def misses(self, *users):
        self.wait(f"{users} offline", lambda members: not set(users) & set(members))

    def departures(self, user):
        """Why `user` left, each time."""
        lefts = [left for message in self.log if message["type"] == "diff" for left in message.get("left", [])]
        return [left["reason"] for left in lefts if left["user"] == user]

    def close(self):
        self.open.close()
        self.reader.join(DEADLINE)


class Case(unittest.TestCase):
    """A test that ends what it started, the last first."""

    def server(self, *flags):
        return self.started(Server(*flags))

    def observer(self, *arguments, **more):
        observer = Observer(*arguments, **more)
        self.addCleanup(observer.close)
        return observer

    def program(self, *command, **more):
        return self.started(Program(*command, **more))

    def node(self, script, *arguments):
        environment = {**ENVIRONMENT, "CLIENT_PACKAGES": str(PACKAGES)}
        return self.program("node", HERE / "programs" / script, *arguments, env=environment)

    def python(self, script, *arguments):
        return self.program(sys.executable, "-u", HERE / "programs" / script, *arguments)

    def redis(self):
        """A Redis of its own that keeps nothing; returns its port."""
        port = free_port()
        keep_nothing = ["--save", "", "--appendonly", "no"]
        redis = self.program("redis-server", "--port", port, "--bind", "127.0.0.1", *keep_nothing, cwd=self.folder())
        wait_until(lambda: f"Redis: {redis.text()}", lambda: accepts(port))
        return port

    def folder(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return pathlib.Path(folder.name)

    def started(self, one):
        self.addCleanup(one.stop)
        return one
