"""Shared by the measuring scripts: servers pinned to one core, the load generator on another, and files under results/.

Only ratios within one run are meaningful: servers take turns (A B A B ...), and each run gets a fresh server.
"""
import argparse, contextlib, datetime, json, os, pathlib, platform, random, re, shlex, shutil, signal, socket, statistics
import subprocess, sys, tempfile, textwrap, time, urllib.request
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TARGET)).resolve()
BIN = BUILT / "release"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, GENERATOR_CORE = CORES[0], CORES[min(1, len(CORES) - 1)]
# With only two cores, Redis shares the generator's core, not the server's.
REDIS_CORE = CORES[min(2, len(CORES) - 1)]
# The core of a second server; with fewer than four cores it is that of Redis.
SECOND_CORE = CORES[min(3, len(CORES) - 1)]
# Timeouts that only failures reach.
START_SECONDS, STOP_SECONDS, RUN_SECONDS, ANSWER_SECONDS = 120, 60, 600, 60
# Below the ephemeral ports, so that no connection takes the port of a server while it restarts, and not those of
# tests/clients and tests/browser, which may run at the same time.
PORTS = range(20_000, 22_000)
# Options of generators in quick runs, whose figures mean nothing: on a busy machine clients are slow, which is not a
# failure.
LONG_TIMEOUTS = ["--connect-timeout", "2m"]
LONG_OBSERVER_TIMEOUTS = [*LONG_TIMEOUTS, "--settle-timeout", "2m"]
# The distance between the first users of two generators; more than a generator has users.
FIRST_USER_STEP = 1_000_000
EXIT_USAGE = 64


class Failed(Exception):
    """A run failed, or its figures are invalid."""


class Figure(NamedTuple):
    """A figure of a report as a column of a table. The value is divided by `divisor` to get the unit."""
    name: str
    heading: str
    unit: str
    divisor: float = 1


def cpu_per(unit_of_work):
    return Figure(f"server_cpu_per_{unit_of_work}_us", f"CPU time per {unit_of_work}", "µs")


SEEN_P50 = Figure("join_to_seen_p50_us", "join → seen, p50", "ms", 1000)
SEEN_P99 = Figure("join_to_seen_p99_us", "join → seen, p99", "ms", 1000)
DELIVERIES = Figure("deliveries_per_s", "deliveries", "1/s")
BUSY = Figure("server_cpu_cores", "server CPU", "cores")
ALL_REJOINED = Figure("all_rejoined_s", "until all have rejoined", "s")
IDLE_MEMORY = Figure("server_rss_per_connection_bytes", "memory per connection", "B")
IDLE_CPU = Figure("server_cpu_per_connection_ns_per_s", "CPU time per connection and second", "ns")


class Arguments(argparse.ArgumentParser):
    """The options of a script. Its docstring is the help text; a wrong command line exits with 64, like the server's."""

    def __init__(self, text):
        super().__init__(prog=script(), description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")

    def add(self, option, default, text, **more):
        """Adds an option and shows its default in the help."""
        self.add_argument(option, default=default, help=f"{text} (default: {default})", **more)

    def add_count(self, option, default, text):
        self.add(option, default, text, type=positive, metavar="N")

    def add_name(self):
        self.add("--name", "machine", "name of the machine, as part of folder names", type=folder_part)

    def add_rounds(self, default):
        self.add_count("--rounds", default, "number of rounds; each run is repeated once per round")

    def add_only(self, names):
        self.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME",
                          help=f"run only these: {', '.join(names)} (default: all)")


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def folder_part(text):
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError("must consist of letters, digits, dots, underscores and dashes: it is part of a folder name")
    return text


def script():
    return f"scripts/{pathlib.Path(sys.argv[0]).name}"


def command_line():
    """This command as it is written to files, without paths of this machine."""
    return shlex.join([script(), *map(without_folder, sys.argv[1:])])


def without_folder(word):
    """An absolute path without its folder.

    >>> without_folder("/tmp/before/release/rollcall"), without_folder("target/x"), without_folder("--rounds")
    ('.../rollcall', 'target/x', '--rounds')
    """
    return f".../{pathlib.Path(word).name}" if word.startswith("/") else word


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
    """Runs a server until the block ends. Yields its process once it accepts connections."""
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
def rollcall(*options, core=SERVER_CORE, workers=1, name="rollcall", binary=None):
    """A rollcall server, of another build if `binary` is given. Yields its process and port."""
    port = free_port()
    command = [binary or BIN / "rollcall", "--listen", f"127.0.0.1:{port}", "--workers", workers, *options]
    with serving(command, port, core, name) as process:
        yield process, port


@contextlib.contextmanager
def floor(*options):
    port = free_port()
    with serving([BIN / "loadtest", "floor", "--listen", f"127.0.0.1:{port}", *options], port, name="floor") as process:
        yield process, port


@contextlib.contextmanager
def redis(core=REDIS_CORE, port=None):
    """A redis-server without persistence, on a free port or on the given one. Yields its process and port."""
    port = port or free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        with serving(command, port, core, "redis") as process:
            yield process, port


def stats(port):
    """The /v1/stats of a rollcall server."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/stats", timeout=ANSWER_SECONDS) as answer:
        return json.load(answer)


def redis_info(port, section):
    """The fields of one section of a Redis server's INFO."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection, connection.makefile("rb") as answer:
        connection.sendall(f"INFO {section}\r\n".encode())
        text = answer.read(int(answer.readline()[1:])).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


@contextlib.contextmanager
def generating(runs):
    """Runs generators at the same time until the block ends. `runs` has the arguments and the core of each. Yields
    (command, process) pairs."""
    # Relative paths: the report contains the command, and must not contain paths of this machine.
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
    """Ends generators before their time, with their reports and checks."""
    for _, process in generators:
        process.send_signal(signal.SIGINT)


def wait_for(generators, seconds):
    """Waits until all generators have ended. Fails if one of them failed or its figures are invalid."""
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
    """Runs several generators against one server, each with its own users. Returns their merged report."""
    parts = [TARGET / f"generator-{number}.json" for number in range(len(runs))]
    own = lambda number: ["--first-user", number * FIRST_USER_STEP, "--json", parts[number]]
    run_generators([([*words, *own(number)], core) for number, (words, core) in enumerate(runs)])
    return merge(parts)


def loadtest(scenario, port, pid, *options):
    """One run against a server. Returns its report."""
    out = TARGET / "measure.json"
    run_loadtest([scenario, "--url", f"ws://127.0.0.1:{port}", "--pid", pid, "--json", out, *options])
    return read_report(out)


def merge(parts, *options):
    """Merges reports or series and deletes their files."""
    out = TARGET / "merged.json"
    run_loadtest(["merge", *parts, "--json", out, *options])
    for part in parts:
        part.unlink()
    return read_report(out)


def file_series(parts, folder):
    """Joins series and writes the result and its page to a folder."""
    series = merge(parts, "--report", folder)
    write_json(folder / "run.json", series)
    return series


def read_report(path):
    """Reads a report and deletes its file. The encoded histograms, which only `merge` needs, are left out."""
    report = json.loads(path.read_text())
    path.unlink()
    for one in [report, *(run["report"] for run in report.get("runs", []))]:
        for latency in one.get("latencies", {}).values():
            latency.pop("histogram_v2", None)
    return report


def cpu_seconds(pid):
    """CPU time of all threads of a process, from the scheduler's statistics."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9


def spread(values):
    """Median, minimum and maximum of the runs.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0, 'runs': [3.0, 1.0, 2.0]}
    """
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


def ratios(values, base):
    """Spread of the ratios within each round.

    >>> ratios([2.0, 9.0], [1.0, 3.0])
    {'median': 2.5, 'min': 2.0, 'max': 3.0, 'runs': [2.0, 3.0]}
    """
    return spread(value / other for value, other in zip(values, base))


def describe_machine(machine):
    """The machine and the commit, for a README."""
    return (f"{machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, {machine['rustc']}, "
            f"commit {machine['commit'][:12]}{' with uncommitted changes' if machine['uncommitted_changes'] else ''}")


def file_readme(folder, title, about, machine, lines):
    """Writes the folder's README: what was measured, on which machine, with which command, and the result. Returns it."""
    measured_on = f"Measured on {describe_machine(machine)} ([machine.json](machine.json))."
    head = [f"# {title}", "", *wrapped(f"{about} {measured_on}"), "", "```", command_line(), "```", ""]
    text = "\n".join([*head, *lines]).rstrip() + "\n"
    (folder / "README.md").write_text(text)
    write_json(folder / "machine.json", machine)
    return text


def wrapped(text):
    """A paragraph as lines of at most 120 columns."""
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def table(headings, rows):
    return [f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows]]


def cell(entry, divisor=1):
    """The median, and in parentheses minimum and maximum if they differ.

    >>> cell({"median": 1234.5, "min": 1000.0, "max": 2000.0}, 1000), cell({"median": 150.0, "min": 150.0, "max": 150.0})
    ('1.23 (1.00 to 2.00)', '150')
    """
    if entry is None:
        return "–"
    decimals = 0 if abs(entry["median"] / divisor) >= 100 else 2
    median, minimum, maximum = (f"{entry[part] / divisor:,.{decimals}f}" for part in ["median", "min", "max"])
    return median if minimum == maximum else f"{median} ({minimum} to {maximum})"


def notes(report):
    """The notes of a report as a list."""
    lines = (line for note in report["notes"] for line in
             textwrap.wrap(note, 120, initial_indent="- ", subsequent_indent="  ", break_long_words=False))
    return ["", "Notes of the runs:", "", *lines] if report["notes"] else []


def need(*programs):
    """Installs the Debian packages of programs that are missing."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        packages = sorted({"redis-server": "redis-server", "redis-benchmark": "redis-tools", "taskset": "util-linux"}.get(program, program)
                          for program in missing)
        subprocess.run([ROOT / "scripts" / "install", *packages], check=True)


def build(*more, quick=False):
    """Builds the release binaries. For quick runs, whose figures mean nothing, the debug build that the tests use suffices."""
    global BIN
    profile = ["--release"] if not quick else []
    BIN = BUILT / ("release" if not quick else "debug")
    subprocess.run(["cargo", "build", *profile, "--workspace", "--quiet", *more], cwd=ROOT, check=True)


def main(body):
    """Runs the body of a script. Errors are printed as a sentence, and servers are stopped whatever ends the script."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        body()
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        sys.exit(f"{script()}: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
