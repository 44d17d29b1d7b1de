"""Shared by the tests of the OpenAPI document: servers, and runs of PyPI schemathesis, which sends requests that the
document allows or forbids to a running server and compares each answer with it.

Variables: OPENAPI_EXAMPLES is the number of random cases per operation, OPENAPI_SECONDS makes each of the five runs
continue for that time, and OPENAPI_SEED chooses other cases.
"""
import os, re, subprocess, sys

from harness import DEADLINE, ENVIRONMENT, HERE, Case, is_ready, wait_until

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", 5))
SECONDS = os.environ.get("OPENAPI_SECONDS")
# The same cases in each run of scripts/test. scripts/judges takes others each time.
SEED = os.environ.get("OPENAPI_SEED", "1")
API_KEY = "the-api-key-of-these-tests"
JWT_SECRET, APP_SECRET = "the secret of the application in these tests", "the-secret-of-an-application"
# No limits per address apply to 127.0.0.1.
FLAGS = ["--pages", "client", "--log", "error"]
CLOSED = ["--api-key", API_KEY, "--jwt-secret", JWT_SECRET, "--pusher-app", f"1:app-key:{APP_SECRET},client-messages"]
# Invalid data may also be too long (413, 431), or not be looked at because the request is not a handshake (426).
CONFIG = """
[parameters]
"path.app" = 1
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 413, 422, 426, 429, 431, 503]
# A server that gets no CPU for two seconds is not ready.
[[operations]]
include-path = "/readyz"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]
"""
PUSHER = "Pusher HTTP API"
WEBSOCKETS = "WebSockets"


class OpenApiCase(Case):
    def run_schemathesis(self, server, auth, *options):
        """Sends thousands of requests. Returns the number of cases."""
        folder = self.folder()
        config = folder / "schemathesis.toml"
        config.write_text(CONFIG)
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
                   f"{server.http}/openapi.json", "--url", server.http, "--phases", "examples,coverage,fuzzing",
                   "--max-examples", str(EXAMPLES), "--seed", SEED, "--no-color", "--no-shrink", "--warnings", "off",
                   "--continue-on-failure", "--generation-database", "none",
                   "--exclude-checks", "negative_data_rejection",
                   "--generation-with-security-parameters", "false",
                   # A busy machine is slow, not wrong.
                   "--request-timeout", str(DEADLINE), "--suppress-health-check", "too_slow", *options]
        if SECONDS:
            command += ["--max-time", SECONDS]
        if auth not in ("none", "signature"):
            command += ["-H", f"Authorization: Bearer {auth}"]
        environment = {**ENVIRONMENT, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(HERE / "programs"),
                       "OPENAPI_AUTH": auth, "OPENAPI_SECRET": APP_SECRET, "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, f"{' '.join(command)}\n{run.stdout[-20_000:]}\n{run.stderr[-5_000:]}")
        count = int(re.search(r"([\d,]+) generated", run.stdout)[1].replace(",", ""))
        print(f"{count} cases with seed {SEED}: {' '.join(options)}", flush=True)
        return count

    def assert_alive(self, server):
        wait_until("a ready server", lambda: is_ready(server.http))
