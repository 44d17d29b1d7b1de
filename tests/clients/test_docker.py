"""The Dockerfile and compose.yaml: the files that they copy and their commands, tested outside of a container.

If a container engine runs, the image is built and run as well.
"""
import json, os, re, shutil, signal, subprocess, unittest

import yaml
from harness import BINARY, Case, DEADLINE, ENVIRONMENT, PACKAGES, ROOT, USAGE, accepts, free_port, is_ready, wait_until

BUILD_SECONDS = 1800


def stages():
    """The instructions of each stage of the Dockerfile with their arguments, without comments and with continued lines
    joined. The last stage has no name."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = {}
    for name, words in (line.split(maxsplit=1) for line in text.splitlines() if line.strip()):
        if name == "FROM":
            stage = found[words.partition(" AS ")[2]] = []
        stage.append((name, words))
    return found


def arguments(name, stage=""):
    return [text for found, text in stages()[stage] if found == name]


def dockerfile_environment(stage=""):
    return dict(text.split("=", 1) for text in arguments("ENV", stage))


def copied():
    """The files and folders that the Dockerfile copies from the project."""
    copies = [text for stage in stages() for text in arguments("COPY", stage)]
    return [source for text in copies if not text.startswith("--from") for source in text.split()[:-1]]


def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def engine_runs():
    docker = shutil.which("docker")
    return docker and subprocess.run([docker, "info"], capture_output=True, timeout=DEADLINE).returncode == 0


# A process of its own user and process namespaces, as in a container.
CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_contain():
    return all(map(shutil.which, ["unshare", "nsenter"])) and subprocess.run([*CONTAINER, "true"]).returncode == 0


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
                (context / source).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, context / source)
        (command,) = re.findall(r"cargo build --release.*?(?=&&)", " ".join(arguments("RUN", "build")))
        # `cargo check` instead of a build. The lints have downloaded and checked the dependencies.
        check = command.replace("cargo build --release", "cargo check --offline --quiet").split()
        target = os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"
        done = subprocess.run(check, cwd=context, env={**ENVIRONMENT, "CARGO_TARGET_DIR": str(target)}, timeout=BUILD_SECONDS,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_compiler_is_new_enough_and_both_stages_have_the_same_c_library(self):
        build, runtime = (arguments("FROM", stage)[0].split()[0] for stage in ("build", ""))
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

    def test_the_image_without_a_distribution_is_used_like_the_other_one(self):
        for name in "ENV", "USER", "EXPOSE", "STOPSIGNAL":
            self.assertEqual(arguments(name, "minimal"), arguments(name), name)
        for name in "HEALTHCHECK", "ENTRYPOINT":
            expected = [text.replace('["rollcall"', '["/usr/local/bin/rollcall"') for text in arguments(name)]
            self.assertEqual(arguments(name, "minimal"), expected)
        # tests/packages/test_image.py runs the server with these files.
        self.assertEqual(arguments("FROM", "minimal"), ["scratch AS minimal"])
        self.assertEqual(arguments("COPY", "minimal"), ["--from=files /root-files /"])
        self.assertEqual(arguments("RUN", "files"), ["./root-files /usr/local/bin/rollcall /root-files"])

    def test_the_image_is_not_open_and_says_how_to_run_it(self):
        self.assertNotIn("OPEN", (ROOT / "Dockerfile").read_text().replace("# Never ROLLCALL_OPEN", "").replace("-e ROLLCALL_OPEN=1", ""))
        done = subprocess.run([BINARY], env={**ENVIRONMENT, **dockerfile_environment()}, timeout=DEADLINE,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 64, done.stderr)
        for command in "-p 127.0.0.1:8000:8000 -e ROLLCALL_OPEN=1", "ROLLCALL_JWT_SECRET_FILE":
            self.assertIn(command, done.stderr)

    def test_the_open_services_are_published_on_this_machine_only(self):
        services = compose()["services"]
        for service in services.values():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), port)
        (network,) = compose()["networks"]["default"]["ipam"]["config"]
        for service in services.values():
            if service.get("image") == "rollcall":
                self.assertEqual(service["command"], ["--open", "--trust-proxy", network["subnet"]])

    def test_the_example_for_production_starts_with_its_files_and_serves_nobody_without_a_token_or_a_key(self):
        text = (ROOT / "compose.tokens.yaml").read_text()
        example = yaml.safe_load(text)
        service, folder = example["services"]["rollcall"], self.folder()
        self.assertEqual(set(service["secrets"]), set(example["secrets"]))
        self.assertEqual(service["ports"], ["443:" + arguments("EXPOSE")[0]], "only the public port is published")
        self.assertLessEqual(set(service["environment"]), set(re.findall(r"ROLLCALL_\w+", USAGE)))
        self.assertLessEqual(set(service["depends_on"]), set(example["services"]))
        self.assertEqual(example["services"]["redis"], compose()["services"]["redis"])
        self.assertNotIn("--open", service["command"])
        (folder / "jwt-secret").write_text("the secret of the application in this test\n")
        (folder / "api-key").write_text("an api key for this test\n")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
                        "-keyout", folder / "tls-key", "-out", folder / "tls-cert"], check=True, capture_output=True)
        public, internal = free_port(), free_port()
        command = [word.replace("/run/secrets", str(folder)).replace("0.0.0.0:9100", f"127.0.0.1:{internal}")
                   for word in service["command"]]
        self.program(BINARY, *command, env={**ENVIRONMENT, "ROLLCALL_LISTEN": f"127.0.0.1:{public}"})
        wait_until("the server", lambda: is_ready(f"http://127.0.0.1:{internal}"))

        def status(path, *headers):
            words = [word for header in headers for word in ("-H", header)]
            return subprocess.run(["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", *words,
                                   f"https://127.0.0.1:{public}{path}"], capture_output=True, text=True).stdout
        self.assertEqual((status("/v1/rooms"), status("/metrics")), ("401", "401"))
        self.assertEqual(status("/v1/rooms", "Authorization: Bearer an api key for this test"), "200")

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

    @unittest.skipUnless(can_contain(), "this user cannot create process namespaces")
    def test_the_health_check_asks_at_the_address_that_is_a_flag_of_the_main_process(self):
        port = free_port()
        server = [BINARY, "--listen", f"127.0.0.1:{port}", "--workers", "1"]
        # As the main process, and below a small init.
        for command in server, ["sh", "-c", '"$0" "$@" & wait', *server]:
            wait_until("a free port", lambda: not accepts(port))
            container = self.program(*CONTAINER, *command)
            container.expect("the address", lambda line: " http://" in line)
            pid = container.child.pid
            with open(f"/proc/{pid}/task/{pid}/children") as children:
                (main,) = children.read().split()
            check = ["nsenter", "--target", main, "--user", "--preserve-credentials", "--pid", "--mount", BINARY, "health"]
            # The variable of the image, which the flag overrides.
            environment = {**ENVIRONMENT, "ROLLCALL_LISTEN": "127.0.0.1:1"}

            def answer():
                return subprocess.run(check, capture_output=True, text=True, timeout=DEADLINE, env=environment)
            wait_until(lambda: answer(), lambda: answer().returncode == 0)
            container.stop(signal.SIGKILL)

    @unittest.skipUnless(engine_runs(), "no container engine runs here")
    def test_the_image_is_built_and_runs(self):
        subprocess.run(["docker", "build", "--quiet", "--tag", "rollcall-test", ROOT], check=True, timeout=BUILD_SECONDS,
                       env={**os.environ, "DOCKER_BUILDKIT": "1"})
        port = free_port()
        run = ["docker", "run", "--detach", "--rm", "--publish", f"127.0.0.1:{port}:8000", "--env", "ROLLCALL_OPEN=1",
               "rollcall-test"]
        container = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
        self.addCleanup(subprocess.run, ["docker", "stop", container], capture_output=True)
        state = ["docker", "inspect", "--format", "{{.State.Health.Status}}", container]
        wait_until("health", lambda: subprocess.run(state, capture_output=True, text=True).stdout.strip() == "healthy")
        wait_until("a ready server", lambda: is_ready(f"http://127.0.0.1:{port}"))
