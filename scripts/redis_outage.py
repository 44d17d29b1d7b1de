"""An outage of Redis with two nodes: disconnected users, memory, and the time until both nodes agree again.

The first node has observers and users who join and leave; the second node has the other users. The generators check that
no client is disconnected, and that observers know the correct members at the end. Redis is stopped (SIGSTOP: connections
stay open, but commands are not answered) or killed; after a kill, an empty Redis replaces it.
"""
import contextlib, http.client, json, os, signal, statistics, time
import measure

ROOMS = 20
# Counters of the nodes that are recorded once per second during the outage.
SAMPLED = ["memory_bytes", "redis_pending", "users", "connections", "degraded"]
SAMPLE_SECONDS = 1
# The time before the outage is a tenth of the outage, but at least this.
BEFORE_SECONDS = 2
# How much later the other node may show a change: two ticks and 50 ms.
LATE_SECONDS = 0.25
AGREE_WITHIN_SECONDS, AGREE_BUDGET_SECONDS = 120, 2
# Users join and leave in turn, so an outdated list may be correct for a moment.
AGREE_FOR_SECONDS = 1
# How much more memory the nodes may use in the last quarter of the outage than in the second quarter, as a ratio.
FLAT_WITHIN = 0.05
CONNECT_SECONDS, CHECK_SECONDS, NOTICE_SECONDS = 120, 120, 60
STAY_SECONDS = 6


def run(kind, options):
    """Runs one outage. Returns the samples and the results."""
    url = lambda port: f"ws://127.0.0.1:{port}"
    before_seconds = max(BEFORE_SECONDS, options.outage // 10)
    # Longer than the whole run may take: the generators are stopped when the run ends.
    seconds = CONNECT_SECONDS + before_seconds + options.outage + NOTICE_SECONDS + AGREE_WITHIN_SECONDS
    duration = ["--duration", f"{seconds}s", "--warm-up", "0s", "--rooms", ROOMS]
    observers, members = options.users // 10, options.users * 3 // 10
    # Each user joins and leaves two and a half times during the outage, so that changes pile up if they can, and other users
    # are members at its end than at its beginning. A stay is long enough to be observed on a busy machine.
    rate = max(1, min(members * 5 // options.outage, members // STAY_SECONDS))
    present = options.users - observers - members
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(Redis())
        nodes = []
        for name, core in [("first", measure.SERVER_CORE), ("second", measure.SECOND_CORE)]:
            words = ["--redis", f"redis://127.0.0.1:{redis.port}", "--node-id", name, "--ttl", options.ttl, "--drain", "1s"]
            nodes.append(stack.enter_context(measure.rollcall(*words, core=core, name=name))[1])
        churn = ["churn", "--url", url(nodes[0]), "--observers", observers, "--observers-join", "--members", members, "--rate", rate,
                 *duration, *options.patient_observers]
        idle = ["idle", "--url", url(nodes[1]), "--connections", present, "--first-user", measure.FIRST_USER_STEP, *duration, *options.patient]
        generators = stack.enter_context(measure.generating([(churn, measure.GENERATOR_CORE), (idle, measure.GENERATOR_CORE)]))
        wait_for_all(nodes, options.users)
        before = sample(nodes, before_seconds)
        redis.stop(kind)
        # On a busy machine the nodes may notice the outage late.
        during = sample(nodes, options.outage, lambda samples: was_noticed(samples) or len(samples) * SAMPLE_SECONDS > options.outage + NOTICE_SECONDS)
        redis.come_back(kind)
        agreed_after_s = agree(nodes, options.late)
        measure.finish_early(generators)
        measure.wait_for(generators, CHECK_SECONDS)
    if not was_noticed(during):
        raise measure.Failed(f"Redis was {kind}, and no node noticed")
    return {"kind": kind, "users": options.users, "joins_and_leaves_per_s": 2 * rate, "outage_s": options.outage,
            "agreed_after_s": agreed_after_s, **described(before, during), "before": before, "during": during}


def was_noticed(samples):
    """Whether a node was degraded in all samples of the second half of the outage."""
    return all(any(one["degraded"]) for one in samples[len(samples) // 2:])


class Redis:
    """A Redis that can be stopped or killed, and brought back."""

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.process, self.port = self.stack.enter_context(measure.redis())
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)  # A stopped process does not react to SIGTERM.
        self.stack.close()

    def stop(self, kind):
        self.process.send_signal({"stopped": signal.SIGSTOP, "killed": signal.SIGKILL}[kind])

    def come_back(self, kind):
        if kind == "stopped":
            self.process.send_signal(signal.SIGCONT)
        else:
            self.stack.close()
            self.process, self.port = self.stack.enter_context(measure.redis(port=self.port))


def wait_for_all(nodes, users):
    deadline = time.monotonic() + CONNECT_SECONDS
    # The number of users who join and leave varies, more so on a busy machine.
    while min(measure.stats(port)["users"] for port in nodes) < users * 0.95:
        if time.monotonic() > deadline:
            raise measure.Failed(f"not all {users} users are known to both nodes: {[measure.stats(port)['users'] for port in nodes]}")
        time.sleep(0.2)


def sample(nodes, seconds, enough=lambda _: True):
    """Counters of both nodes, once per second, for this time and until `enough` accepts the samples. On a busy machine
    a sample can take seconds; those that are late are taken at once, so that there is one per second."""
    began, samples = time.monotonic(), []
    while (now := time.monotonic() - began) < seconds or len(samples) * SAMPLE_SECONDS < seconds or not enough(samples):
        counted = [measure.stats(port) for port in nodes]
        samples.append({"at_s": round(now, 2), **{name: [one[name] for one in counted] for name in SAMPLED}})
        time.sleep(max(0, len(samples) * SAMPLE_SECONDS - (time.monotonic() - began)))
    return samples


def described(before, during):
    """The results for both nodes together."""
    memory = lambda samples: statistics.mean(sum(one["memory_bytes"]) for one in samples)
    quarter = max(1, len(during) // 4)
    second, last = memory(during[quarter:2 * quarter]), memory(during[-quarter:])
    return {"memory_before_bytes": memory(before), "memory_max_bytes": max(sum(one["memory_bytes"]) for one in during),
            "memory_growth_later": last / second - 1, "pending_max": max(sum(one["redis_pending"]) for one in during)}


def agree(nodes, late):
    """Seconds until both nodes show the same users, and continue to do so. Users who joined or left within the last moment
    are ignored."""
    began, agreed = time.monotonic(), None
    first, second = (http.client.HTTPConnection("127.0.0.1", port, timeout=measure.ANSWER_SECONDS) for port in nodes)
    seen = [(time.monotonic(), members(first))]
    while time.monotonic() - began < AGREE_WITHIN_SECONDS:
        at = time.monotonic()
        other = members(second)
        seen.append((time.monotonic(), members(first)))
        # The lists of the first node since shortly before the other list was read. The other list must contain users who are
        # in all of them, and must not contain users who are in none.
        old = [number for number, (taken, _) in enumerate(seen) if taken <= at - late]
        if old:
            del seen[:old[-1]]
            lists = [users for _, users in seen]
            if set.intersection(*lists) <= other <= set.union(*lists):
                agreed = agreed or at
                if at - agreed >= AGREE_FOR_SECONDS:
                    return agreed - began
            else:
                agreed = None
    missing, extra = set.intersection(*lists) - other, other - set.union(*lists)
    raise measure.Failed(f"the nodes do not agree after {AGREE_WITHIN_SECONDS} s: the second node lacks {len(missing)} users and has "
                         f"{len(extra)} too many, for example {sorted(missing | extra)[:3]}")


def members(connection):
    """The members of all rooms according to one node."""
    found = set()
    for room in (f"room-{number:05}" for number in range(ROOMS)):
        after = ""
        while after is not None:
            connection.request("GET", f"/v1/rooms/{room}/members?limit=1000{after and f'&after={after}'}")
            page = json.load(connection.getresponse())
            found.update((room, member["user"]) for member in page["members"])
            after = page.get("next")
    return found
