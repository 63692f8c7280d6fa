"""A snapshot that many environments go on from, as far as a fork can play one. Run as a script: prints JSON.

A fork differs from a snapshot in one thing that matters here: the process's id. OpenSSL notices a new one, and seeds
its generator anew; of a virtual machine that was copied, every copy has the same. So in each child, the OpenSSL that is
inside the cryptography wheel is told its parent's.
"""

import contextlib
import ctypes
import inspect
import json
import os
import struct
import sys
from pathlib import Path

import snapshot_restore_py
from cryptography.hazmat.bindings import _rust
from cryptography.hazmat.primitives.asymmetric import rsa

from softpos import aws, snapshot
from softpos.nexi import assertion
from softpos.nexi.client import Nexi
from softpos.nexi.jwks import EncryptionKey

READ_WRITE = 3
PAGE = 4096


def _relocations(elf: bytes, symbol: bytes) -> list[int]:
    """Where the addresses of an imported function are kept (ELF64, RELA)."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + index * size) for index in range(count)]
    found = []
    for _, kind, _, _, begin, length, link, *_ in sections:
        if kind == 4:
            symbols = sections[link]
            names = sections[symbols[6]][4]
            for at in range(begin, begin + length, 24):
                offset, info = struct.unpack_from("<QQ", elf, at)
                (name,) = struct.unpack_from("<I", elf, symbols[4] + (info >> 32) * 24)
                if elf[names + name :].split(b"\0", 1)[0] == symbol if name else False:
                    found.append(offset)
    return found


class Wheel:
    """The shared object that has OpenSSL in it."""

    def __init__(self) -> None:
        path = _rust.__file__
        self._slots = _relocations(Path(path).read_bytes(), b"getpid")
        lines = Path("/proc/self/maps").read_text().splitlines()
        self._base = min(int(line.split("-")[0], 16) for line in lines if line.endswith(path))
        if not self._slots:
            raise RuntimeError("the wheel does not ask for its process's id: this is no copy of it then")

    def keep_the_parents_id(self) -> None:
        """From here on, `getpid` is `getppid` for it."""
        libc = ctypes.CDLL(None)
        for slot in self._slots:
            address = self._base + slot
            page = address - address % PAGE
            if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * PAGE), READ_WRITE) != 0:
                raise RuntimeError("mprotect failed")
            ctypes.c_void_p.from_address(address).value = ctypes.cast(libc.getppid, ctypes.c_void_p).value


def sockets() -> list[str]:
    """This process's, as the kernel names them."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        # The one that the folder is read with is gone by now.
        with contextlib.suppress(OSError):
            links.append(str(descriptor.readlink()))
    return sorted(link for link in links if link.startswith("socket:"))


def main(restore: bool, children: int) -> None:
    """Initialise, be frozen, and have so many children go on: each seals an assertion and says what it holds open."""
    key = rsa.generate_private_key(65537, 2048)
    signer = assertion.certificate_signer(key)
    encryption_key = EncryptionKey("enc", key.public_key())
    connected: list[str] = []

    def build() -> None:
        # As bad as it can be: it has drawn randomness already, and has a connection.
        assertion.seal({"jti": "of the snapshot"}, signer, encryption_key)
        aws.client("dynamodb").list_tables()
        connected.extend(sockets())

    # As Lambda's runtime does it.
    snapshot.prepare(build)
    for function, arguments, named in reversed(snapshot_restore_py.get_before_snapshot()):
        function(*arguments, **named)
    frozen = sockets()
    wheel = Wheel()
    new_jti = inspect.signature(Nexi).parameters["new_jti"].default
    told = []
    for _ in range(children):
        reading, writing = os.pipe()
        if os.fork() == 0:
            wheel.keep_the_parents_id()
            if restore:
                for function, arguments, named in snapshot_restore_py.get_after_restore():
                    function(*arguments, **named)
            jti = new_jti()
            sealed = assertion.seal({"jti": jti}, signer, encryption_key)
            aws.client("dynamodb").list_tables()
            os.write(writing, json.dumps({"jti": jti, "sealed": sealed, "sockets": sockets()}).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as child:
            told.append(json.loads(child.read()))
        os.wait()
    numbers = key.private_numbers()
    public = {"n": numbers.public_numbers.n, "d": numbers.d}
    json.dump({"connected": connected, "frozen": frozen, "children": told, **public}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1] == "restore", int(sys.argv[2]))
