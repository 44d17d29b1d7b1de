"""Two nodes while their Redis is away: who is lost, what it costs in memory, and when both show the same again.

Half of the crowd comes and goes at the first node before observers, the others are at the second; generators check that nobody
is dropped and that observers know the truth in the end. Redis is stopped (SIGSTOP: connections stay and nothing answers) or
killed, in which case an empty one takes its place.
"""
import contextlib, http.client, json, os, signal, statistics, time
import measure

ROOMS = 20
# What the nodes count each second while Redis is away.
SAMPLED = ["memory_bytes", "redis_pending", "users", "connections", "degraded"]
SAMPLE_SECONDS = 1
# A tenth of the outage, but so much at least.
BEFORE_SECONDS = 2
# So much later than the one the other node may show a change: two ticks and 50 ms.
LATE_SECONDS = 0.25
AGREE_WITHIN_SECONDS, AGREE_BUDGET_SECONDS = 120, 2
# People come and go in turn, so a list of old may be right for a moment.
AGREE_FOR_SECONDS = 1
# The part of the last quarter's memory that is more than the second quarter's.
FLAT_WITHIN = 0.05
GATHER_SECONDS, CHECK_SECONDS, NOTICE_SECONDS = 120, 120, 60
STAY_SECONDS = 6


def run(kind, options):
    """One outage; what was sampled in it and what it came to."""
    url = lambda port: f"ws://127.0.0.1:{port}"
    before_seconds = max(BEFORE_SECONDS, options.outage // 10)
    # Longer than all of it may take: they are told when it is over.
    seconds = GATHER_SECONDS + before_seconds + options.outage + NOTICE_SECONDS + AGREE_WITHIN_SECONDS
    duration = ["--duration", f"{seconds}s", "--warm-up", "0s", "--rooms", ROOMS]
    observers, members = options.users // 10, options.users * 3 // 10
    # All have come and gone two and a half times in the outage: what can wait then does, and those who are in at its end are not those
    # who were at its beginning. They stay long enough to be seen on a machine that stutters.
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
        # Where there is no CPU to notice it with, it takes longer.
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
    """All of the later half of the outage."""
    return all(any(one["degraded"]) for one in samples[len(samples) // 2:])


class Redis:
    """One that can be taken away and brought back."""

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.process, self.port = self.stack.enter_context(measure.redis())
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)  # One that is stopped does not end.
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
    deadline = time.monotonic() + GATHER_SECONDS
    # Those who come and go are some more or fewer at any moment.
    while min(measure.stats(port)["users"] for port in nodes) < users * 0.99:
        if time.monotonic() > deadline:
            raise measure.Failed(f"not all of {users} users are at both nodes: {[measure.stats(port)['users'] for port in nodes]}")
        time.sleep(0.2)


def sample(nodes, seconds, enough=lambda _: True):
    """What both nodes count, each second, for so long and until it is enough."""
    began, samples = time.monotonic(), []
    while (now := time.monotonic() - began) < seconds or not enough(samples):
        counted = [measure.stats(port) for port in nodes]
        samples.append({"at_s": round(now, 2), **{name: [one[name] for one in counted] for name in SAMPLED}})
        time.sleep(max(0, len(samples) * SAMPLE_SECONDS - (time.monotonic() - began)))
    return samples


def described(before, during):
    """Both nodes together."""
    memory = lambda samples: statistics.mean(sum(one["memory_bytes"]) for one in samples)
    quarter = max(1, len(during) // 4)
    second, last = memory(during[quarter:2 * quarter]), memory(during[-quarter:])
    return {"memory_before_bytes": memory(before), "memory_max_bytes": max(sum(one["memory_bytes"]) for one in during),
            "memory_growth_later": last / second - 1, "pending_max": max(sum(one["redis_pending"]) for one in during)}


def agree(nodes, late):
    """Seconds until both nodes show the same people and go on doing so, but for those who came or went a moment ago."""
    began, agreed = time.monotonic(), None
    first, second = (http.client.HTTPConnection("127.0.0.1", port, timeout=measure.ANSWER_SECONDS) for port in nodes)
    seen = [(time.monotonic(), members(first))]
    while time.monotonic() - began < AGREE_WITHIN_SECONDS:
        at = time.monotonic()
        other = members(second)
        seen.append((time.monotonic(), members(first)))
        # The latest that was complete long enough ago, and all since: who is in all of them must be shown, who is in none must not.
        old = [number for number, (taken, _) in enumerate(seen) if taken <= at - late]
        if old:
            del seen[:old[-1]]
            lists = [people for _, people in seen]
            if set.intersection(*lists) <= other <= set.union(*lists):
                agreed = agreed or at
                if at - agreed >= AGREE_FOR_SECONDS:
                    return agreed - began
            else:
                agreed = None
    missing, ghosts = set.intersection(*lists) - other, other - set.union(*lists)
    raise measure.Failed(f"the nodes do not agree after {AGREE_WITHIN_SECONDS} s: the second lacks {len(missing)} and has {len(ghosts)} too many, "
                         f"like {sorted(missing | ghosts)[:3]}")


def members(connection):
    """Everybody in all rooms, as one node says."""
    found = set()
    for room in (f"room-{number:05}" for number in range(ROOMS)):
        after = ""
        while after is not None:
            connection.request("GET", f"/v1/rooms/{room}/members?limit=1000{after and f'&after={after}'}")
            page = json.load(connection.getresponse())
            found.update((room, member["user"]) for member in page["members"])
            after = page.get("next")
    return found
