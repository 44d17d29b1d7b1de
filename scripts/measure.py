"""What the measuring scripts share: servers pinned to a core, the generator on another, and filed results.

Figures count as ratios of one run: servers take turns (A B A B ...), each started anew for each run.
"""
import argparse, contextlib, datetime, json, os, pathlib, platform, re, shutil, socket, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, GENERATOR_CORE = CORES[0], CORES[min(1, len(CORES) - 1)]
# Where there are two cores only, Redis shares the generator's: the server keeps its own.
REDIS_CORE = CORES[min(2, len(CORES) - 1)]
START_SECONDS, STOP_SECONDS = 30, 10
EXIT_USAGE = 64


class Failed(Exception):
    """A run that could not be made, or whose figures do not hold."""


class Arguments(argparse.ArgumentParser):
    """A script's options, its own text as the help. A wrong command line exits as the server's does."""

    def __init__(self, text):
        name = f"scripts/{pathlib.Path(sys.argv[0]).name}"
        super().__init__(prog=name, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")

    def add_name(self):
        self.add_argument("--name", type=folder_part, default="machine", help="what the machine is called in the names of folders")

    def add_rounds(self, default):
        self.add_argument("--rounds", type=positive, default=default, help=f"default {default}")


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def folder_part(text):
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError("it is part of a folder's name: letters, digits, dots, dashes")
    return text


def pinned(core, command):
    return ["taskset", "-c", str(core), *map(str, command)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def serving(command, port, core=SERVER_CORE, name="server"):
    """Runs a server until the block ends; yields its process when it accepts connections."""
    path = ROOT / "target" / f"measure-{name}.log"
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
def rollcall(*options, core=SERVER_CORE, workers=1):
    port = free_port()
    command = [BIN / "rollcall", "--listen", f"127.0.0.1:{port}", "--workers", workers, *options]
    with serving(command, port, core, "rollcall") as process:
        yield process, port


@contextlib.contextmanager
def floor(*options):
    port = free_port()
    with serving([BIN / "loadtest", "floor", "--listen", f"127.0.0.1:{port}", *options], port, name="floor") as process:
        yield process, port


@contextlib.contextmanager
def redis(core=REDIS_CORE):
    """A redis-server of our own that keeps nothing on disk; yields its process and port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        with serving(command, port, core, "redis") as process:
            yield process, port


def run_loadtest(words, core=GENERATOR_CORE, seconds=300):
    """Runs the generator, pinned; a run whose figures do not hold fails."""
    # Relative: the command is filed with the result, which names no path of a machine.
    words = [word.relative_to(ROOT) if isinstance(word, pathlib.Path) else word for word in words]
    command = [BIN / "loadtest", *words]
    done = subprocess.run(pinned(core, command), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    if done.returncode != 0:
        raise Failed(f"loadtest {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def run_loadtests(runs, out):
    """Several generators at once, each with a core and users of its own; their reports are merged into `out`."""
    processes, parts = [], []
    for number, (words, core) in enumerate(runs):
        parts.append(out.with_name(f"generator-{number}.json"))
        words = [*words, "--first-user", number * 1_000_000, "--json", parts[-1].relative_to(ROOT)]
        processes.append(subprocess.Popen(pinned(core, [BIN / "loadtest", *words]), cwd=ROOT, stdin=subprocess.DEVNULL,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs):
        if process.returncode != 0:
            raise Failed(f"{' '.join(process.args)} ended with {process.returncode}:\n{output[-2000:]}")
    run_loadtest(["merge", *parts, "--json", out])
    return tidy(out)


def loadtest(scenario, port, pid, *options):
    """One run against a server; its report."""
    out = ROOT / "target" / "measure.json"
    out.unlink(missing_ok=True)
    run_loadtest([scenario, "--url", f"ws://127.0.0.1:{port}", "--pid", pid, "--json", out, *options])
    return tidy(out)


def tidy(path):
    """What is filed of a report: without the numbers that only merging generators needs."""
    report = json.loads(path.read_text())
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


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        packages = sorted({"redis-server": "redis-server", "redis-benchmark": "redis-tools", "taskset": "util-linux"}.get(program, program)
                          for program in missing)
        subprocess.run([ROOT / "scripts" / "install", *packages], check=True)


def build():
    subprocess.run(["cargo", "build", "--release", "--workspace", "--quiet"], cwd=ROOT, check=True)


def main(body):
    """Runs a script's body; what goes wrong is a sentence, not a stack."""
    try:
        body()
    except Failed as failure:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
