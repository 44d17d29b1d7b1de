"""A fresh machine for packages: a root folder in which the package is installed and its service started.

Its files are those of this machine's Debian, or of the root folder that the variable PACKAGES_ROOT names. What it
changes is kept in memory, and is gone when the tests end: they run in their own mount namespace.
"""
import os, pathlib, re, shlex, subprocess, sys, tempfile

from harness import DEADLINE, free_port, is_ready

HERE = pathlib.Path(__file__).resolve().parent
LOWER = os.environ.get("PACKAGES_ROOT", "/")
UNIT = pathlib.Path("/usr/lib/systemd/system/rollcall.service")
# What dpkg and the programs that it runs write for any package.
OF_DPKG = re.compile(r"/(var/(lib/(dpkg|systemd|apt)|log/(dpkg|alternatives|apt)|cache/(man|debconf|ldconfig))|dev|proc|tmp"
                     r"|run/(lock|adduser))\b"
                     r"|/etc/(\.pwd\.lock|ld\.so\.cache|(passwd|group|shadow|gshadow|subuid|subgid)-?)$")


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


class Machine:
    def __init__(self, case):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="rollcall-machine-"))
        case.addCleanup(folder.rmdir)
        mount("-t", "tmpfs", "tmpfs", folder)
        case.addCleanup(subprocess.run, ["umount", "--recursive", "--lazy", folder], check=True)
        self.case, self.port, self.program = case, free_port(), None
        self.upper, self.root = folder / "upper", folder / "root"
        for path in self.upper, self.root, folder / "work":
            path.mkdir()
        mount("-t", "overlay", "-o", f"lowerdir={LOWER},upperdir={self.upper},workdir={folder / 'work'}", "overlay", self.root)
        mount("--bind", "/dev", self.root / "dev")
        mount("-t", "proc", "proc", self.root / "proc")

    def path(self, name):
        return self.root / name.lstrip("/")

    def run(self, *command, **options):
        """Runs a command as root, and returns its output."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["chroot", self.root, *command], env=environment, timeout=DEADLINE, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def install(self, package):
        name = self.path("/tmp") / package.name
        name.write_bytes(package.read_bytes())
        self.run("dpkg", "--install", f"/tmp/{package.name}")
        name.unlink()

    def set_variables(self, **variables):
        """As an operator edits the file."""
        with open(self.path("/etc/default/rollcall"), "a") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())

    def start(self):
        """Starts the service, as systemd does, and waits until it is ready."""
        runner = ["unshare", "--mount", sys.executable, "-u", HERE / "run_unit.py", self.root, UNIT]
        self.program = self.case.program(*runner)
        self.program.expect("the address", lambda line: " http://" in line or " https://" in line)
        return self.program

    @property
    def http(self):
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self):
        return is_ready(self.http)

    def stop(self):
        return self.program.stop()

    def process(self):
        """What the kernel says about the process of the service."""
        text = pathlib.Path(f"/proc/{self.program.child.pid}/status").read_text()
        return dict(re.findall(r"^(\w+):\s+(.*)$", text, re.MULTILINE))

    def limits(self):
        return pathlib.Path(f"/proc/{self.program.child.pid}/limits").read_text()

    def setting(self, key):
        (value,) = re.findall(rf"^{key}=(.*)$", self.path(str(UNIT)).read_text(), re.MULTILINE)
        return value

    def reload(self):
        command = self.setting("ExecReload").replace("$MAINPID", str(self.program.child.pid))
        subprocess.run(shlex.split(command), check=True)

    def changes(self):
        """The files and folders that differ from the fresh machine, without those of dpkg itself."""
        paths = {f"/{path.relative_to(self.upper)}": path for path in self.upper.rglob("*")}
        existed = lambda name: os.path.isdir(LOWER + name)
        return {name for name, path in paths.items() if not OF_DPKG.match(name) and not (path.is_dir() and existed(name))}
