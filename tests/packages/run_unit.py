"""Runs ExecStart of a systemd unit in a root folder, as systemd would: run_unit.py ROOT UNIT.

Applies what decides whether the program works: the user, capabilities, limits, variables, credentials, read-only files
and the filter of system calls. Start it in its own mount namespace (`unshare --mount`). The process becomes the service.
"""
import contextlib, ctypes, os, pathlib, pwd, re, resource, shlex, stat, subprocess, sys

import pyseccomp

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 24, 38, 47, 2
CAPABILITY_VERSION = 0x20080522
CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10}
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
PROT_WRITE, PROT_EXEC = 2, 4


def settings(unit):
    """The values of each key in [Service], in order: of the unit, then of its drop-ins."""
    found, section = {}, None
    for file in [unit, *sorted(pathlib.Path(f"{unit.parents[4]}/etc/systemd/system/{unit.name}.d").glob("*.conf"))]:
        for line in re.sub(r"\\\n", " ", file.read_text()).splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and line[0] not in "#;":
                key, value = line.split("=", 1)
                found.setdefault(key, []).append(value)
    return found


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def variables(unit, root, user):
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8", "USER": user.pw_name}
    credentials = root / "run/credentials/rollcall.service"
    for value in unit.get("LoadCredential", []):
        name, source = value.split(":", 1)
        credentials.mkdir(parents=True, exist_ok=True)
        (credentials / name).write_bytes((root / source.lstrip("/")).read_bytes())
        os.chown(credentials / name, user.pw_uid, user.pw_gid)
        os.chmod(credentials / name, stat.S_IRUSR)
        environment["CREDENTIALS_DIRECTORY"] = "/run/credentials/rollcall.service"
    for value in unit.get("Environment", []):
        for assignment in shlex.split(value):
            name, text = assignment.split("=", 1)
            environment[name] = text.replace("%d", "/run/credentials/rollcall.service")
    for file in unit.get("EnvironmentFile", []):
        path = root / file.lstrip("-/")
        if path.exists() or not file.startswith("-"):
            lines = [line for line in path.read_text().splitlines() if line.strip() and line[0] not in "#;"]
            environment.update(line.split("=", 1) for line in lines)
    return environment


def read_only(unit, root, user):
    """ProtectSystem=strict and ProcSubset=pid: only the folder for logs can be written."""
    assert unit["ProtectSystem"] == ["strict"] and unit["ProcSubset"] == ["pid"]
    mount("--bind", root, root)
    folders = [root / "var/log" / name for name in unit["LogsDirectory"]]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        os.chown(folder, user.pw_uid, user.pw_gid)
        folder.chmod(int(unit["LogsDirectoryMode"][0], 8))
        mount("--bind", folder, folder)
    mount("-o", "remount,bind,ro", root)
    mount("-t", "proc", "-o", "subset=pid,hidepid=invisible", "proc", root / "proc")


def system_calls(values):
    """The names that the lists of SystemCallFilter= allow, as systemd-analyze knows them."""
    text = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter"], check=True, capture_output=True, text=True).stdout
    sets = {}
    for line in text.splitlines():
        if line.startswith("@"):
            members = sets[line.strip()] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())

    def expanded(name):
        return {call for member in sets[name] for call in expanded(member)} if name.startswith("@") else {name}
    allowed = expanded("@default")
    for value in values:
        calls = {call for name in value.lstrip("~").split() for call in expanded(name)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def exists(call):
    """False for calls of other architectures, and for those that the library does not know."""
    try:
        return pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call) >= 0
    except (ValueError, OSError):
        return False


def system_call_filter(unit):
    """Also as MemoryDenyWriteExecute= and RestrictAddressFamilies= restrict the arguments of calls."""
    assert unit["SystemCallErrorNumber"] == ["EPERM"] and unit["MemoryDenyWriteExecute"] == ["yes"]
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(1))
    without = lambda argument, bits: pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, bits, 0)
    conditions = {
        "socket": [pyseccomp.Arg(0, pyseccomp.EQ, FAMILIES[name]) for name in unit["RestrictAddressFamilies"][0].split()],
        "mprotect": [without(2, PROT_EXEC)], "pkey_mprotect": [without(2, PROT_EXEC)],
        "mmap": [without(2, PROT_EXEC), without(2, PROT_WRITE)],
    }
    for call in system_calls(unit["SystemCallFilter"]):
        if not exists(call):
            continue
        for condition in conditions.get(call, [None]):
            rules.add_rule(pyseccomp.ALLOW, call, *([condition] if condition else []))
    return rules


def drop_privileges(unit, user):
    kept = [CAPABILITIES[name] for name in unit["AmbientCapabilities"][0].split()]
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] and unit["NoNewPrivileges"] == ["yes"]
    for number in set(range(int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1)) - set(kept):
        checked(LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    checked(LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))

    def become():  # after chroot
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        bits = sum(1 << number for number in kept)
        checked(LIBC.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)))
        for number in kept:
            checked(LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0))
        checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return become


def raise_limit(files):
    """In some containers root may not raise its own hard limit, which systemd can."""
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def main(root, file):
    unit = settings(root / file.relative_to("/"))
    fields = next(line.split(":") for line in (root / "etc/passwd").read_text().splitlines()
                  if line.startswith(unit["User"][0] + ":"))
    user = pwd.struct_passwd((*fields[:2], int(fields[2]), int(fields[3]), *fields[4:]))
    environment = variables(unit, root, user)
    rules = system_call_filter(unit)
    raise_limit(int(unit["LimitNOFILE"][0]))
    read_only(unit, root, user)
    become = drop_privileges(unit, user)
    os.chroot(root)
    os.chdir("/")
    os.umask(int(unit["UMask"][0], 8))
    become()
    rules.load()
    (command,) = unit["ExecStart"]
    words = shlex.split(command)
    os.execve(words[0], words, environment)


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
