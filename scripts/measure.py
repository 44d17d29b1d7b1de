"""What the measuring scripts share: servers pinned to a core, the generator on another, and filed results.

Figures count as ratios of one run: servers take turns (A B A B ...), each started anew for each run.
"""
import argparse, contextlib, datetime, json, os, pathlib, platform, random, re, shlex, shutil, signal, socket, statistics, subprocess, sys, tempfile
import time
import urllib.request
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TARGET)).resolve()
BIN = BUILT / "release"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, GENERATOR_CORE = CORES[0], CORES[min(1, len(CORES) - 1)]
# Where there are two cores only, Redis shares the generator's: the server keeps its own.
REDIS_CORE = CORES[min(2, len(CORES) - 1)]
# Of a second server; with fewer than four cores it shares Redis'.
SECOND_CORE = CORES[min(3, len(CORES) - 1)]
# Only failures take so long.
START_SECONDS, STOP_SECONDS, RUN_SECONDS, ANSWER_SECONDS = 120, 60, 600, 60
# Below the ports that the system gives to connections: nobody takes one while a server restarts.
PORTS = range(20_000, 32_000)
# Of generators, where figures mean nothing: who gets no CPU is late and not gone.
PATIENT = ["--connect-timeout", "2m"]
PATIENT_OBSERVERS = [*PATIENT, "--settle-timeout", "2m"]
# Far more users than a generator has.
USERS_APART = 1_000_000
EXIT_USAGE = 64


class Failed(Exception):
    """A run that could not be made, or whose figures do not hold."""


class Figure(NamedTuple):
    """A figure of a report as a column: the value is divided to have the unit."""
    name: str
    heading: str
    unit: str
    divisor: float = 1


def cpu_per(unit_of_work):
    return Figure(f"server_cpu_per_{unit_of_work}_us", f"CPU per {unit_of_work}", "µs")


SEEN_P50 = Figure("join_to_seen_p50_us", "join → seen, p50", "ms", 1000)
SEEN_P99 = Figure("join_to_seen_p99_us", "join → seen, p99", "ms", 1000)
DELIVERIES = Figure("deliveries_per_s", "deliveries", "1/s")
BUSY = Figure("server_cpu_cores", "busy", "cores")
ALL_IN = Figure("all_rejoined_s", "until all have rejoined", "s")
IDLE_MEMORY = Figure("server_rss_per_connection_bytes", "memory per connection", "B")
IDLE_CPU = Figure("server_cpu_per_connection_ns_per_s", "CPU per connection and second", "ns")


class Arguments(argparse.ArgumentParser):
    """A script's options, its own text as the help. A wrong command line exits as the server's does."""

    def __init__(self, text):
        super().__init__(prog=script(), description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")

    def add(self, option, default, text, **more):
        """An option whose help ends with its default."""
        self.add_argument(option, default=default, help=f"{text} (default: {default})", **more)

    def add_count(self, option, default, text):
        self.add(option, default, text, type=positive, metavar="N")

    def add_name(self):
        self.add("--name", "machine", "what the machine is called in the names of folders", type=folder_part)

    def add_rounds(self, default):
        self.add_count("--rounds", default, "how often each run is made")

    def add_only(self, names):
        self.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME",
                          help=f"some of {', '.join(names)} (default: all)")


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def folder_part(text):
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError("it is part of a folder's name: letters, digits, dots, dashes")
    return text


def script():
    return f"scripts/{pathlib.Path(sys.argv[0]).name}"


def command_line():
    """The command that runs, as it is filed."""
    return shlex.join([script(), *sys.argv[1:]])


def pinned(core, command):
    return ["taskset", "-c", str(core), *map(str, command)]


def free_port():
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def serving(command, port, core=SERVER_CORE, name="server"):
    """Runs a server until the block ends; yields its process when it accepts connections."""
    TARGET.mkdir(exist_ok=True)
    path = TARGET / f"measure-{name}.log"
    with open(path, "w") as log:
        process = subprocess.Popen(pinned(core, command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{name} does not accept connections:\n{path.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def rollcall(*options, core=SERVER_CORE, workers=1, name="rollcall"):
    port = free_port()
    command = [BIN / "rollcall", "--listen", f"127.0.0.1:{port}", "--workers", workers, *options]
    with serving(command, port, core, name) as process:
        yield process, port


@contextlib.contextmanager
def floor(*options):
    port = free_port()
    with serving([BIN / "loadtest", "floor", "--listen", f"127.0.0.1:{port}", *options], port, name="floor") as process:
        yield process, port


@contextlib.contextmanager
def redis(core=REDIS_CORE, port=None):
    """A redis-server of our own that keeps nothing on disk, on a free port or on this one; yields its process and port."""
    port = port or free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        with serving(command, port, core, "redis") as process:
            yield process, port


def stats(port):
    """What a rollcall server counts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/stats", timeout=ANSWER_SECONDS) as answer:
        return json.load(answer)


def redis_info(port, section):
    """The fields of one section of what a Redis says of itself."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection, connection.makefile("rb") as answer:
        connection.sendall(f"INFO {section}\r\n".encode())
        text = answer.read(int(answer.readline()[1:])).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


@contextlib.contextmanager
def generating(runs):
    """Generators at once, each with the words of its command on a core, until the block ends; yields them."""
    # Relative: the command is filed with the result, which names no path of a machine.
    relative = lambda word: str(word.relative_to(ROOT) if isinstance(word, pathlib.Path) else word)
    processes = []
    try:
        for words, core in runs:
            generator = ["loadtest", *map(relative, words)]
            process = subprocess.Popen(pinned(core, [BIN / generator[0], *generator[1:]]), cwd=ROOT, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            processes.append((shlex.join(generator), process))
        yield processes
    finally:
        for _, process in processes:
            process.kill()
            process.wait()


def finish_early(generators):
    """They end with their reports and their checks."""
    for _, process in generators:
        process.send_signal(signal.SIGINT)


def wait_for(generators, seconds):
    """Waits until all have ended; one whose figures do not hold fails."""
    for generator, process in generators:
        output, _ = process.communicate(timeout=seconds)
        if process.returncode != 0:
            raise Failed(f"{generator} ended with {process.returncode}:\n{output[-2000:]}")


def run_generators(runs, seconds=RUN_SECONDS):
    with generating(runs) as generators:
        wait_for(generators, seconds)


def run_loadtest(words, core=GENERATOR_CORE, seconds=RUN_SECONDS):
    run_generators([(words, core)], seconds)


def loadtests(runs):
    """Several generators on one server, each with users of its own; their reports as one."""
    parts = [TARGET / f"generator-{number}.json" for number in range(len(runs))]
    own = lambda number: ["--first-user", number * USERS_APART, "--json", parts[number]]
    run_generators([([*words, *own(number)], core) for number, (words, core) in enumerate(runs)])
    return merge(parts)


def loadtest(scenario, port, pid, *options):
    """One run against a server; its report."""
    out = TARGET / "measure.json"
    run_loadtest([scenario, "--url", f"ws://127.0.0.1:{port}", "--pid", pid, "--json", out, *options])
    return taken(out)


def merge(parts, *options):
    """Reports or series of several files as one; the files are gone then."""
    out = TARGET / "merged.json"
    run_loadtest(["merge", *parts, "--json", out, *options])
    for part in parts:
        part.unlink()
    return taken(out)


def file_series(parts, folder):
    """Series as one, filed with its page."""
    series = merge(parts, "--report", folder)
    write_json(folder / "run.json", series)
    return series


def taken(path):
    """What is filed of a report: without the numbers that only merging generators needs. The file is gone then."""
    report = json.loads(path.read_text())
    path.unlink()
    for one in [report, *(run["report"] for run in report.get("runs", []))]:
        for latency in one.get("latencies", {}).values():
            latency.pop("histogram_v2", None)
    return report


def cpu_seconds(pid):
    """Of all threads of a process, as the scheduler counts it."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9


def spread(values):
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": values}


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    run = lambda *command: subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": cpu.group(1) if cpu else "?", "cores": len(CORES), "memory_kib": int(memory.group(1)),
            "kernel": platform.release(), "rustc": run("rustc", "--version"), "commit": run("git", "rev-parse", "HEAD"),
            "uncommitted_changes": bool(run("git", "status", "--porcelain", "src", "loadtest", "benches", "Cargo.toml", "Cargo.lock")),
            "load_average_at_start": os.getloadavg()[0]}


def results_folder(name, subject):
    folder = ROOT / "results" / f"{datetime.date.today()}-{name}-{subject}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def place(machine):
    """The machine, as a sentence."""
    return (f"{machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, {machine['rustc']}, commit {machine['commit'][:12]}"
            f"{' with changes' if machine['uncommitted_changes'] else ''}")


def file_readme(folder, title, about, machine, lines):
    """The folder's README: what was measured, where, with which command, and what was found. Returns it."""
    text = "\n".join([f"# {title}", "", f"{about} On {place(machine)} ([machine.json](machine.json)).", "", "```", command_line(), "```", "", *lines]).rstrip() + "\n"
    (folder / "README.md").write_text(text)
    write_json(folder / "machine.json", machine)
    return text


def table(headings, rows):
    return [f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows]]


def cell(entry, divisor=1):
    """Median, least and most, where they differ."""
    if entry is None:
        return "–"
    decimals = 0 if abs(entry["median"] / divisor) >= 100 else 2
    median, least, most = (f"{entry[part] / divisor:,.{decimals}f}" for part in ["median", "min", "max"])
    return median if least == most else f"{median} ({least} to {most})"


def notes(report):
    """What a report says of itself besides its figures."""
    return ["", "What the runs noted:", "", *(f"- {note}" for note in report["notes"])] if report["notes"] else []


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        packages = sorted({"redis-server": "redis-server", "redis-benchmark": "redis-tools", "taskset": "util-linux"}.get(program, program)
                          for program in missing)
        subprocess.run([ROOT / "scripts" / "install", *packages], check=True)


def build(*more, quick=False):
    """What is to be measured; where figures mean nothing, the tests' own build of it will do."""
    global BIN
    profile = ["--release"] if not quick else []
    BIN = BUILT / ("release" if not quick else "debug")
    subprocess.run(["cargo", "build", *profile, "--workspace", "--quiet", *more], cwd=ROOT, check=True)


def main(body):
    """Runs a script's body; what goes wrong is a sentence, not a stack, and whatever ends it, the servers end with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        body()
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        sys.exit(f"{script()}: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
