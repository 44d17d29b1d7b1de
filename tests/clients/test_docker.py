"""The Dockerfile and compose.yaml: the files that they copy and their commands, tested outside of a container.

If a container engine runs, the image is built and run as well.
"""
import json, os, re, shutil, subprocess, unittest

import yaml
from harness import BINARY, Case, DEADLINE, ENVIRONMENT, PACKAGES, ROOT, USAGE, accepts, free_port, get_json, wait_until

BUILD_SECONDS = 1800


def instructions():
    """Each instruction of the Dockerfile with its arguments, without comments and with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments(name):
    return [text for found, text in instructions() if found == name]


def dockerfile_environment():
    return dict(text.split("=", 1) for text in arguments("ENV"))


def copied():
    """The files and folders that the Dockerfile copies from the project."""
    return [source for text in arguments("COPY") if not text.startswith("--from") for source in text.split()[:-1]]


def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def engine_runs():
    docker = shutil.which("docker")
    return docker and subprocess.run([docker, "info"], capture_output=True, timeout=DEADLINE).returncode == 0


class Docker(Case):
    def test_the_copied_files_are_all_that_the_build_needs(self):
        # Always the same folder, since cargo keeps separate results per folder.
        context = PACKAGES / "context"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        lines = (ROOT / ".dockerignore").read_text().split("\n")
        allowed = {line[1:] for line in lines if line.startswith("!")}
        self.assertIn("*", lines)
        self.assertEqual(allowed, set(copied()))
        ignored = {str(ROOT / line) for line in lines if line and line[0] not in "#!*"}
        for source in copied():
            if (ROOT / source).is_dir():
                skip = lambda folder, names: [name for name in names if os.path.join(folder, name) in ignored]
                shutil.copytree(ROOT / source, context / source, ignore=skip)
            else:
                shutil.copy(ROOT / source, context / source)
        (command,) = re.findall(r"cargo build --release.*?(?=&&)", " ".join(arguments("RUN")))
        # `cargo check` instead of a build. The lints have downloaded and checked the dependencies.
        check = command.replace("cargo build --release", "cargo check --offline --quiet").split()
        target = os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"
        done = subprocess.run(check, cwd=context, env={**ENVIRONMENT, "CARGO_TARGET_DIR": str(target)}, timeout=BUILD_SECONDS,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_compiler_is_new_enough_and_both_stages_have_the_same_c_library(self):
        build, runtime = (text.split()[0] for text in arguments("FROM"))
        (version, debian) = re.fullmatch(r"rust:([\d.]+)-slim-(\w+)", build).groups()
        self.assertEqual(runtime, f"debian:{debian}-slim")
        self.assertIn(f'rust-version = "{version}"', (ROOT / "Cargo.toml").read_text())

    def test_the_entry_point_and_the_health_check(self):
        (entry,), (health,) = arguments("ENTRYPOINT"), arguments("HEALTHCHECK")
        health = json.loads(health.split("CMD", 1)[1])
        self.assertEqual((json.loads(entry), health[0]), (["rollcall"], "rollcall"))
        self.assertIn("--from=build /usr/local/bin/rollcall /usr/local/bin/rollcall", arguments("COPY"))
        self.assertNotIn(arguments("USER")[0].split(":")[0], ["root", "0"])
        listen = dockerfile_environment()["ROLLCALL_LISTEN"]
        host, port = listen.rsplit(":", 1)
        self.assertEqual((host, arguments("EXPOSE")), ("0.0.0.0", [port]))
        # Not on all interfaces, and on a free port.
        environment = {**ENVIRONMENT, **dockerfile_environment(), "ROLLCALL_LISTEN": f"127.0.0.1:{free_port()}"}

        def healthy():
            return subprocess.run([BINARY, *health[1:]], env=environment, timeout=DEADLINE, capture_output=True).returncode == 0
        self.assertFalse(healthy())
        server = self.program(BINARY, env=environment)
        wait_until("a healthy server", healthy)
        self.assertEqual(server.stop(), 0, "the stop signal of a container ends the server cleanly")
        self.assertEqual(arguments("STOPSIGNAL"), ["SIGTERM"])
        self.assertFalse(healthy())

    def test_the_server_knows_all_variables(self):
        names = set(dockerfile_environment())
        for service in compose()["services"].values():
            names |= set(service.get("environment", {}))
        self.assertLessEqual(names, set(re.findall(r"ROLLCALL_\w+", USAGE)))

    def test_the_services_fit_together(self):
        services = compose()["services"]
        proxied = re.findall(r"server (node\d):(\d+)", (ROOT / "docs/nginx.conf").read_text())
        nodes = [name for name, service in services.items() if service.get("image") == "rollcall"]
        self.assertEqual(proxied, [(node, arguments("EXPOSE")[0]) for node in nodes])
        for service in services.values():
            self.assertLessEqual(set(service.get("depends_on", {})), set(services))
            for volume in service.get("volumes", []):
                self.assertTrue((ROOT / volume.split(":")[0]).exists(), volume)
        for name in nodes:
            redis = services[name]["environment"]["ROLLCALL_REDIS"]
            self.assertIn(re.fullmatch(r"redis://(\w+):6379", redis).group(1), services)

    def test_redis_starts_and_its_health_check_finds_it(self):
        redis, port = compose()["services"]["redis"], str(free_port())
        self.program(*redis["command"], "--port", port, "--bind", "127.0.0.1", cwd=self.folder())
        wait_until("Redis", lambda: accepts(int(port)))
        kind, program, *words = redis["healthcheck"]["test"]
        self.assertEqual(kind, "CMD")
        done = subprocess.run([program, "-p", port, *words], capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual(done.stdout, "PONG\n")

    @unittest.skipUnless(engine_runs(), "no container engine runs here")
    def test_the_image_is_built_and_runs(self):
        subprocess.run(["docker", "build", "--quiet", "--tag", "rollcall-test", ROOT], check=True, timeout=BUILD_SECONDS,
                       env={**os.environ, "DOCKER_BUILDKIT": "1"})
        port = free_port()
        run = ["docker", "run", "--detach", "--rm", "--publish", f"127.0.0.1:{port}:8000", "rollcall-test"]
        container = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
        self.addCleanup(subprocess.run, ["docker", "stop", container], capture_output=True)
        state = ["docker", "inspect", "--format", "{{.State.Health.Status}}", container]
        wait_until("health", lambda: subprocess.run(state, capture_output=True, text=True).stdout.strip() == "healthy")
        self.assertEqual(get_json(f"http://127.0.0.1:{port}/readyz"), {"status": "ok"})
