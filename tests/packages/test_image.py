"""The image without a distribution: a server that has only the files of this image, as a user without privileges.

deploy/image/root-files makes the files, as in the Dockerfile. The root folder is read-only, as with `--read-only`.
"""
import json, os, pathlib, re, signal, socket, struct, subprocess, tempfile, threading

from harness import BINARY, Case, DEADLINE, ROOT, free_port, is_ready, wait_until
from machine import mount

USER = "65532:65532"
PROGRAM = "/usr/local/bin/rollcall"
# The files of glibc that resolve names and load programs; the third line is the program itself.
FILES = r"/(lib64|lib(/[\w-]+)?)/(ld-linux[\w-]*|libc|libm|libgcc_s)\.so\.\d+|/etc/nsswitch\.conf" \
    rf"|{PROGRAM}|/etc/ssl/certs/ca-certificates\.crt"
# Not the address of a resolver that may run here.
NAME_SERVER = ("127.0.0.99", 53)
TYPE_A = 1


class NameServer:
    """Answers all questions for addresses with 127.0.0.1, and other questions with nothing."""

    def __init__(self, case):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(NAME_SERVER)
        self.names = set()
        threading.Thread(target=self.run, daemon=True).start()
        case.addCleanup(self.socket.close)

    def run(self):
        while True:
            try:
                query, sender = self.socket.recvfrom(512)
            except OSError:
                return
            end = query.index(0, 12)
            (kind,) = struct.unpack_from("!H", query, end + 1)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            self.names.add(".".join(labels))
            answer = struct.pack("!HHHIH4s", 0xC00C, TYPE_A, 1, 60, 4, socket.inet_aton("127.0.0.1")) if kind == TYPE_A else b""
            header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, bool(answer), 0, 0)
            self.socket.sendto(header + query[12:end + 5] + answer, sender)


class Image(Case):
    def image(self):
        root = pathlib.Path(tempfile.mkdtemp(prefix="rollcall-image-"))
        self.addCleanup(root.rmdir)
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
        self.addCleanup(subprocess.run, ["umount", "--recursive", "--lazy", root], check=True)
        subprocess.run([ROOT / "deploy/image/root-files", BINARY, root], check=True)
        return root

    def serve(self, root, *flags):
        """Starts the server in its own process namespace, as a container engine does."""
        for folder in "proc", "dev":
            (root / folder).mkdir(exist_ok=True)
        (root / "etc/hosts").write_text("127.0.0.1 localhost redis-in-hosts\n")
        (root / "etc/resolv.conf").write_text(f"nameserver {NAME_SERVER[0]}\n")
        mount("-o", "remount,ro", root)
        self.addCleanup(mount, "-o", "remount,rw", root)
        port = free_port()
        namespaces = ["unshare", "--pid", "--fork", "--mount", f"--mount-proc={root}/proc"]
        command = ["setpriv", "--no-new-privs", "--bounding-set=-all,+sys_chroot,+setuid,+setgid",
                   "/usr/sbin/chroot", f"--userspec={USER}", root, PROGRAM]
        server = self.program(*namespaces, *command, "--listen", f"localhost:{port}", "--workers", "1", *flags, env={})
        self.addCleanup(self.kill, server)
        return server, port

    @staticmethod
    def main_process(server):
        with open(f"/proc/{server.child.pid}/task/{server.child.pid}/children") as children:
            return [int(child) for child in children.read().split()]

    def kill(self, server):
        """Ends the server itself, which is a child of the started program."""
        for process in self.main_process(server) if server.child.poll() is None else []:
            os.kill(process, signal.SIGKILL)

    def test_it_has_the_program_its_libraries_and_certificates_only(self):
        root = self.image()
        files = [f"/{path.relative_to(root)}" for path in root.rglob("*") if not path.is_dir()]
        self.assertEqual([name for name in files if not re.fullmatch(FILES, name)], [])
        self.assertIn(PROGRAM, files)

    def test_it_serves_as_a_user_without_privileges_and_is_healthy(self):
        root = self.image()
        server, port = self.serve(root)
        server.expect("the address", lambda line: f":{port}" in line and "http://" in line)
        wait_until("a ready server", lambda: is_ready(f"http://127.0.0.1:{port}"))
        (main,) = self.main_process(server)
        status = pathlib.Path(f"/proc/{main}/status").read_text()
        self.assertRegex(status, r"Uid:\t65532\t65532\t65532\t65532\n")
        self.assertRegex(status, r"CapEff:\t0+\n")
        (health,) = re.findall(r"^HEALTHCHECK .*CMD (\[\"/.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        enter = ["nsenter", "--target", str(main), "--pid", "--mount", "/usr/sbin/chroot", f"--userspec={USER}", root, *json.loads(health)]
        # The variable of the image, which the flag of the main process overrides.
        healthy = lambda: subprocess.run(enter, capture_output=True, text=True, timeout=DEADLINE,
                                         env={"ROLLCALL_LISTEN": "127.0.0.1:1"})
        # It gives up after three seconds, and the server may get no CPU for that time.
        wait_until(lambda: f"a healthy server: {healthy().stderr}", lambda: healthy().returncode == 0)
        os.kill(main, signal.SIGTERM)
        self.assertEqual(server.child.wait(DEADLINE), 0, server.text())

    def test_it_resolves_names_with_the_hosts_file_and_with_dns(self):
        redis, names = self.redis(), NameServer(self)
        for host in "redis-in-hosts", "redis.in-dns.test":
            server, port = self.serve(self.image(), "--redis", f"redis://{host}:{redis}")
            server.expect("the address", lambda line: f":{port}" in line and "http://" in line)
            wait_until("a ready server", lambda: is_ready(f"http://127.0.0.1:{port}"))
        self.assertEqual(names.names, {"redis.in-dns.test"}, "the hosts file comes first")

    def test_it_verifies_certificates_with_those_of_the_image(self):
        folder, port = self.folder(), free_port()
        key, certificate = folder / "key.pem", folder / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=redis-in-hosts", "-addext", "subjectAltName=DNS:redis-in-hosts",
                        "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate],
                       check=True, capture_output=True)
        redis = self.program("redis-server", "--port", "0", "--tls-port", port, "--bind", "127.0.0.1", "--save", "", "--tls-cert-file",
                             certificate, "--tls-key-file", key, "--tls-auth-clients", "no", "--tls-ca-cert-file", certificate, cwd=folder)
        redis.expect("a start", lambda line: "Ready to accept connections" in line)
        flags = ["--redis", f"rediss://redis-in-hosts:{port}"]
        server, _ = self.serve(self.image(), *flags)
        server.expect("a refusal", lambda line: "certificate" in line.lower())
        server.child.wait(DEADLINE)
        self.assertEqual(server.child.returncode, 69, server.text())
        root = self.image()
        with open(root / "etc/ssl/certs/ca-certificates.crt", "a") as trusted:
            trusted.write(certificate.read_text())
        server, http = self.serve(root, *flags)
        server.expect("the address", lambda line: f":{http}" in line and "http://" in line)
        wait_until("a ready server", lambda: is_ready(f"http://127.0.0.1:{http}"))
