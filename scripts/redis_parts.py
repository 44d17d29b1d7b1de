"""Measurements with Redis: the writer compared with redis-benchmark, heartbeats with the floor, and joins across nodes."""
import json, re, resource, subprocess, threading, time
import measure

BATCH = 1000
SEEN_BUDGET_MS = 250
SAMPLE_SECONDS = 1


def writer(options, number):
    """The store's writer and redis-benchmark. Both write keys of the same form, with values of the same length."""
    with measure.redis() as (process, port):
        ours = measured(process, lambda: store_writer(port, options))
        theirs = measured(process, lambda: redis_benchmark(port, ours, options))
        if number % 2:  # The writer also runs second, so that neither of them always uses the Redis in the state that the other one left.
            ours = measured(process, lambda: store_writer(port, options))
    return {"writer": ours, "redis_benchmark": theirs}


def measured(redis, run):
    before = measure.cpu_seconds(redis.pid)
    result = run()
    return {**result, "redis_cpu_per_command_us": (measure.cpu_seconds(redis.pid) - before) / result["redis_commands"] * 1e6}


def store_writer(port, options):
    """Writes all keys once before the measurement starts."""
    command = [measure.BIN / "examples/redis-writer", "--url", f"redis://127.0.0.1:{port}", "--users", options.keys, "--rounds", options.writes]
    done = subprocess.run(measure.pinned(measure.GENERATOR_CORE, command), capture_output=True, text=True, timeout=measure.RUN_SECONDS)
    if done.returncode != 0:
        raise measure.Failed(f"redis-writer failed: {done.stderr[-500:]}")
    result = json.loads(done.stdout)
    return {**result, "redis_commands": result["commands"] + options.keys}


def redis_benchmark(port, ours, options):
    requests = ours["commands"]
    # redis-benchmark replaces this word by twelve digits, as many as the names of the writer's users have.
    key = re.sub(r"\d{12}$", "__rand_int__", ours["key"])
    words = ["-P", BATCH, "-c", 1, "-r", options.keys, "-n", requests, "--csv", "SET", key, "x" * len(ours["value"]), "EX", ours["ttl_s"]]
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", port, *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(measure.pinned(measure.GENERATOR_CORE, command), capture_output=True, text=True, timeout=measure.RUN_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r'^"SET [^"]*","([0-9.]+)"', done.stdout, re.MULTILINE)
    if done.returncode != 0 or not found:
        raise measure.Failed(f"redis-benchmark failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"command": " ".join(map(str, command[:1] + words)), "redis_commands": requests, "commands_per_s": float(found.group(1)),
            "cpu_per_command_us": cpu / requests * 1e6}


def heartbeat(options, _):
    """The same heartbeats with the floor, with a server without Redis, and with a server with Redis."""
    load = ["--connections", options.connections, "--rate", options.rate, "--duration", options.duration, *options.patient]
    with measure.floor() as (process, port):
        floor = measure.loadtest("heartbeat", port, process.pid, "--protocol", "floor", *load)
    with measure.rollcall("--ttl", options.ttl) as (process, port):
        memory = measure.loadtest("heartbeat", port, process.pid, *load)
    with measure.redis() as (store, store_port), \
            measure.rollcall("--ttl", options.ttl, "--redis", f"redis://127.0.0.1:{store_port}") as (process, port), \
            Sampler(port, store, store_port) as sampler:
        redis = measure.loadtest("heartbeat", port, process.pid, *load)
    return {"floor": floor, "memory": memory, "redis": redis, "store": sampler.steady(options)}


class Sampler(threading.Thread):
    """Records counters of a server and its Redis once per second, and at the beginning and the end of the block."""

    def __init__(self, port, redis, redis_port):
        super().__init__(daemon=True)
        self.where = port, redis, redis_port
        self.samples, self.over = [], threading.Event()

    def __enter__(self):
        self.sample()
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()
        self.sample()

    def run(self):
        while not self.over.wait(SAMPLE_SECONDS):
            self.sample()

    def sample(self):
        port, redis, redis_port = self.where
        counted = measure.stats(port)
        calls = measure.redis_info(redis_port, "commandstats")
        self.samples.append({**{name: counted[name] for name in ["heartbeats", "redis_commands", "redis_keys_written", "redis_flushes"]},
                             "at_s": time.monotonic(), "redis_cpu_s": measure.cpu_seconds(redis.pid),
                             "calls": {name: int(re.match(r"calls=(\d+)", text).group(1)) for name, text in calls.items()
                                       if name.startswith("cmdstat_")}})

    def steady(self, options):
        """Figures of the seconds in which the planned rate was reached. The period is a whole number of half leases, because
        keys of users who connected together are written together. In quick runs, whose figures mean nothing, it is the
        whole run."""
        if options.quick:
            return self.between(self.samples[0], self.samples[-1], options)
        pairs = list(zip(self.samples, self.samples[1:]))
        full = [pair for pair in pairs if pair[1]["heartbeats"] - pair[0]["heartbeats"] > 0.9 * options.rate * (pair[1]["at_s"] - pair[0]["at_s"])]
        if not full:
            raise measure.Failed(f"the rate of {options.rate} heartbeats per second was never reached")
        first, half = full[0][0], seconds_of(options.ttl) / 2
        since = lambda sample: sample["at_s"] - first["at_s"]
        whole = (since(full[-1][1]) + SAMPLE_SECONDS / 2) // half * half
        if whole == 0:
            raise measure.Failed(f"a run of {options.duration} is too short: the rate must be reached for half a lease of {options.ttl}")
        return self.between(first, min((sample for _, sample in full), key=lambda sample: abs(since(sample) - whole)), options)

    def between(self, first, last, options):
        seconds = last["at_s"] - first["at_s"]
        rise = lambda name: last[name] - first[name]
        renewals = options.connections * seconds / (seconds_of(options.ttl) / 2)
        calls = {name.removeprefix("cmdstat_"): count - first["calls"].get(name, 0) for name, count in last["calls"].items()}
        return {"seconds": seconds, "commands_per_heartbeat": rise("redis_commands") / rise("heartbeats"),
                "commands_per_user_and_half_ttl": rise("redis_commands") / renewals,
                "keys_per_user_and_half_ttl": rise("redis_keys_written") / renewals,
                "flushes_per_s": rise("redis_flushes") / seconds, "redis_cpu_cores": rise("redis_cpu_s") / seconds,
                "redis_cpu_per_heartbeat_us": rise("redis_cpu_s") / rise("heartbeats") * 1e6, "calls_by_redis": calls}


def seconds_of(duration):
    return float(duration.removesuffix("s"))


def across(options, _):
    """Joins seen by observers on the same of two nodes, and on the other node."""
    with measure.redis() as (_, store_port):
        words = ["--redis", f"redis://127.0.0.1:{store_port}", "--ttl", options.ttl]
        with measure.rollcall(*words, name="first") as (first, port), \
                measure.rollcall(*words, core=measure.SECOND_CORE, name="second") as (second, other):
            churn = ["--observers", options.observers, "--members", 200, "--rate", 50, "--duration", options.duration, *options.patient_observers]
            return {"same": measure.loadtest("churn", port, first.pid, *churn),
                    "other": measure.loadtest("churn", port, f"{first.pid},{second.pid}", "--observe-url", f"ws://127.0.0.1:{other}",
                                              "--first-user", measure.FIRST_USER_STEP, *churn)}
