"""Lambda SnapStart: one initialised environment is frozen, and many go on from that same moment.

What they must not go on with is the same randomness. The kernel's is Lambda's to keep apart, and with it `os.urandom`
and `uuid`; but OpenSSL draws from a generator of its own, seeded in the process's memory. The one in Lambda's runtime
is AWS's concern, the one inside the `cryptography` wheel is ours: without a new seed, every environment of a snapshot
would begin with the same OAEP seeds.
"""

import os
import ssl
from collections.abc import Callable

from softpos import aws

SEED_BYTES = 32


def prepare(build: Callable[[], object]) -> None:
    """Have `build` called before Lambda takes the snapshot: what it makes and imports is in every copy.

    It may connect to nothing that matters later: connections are dropped, before the snapshot and after it. Where no
    snapshot is taken, nothing is built and nothing costs.
    """
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:
        # Lambda's own runtime brings it.
        return
    register_before_snapshot(_freeze, build)
    register_after_restore(_thaw)


def _freeze(build: Callable[[], object]) -> None:
    build()
    aws.drop_connections()


def _thaw() -> None:
    # Imported where it is used: there is one in ssl, too, for another OpenSSL.
    from cryptography.hazmat.bindings.openssl.binding import Binding

    Binding.lib.RAND_add(os.urandom(SEED_BYTES), SEED_BYTES, SEED_BYTES)
    ssl.RAND_add(os.urandom(SEED_BYTES), SEED_BYTES)
    aws.drop_connections()
